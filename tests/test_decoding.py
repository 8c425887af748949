"""What a picture file may hold, and that damage is never passed over."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.pictures import decoding
from reslab.pictures.decoding import UnreadablePictureError, decode, with_channels
from reslab.pictures.preprocessing import Preprocessing


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def rgb(size=(6, 4)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_rgb_is_exact_and_channels_first():
    pixels = rgb()
    found = decode(encoded(Image.fromarray(pixels)), 3)
    assert found.dtype == torch.uint8
    assert found.shape == (3, 6, 4)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels)


def test_grey_becomes_three_equal_channels_and_stays_itself():
    pixels = rgb()[..., 0]
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(decode(data, 1)[0].numpy(), pixels)
    assert all(np.array_equal(channel.numpy(), pixels) for channel in decode(data, 3))


def test_palette_and_its_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image), 3)[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    seen = decode(encoded(image, transparency=1), 3)[:, 0].T.tolist()
    assert seen == [[255, 0, 0], [255, 255, 255]]


def test_alpha_is_laid_over_white():
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [255, 0, 128]
    found = decode(encoded(Image.fromarray(pixels)), 3)[:, 0].T.tolist()
    assert found[:2] == [[200, 0, 0], [255, 255, 255]]
    assert found[2] == [227, 127, 127]
    grey = Image.new("LA", (1, 1), (10, 0))
    assert decode(encoded(grey), 1).tolist() == [[[255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(deep))
    assert decode(data, 1)[0, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_and_one_bit():
    assert decode(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), 3).min() >= 254
    assert decode(encoded(Image.new("1", (3, 2), 1)), 3).unique().tolist() == [255]


def test_exif_orientation_is_applied():
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    data = encoded(Image.fromarray(pixels), "JPEG", exif=exif.tobytes(), quality=95)
    found = decode(data, 1)[0]
    assert found.shape == (16, 8)
    assert found[:7].min() > 200
    assert found[9:].max() < 50


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    red, _, blue = decode(data, 3)[:, 0, 0].tolist()
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_truncated_file_is_refused(kind):
    data = encoded(Image.fromarray(rgb((64, 64))), kind)
    assert decode(data, 3).shape == (3, 64, 64)
    with pytest.raises(UnreadablePictureError):
        decode(data[: len(data) // 2], 3)


def test_what_is_no_picture_is_refused():
    for data in (b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", bytes(1000)):
        with pytest.raises(UnreadablePictureError):
            decode(data, 3)


def test_floats_and_deep_integers_are_refused_by_name():
    with pytest.raises(UnreadablePictureError, match="floating-point"):
        decode(encoded(Image.new("F", (2, 2), 0.5), "TIFF"), 3)
    with pytest.raises(UnreadablePictureError, match="32-bit"):
        decode(encoded(Image.fromarray(np.array([[-5, 70000]], dtype=np.int32)), "TIFF"), 3)


def test_a_picture_of_absurd_size_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadablePictureError, match="too large"):
        decode(encoded(Image.new("L", (50, 50))), 1)


def test_a_large_progressive_jpeg_is_refused_however_small_it_is_wanted(monkeypatch):
    """Its coefficients are held at full size."""
    plain, progressive = (
        encoded(Image.fromarray(rgb((80, 80))), "JPEG", progressive=one) for one in (False, True)
    )
    assert decode(progressive, 3, 10).shape == (3, 10, 10)
    monkeypatch.setattr(decoding, "LARGEST", 3000)
    assert decode(plain, 3, 10).shape == (3, 10, 10)
    with pytest.raises(UnreadablePictureError, match="progressive, 80 x 80"):
        decode(progressive, 3, 10)


def test_luma_of_a_batch_is_pillows():
    pixels = rgb((5, 7))
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(with_channels(batch, 1)[0, 0].numpy(), expected)


def photo(size=(1200, 900)) -> Image.Image:
    """Smooth shapes with sharp edges and some noise, as a camera's picture has."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.float64)
    pixels[200:400, 300:700] = (250, 30, 40)
    pixels += rng.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_decoded_smaller_fits_as_the_whole_one(mode, kind):
    data = encoded(photo().convert(kind), "JPEG", quality=92)
    record = Preprocessing(
        size=(120, 100), mode=mode, crop_fraction=0.9 if mode == "crop" else 1,
        channels=3, mean=(0.5,) * 3, std=(1,) * 3,
    )  # fmt: skip
    whole = record.fit(decode(data, 3)[None])[0]
    found = record.read(data)
    assert decode(data, 3, 240).shape[-1] < 1200  # it was decoded smaller
    difference = (whole.int() - found.int()).abs()
    assert difference.float().mean() < 0.7
    assert difference.max() <= 24  # of 255, at the sharp edges


def test_only_what_stays_large_enough_is_decoded_smaller():
    data = encoded(photo(), "JPEG")
    assert decode(data, 3, 450).shape == (3, 450, 600)
    assert decode(data, 3, 451).shape == (3, 900, 1200)
    assert decode(encoded(photo()), 3, 100).shape == (3, 900, 1200)  # a PNG


def test_a_truncated_jpeg_is_refused_at_any_size():
    data = encoded(photo(), "JPEG")
    for cut in (0.2, 0.6, 0.95):
        for least in (None, 100, 400):
            with pytest.raises(UnreadablePictureError):
                decode(data[: int(len(data) * cut)], 3, least)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "LA", "CMYK", "YCbCr", "L", "1"])
def test_grey_of_the_file_is_grey_of_its_colours(kind):
    image = Image.fromarray(rgb((9, 7))).convert(kind)
    data = encoded(image, "TIFF" if kind in ("CMYK", "YCbCr") else "PNG")
    assert torch.equal(decode(data, 1), with_channels(decode(data, 3)[None], 1)[0])


def test_warnings_are_as_before_after_many_threads_decoded():
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    data = encoded(photo((64, 64)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(data, 3), range(200)))
    assert list(warnings.filters) == before
