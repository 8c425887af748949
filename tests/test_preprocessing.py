"""The preprocessing contract against Pillow and torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import v2

from reslab.pictures.preprocessing import Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def contract(**fields) -> Preprocessing:
    plain = {"size": (96, 96), "channels": 3, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return Preprocessing.model_validate(plain | fields)


def random_pixels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (1, 3, height, width), dtype=np.uint8))


def as_image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("source", [(32, 32), (130, 171), (400, 99)])
def test_squash_is_pillows_resize(interpolation, source):
    pixels = random_pixels(*source)
    found = contract(interpolation=interpolation).fit(pixels)[0].permute(1, 2, 0).numpy()
    expected = np.asarray(as_image(pixels).resize((96, 96), RESAMPLING[interpolation]))
    difference = np.abs(found.astype(int) - expected.astype(int))
    # Noise is the worst case: Pillow and torch round the filter's weights differently.
    assert difference.max() <= (1 if interpolation == "bilinear" else 8)
    assert difference.mean() < 0.3


@pytest.mark.parametrize("source", [(300, 400), (513, 256), (200, 201), (255, 383)])
def test_crop_is_torchvisions_resize_and_centre_crop(source):
    pixels = random_pixels(*source)
    found = contract(size=224, mode="crop", crop_fraction=0.875).fit(pixels)
    expected = v2.CenterCrop(224)(v2.Resize(256, antialias=True)(pixels))
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= 1


def test_letterbox_keeps_the_aspect_and_pads_with_the_mean():
    pixels = torch.full((1, 3, 50, 100), 200, dtype=torch.uint8)
    found = contract(mode="letterbox", mean=(0.5, 0.5, 0.5)).fit(pixels)
    assert found.shape == (1, 3, 96, 96)
    assert found[0, 0, 0].unique().tolist() == [128]
    assert found[0, 0, 48].unique().tolist() == [200]
    assert int((found[0, 0, :, 0] == 200).sum()) == 48


def test_a_picture_does_not_depend_on_its_batch():
    batch = torch.cat([random_pixels(40, 60, seed) for seed in range(9)])
    record = contract(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    whole = record(batch)
    for row in range(9):
        assert torch.equal(record(batch[row : row + 1])[0], whole[row])


def test_normalisation_is_torchvisions():
    pixels = random_pixels(96, 96)
    record = contract(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    floats = v2.ToDtype(torch.float32, scale=True)(pixels)
    expected = v2.Normalize(record.mean, record.std)(floats)
    torch.testing.assert_close(record(pixels), expected, rtol=0, atol=1e-6)


def test_the_record_survives_json():
    record = contract(size=(31, 17), mode="crop", crop_fraction=0.9, mean=(0.1, 0.2, 0.3))
    assert Preprocessing.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    "wrong",
    [{"mean": (0.5,)}, {"std": (1, 0, 1)}, {"size": 0}, {"channels": 2}, {"mode": "stretch"}],
)
def test_an_impossible_record_is_refused(wrong):
    with pytest.raises(ValidationError):
        contract(**wrong)
