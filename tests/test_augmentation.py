"""Each augmentation against torchvision's own result for the same draw."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from reslab.pictures import augmentation, draws
from reslab.pictures.augmentation import augment, draw_for
from reslab.pictures.settings import Augmentation

KEYS = np.arange(1, 13).astype(np.uint64) * np.uint64(7919)
DRAWN = draw_for(Augmentation(), 6, 0, KEYS)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.integers(0, 256, (12, 3, 10, 10), dtype=np.uint8)).float()
    smooth = torch.nn.functional.interpolate(coarse, (60, 60), mode="bilinear")
    return smooth.round().to(torch.uint8)


@pytest.fixture
def drawn():
    return DRAWN


def test_nothing_asked_for_changes_nothing(pixels):
    assert augment(Augmentation(), pixels, (60, 60), DRAWN) is pixels


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("policy", ["none", "trivial-wide"])
def test_a_picture_is_augmented_alike_by_one_thread_and_by_two(policy):
    """Who makes a batch, one thread or all, goes by the memory that is free."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (12, 3, 224, 224), dtype=np.uint8))
    names = ["brightness", "contrast", "saturation", "hue"]
    settings = Augmentation(
        policy=policy, rotate=10, zoom=0.8, erase=0.5, **dict.fromkeys(names, 0.4)
    )
    by_two = augment(settings, pixels, (224, 224), DRAWN)
    torch.set_num_threads(1)
    by_one = augment(settings, pixels, (224, 224), DRAWN)
    assert torch.equal(by_one, by_two)


def test_rotation_crop_and_flips_are_torchvisions(pixels, drawn):
    """The publication's geometry: rotate, centre crop, flip both ways; nearest, black corners."""
    settings = Augmentation(resize=60, rotate=45, flip_horizontal=0.5, flip_vertical=0.5)
    found = augment(settings, pixels, (51, 50), DRAWN)
    seen = set()
    for row in range(12):
        expected = tv.rotate(pixels[row].float() / 255, 45 * (2 * drawn[row, 0] - 1))
        expected = tv.center_crop(expected, [51, 50])
        if drawn[row, 1] < 0.5:
            expected = tv.horizontal_flip(expected)
        if drawn[row, 2] < 0.5:
            expected = tv.vertical_flip(expected)
        seen.add((drawn[row, 1] < 0.5, drawn[row, 2] < 0.5))
        # A source on the line between two pixels may round either way.
        same = (found[row] - expected).abs().amax(0) < 1e-6
        assert same.float().mean() > 0.999
    assert len(seen) == 4


def test_shift_moves_whole_pixels_and_brings_in_black(pixels, drawn):
    settings = Augmentation(shift=0.1)
    found = augment(settings, pixels, (60, 60), DRAWN)
    for row in range(12):
        right = -int(np.rint(6 * (2 * drawn[row, 5] - 1)))
        down = -int(np.rint(6 * (2 * drawn[row, 7] - 1)))
        expected = tv.affine(
            pixels[row], angle=0.0, translate=[right, down], scale=1.0, shear=[0.0, 0.0]
        )
        assert torch.equal(found[row], expected)


def test_zoom_shows_a_part_of_the_picture():
    ramp = torch.arange(64).repeat(64, 1).to(torch.uint8)[None, None].expand(12, 3, -1, -1) * 4
    found = augment(Augmentation(zoom=0.5), ramp.contiguous(), (64, 64), DRAWN)
    widths = (found[:, 0, 32, 60] - found[:, 0, 32, 4]) * 255 / 4 / 56
    expected = 1 - 0.5 * torch.from_numpy(DRAWN[:, 3]).float()
    torch.testing.assert_close(widths, expected, rtol=0, atol=0.02)
    assert found.min() >= 0
    inside = found[:, 0, :, 8:56]
    assert bool((inside.diff(dim=-1) > 0).all())


@pytest.mark.parametrize(
    ("ours", "theirs", "spread"),
    [
        (augmentation.adjust_brightness, tv.adjust_brightness, (0.8, 1.2)),
        (augmentation.adjust_contrast, tv.adjust_contrast, (0.9, 1.1)),
        (augmentation.adjust_saturation, tv.adjust_saturation, (0.9, 1.1)),
        (augmentation.adjust_hue, tv.adjust_hue, (-0.1, 0.1)),
        (augmentation.adjust_hue, tv.adjust_hue, (-0.5, 0.5)),
    ],
)
def test_colour_changes_are_torchvisions(pixels, ours, theirs, spread):
    floats = pixels.float() / 255
    factors = torch.linspace(*spread, 12)
    found = ours(floats, factors.view(-1, 1, 1, 1))
    for row in range(12):
        expected = theirs(floats[row], float(factors[row]))
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-5)


def test_jitter_draws_factors_and_order_for_each_picture(pixels, drawn):
    settings = Augmentation(brightness=0.2, contrast=0.1, saturation=0.1, hue=0.1, grey=0.1)
    found = augment(settings, pixels, (60, 60), DRAWN)
    changes = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    import itertools

    orders = list(itertools.permutations(range(4)))
    for row in range(12):
        values = 1 + np.array([0.2, 0.1, 0.1, 0.1]) * (2 * drawn[row, 8:12] - 1)
        values[3] -= 1
        expected = pixels[row].float() / 255
        for which in orders[int(drawn[row, 12] * 24)]:
            expected = changes[which](expected, float(values[which]))
        if drawn[row, 13] < 0.1:
            expected = tv.rgb_to_grayscale(expected, num_output_channels=3)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)


def test_grey_pictures_change_in_brightness_and_contrast(pixels):
    grey = pixels[:, :1].contiguous()
    plain = Augmentation(saturation=0.5, hue=0.2, grey=0.5)
    assert torch.equal(augment(plain, grey, (60, 60), DRAWN), grey.float() / 255)
    strong = augment(Augmentation(brightness=0.5, contrast=0.5), grey, (60, 60), DRAWN)
    assert strong.shape == grey.shape
    assert not torch.allclose(strong, grey.float() / 255, atol=0.05)


def test_a_draw_depends_on_the_sample_alone(pixels):
    settings = Augmentation(rotate=30, hue=0.1, brightness=0.2, flip_horizontal=0.5)
    whole = augment(settings, pixels, (60, 60), DRAWN)
    rows = torch.tensor([7, 2, 11])
    part = augment(settings, pixels[rows], (60, 60), DRAWN[rows.numpy()])
    torch.testing.assert_close(part, whole[rows])
    again = augment(settings, pixels, (60, 60), DRAWN)
    assert torch.equal(again, whole)
    other = augment(settings, pixels, (60, 60), draw_for(settings, 6, 1, KEYS))
    assert not torch.allclose(other, whole)


def test_draws_are_uniform_and_independent():
    table = draws.uniform(1, np.arange(20000).astype(np.uint64), 8)
    assert table.min() >= 0
    assert table.max() < 1
    assert np.abs(table.mean(0) - 0.5).max() < 0.01
    assert np.abs(table.var(0) - 1 / 12).max() < 0.003
    assert np.abs(np.corrcoef(table.T) - np.eye(8)).max() < 0.03
    assert np.abs(np.corrcoef(table[1:, 0], table[:-1, 0])[0, 1]) < 0.03
