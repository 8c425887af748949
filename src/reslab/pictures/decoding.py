"""Bytes of a picture file to uint8 pixels, the same for training, judging and prediction.

What a file may hold: grey, RGB, palette, alpha (laid over white), 16 bits a channel (scaled to
8), CMYK; the EXIF orientation is applied; of an animation the first frame counts.
"""

import functools
import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

WHITE = (255, 255, 255, 255)
LARGEST = 40_000_000  # pixels, or half with alpha: half a gigabyte while they are converted
MOST_SCANNED = 30 * LARGEST  # pixels times a JPEG's scans: each goes over the whole picture
# No others are tried: some of Pillow's readers start programs (EPS), or are hardly ever needed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")
_SCAN = b"\xff\xda"  # in a JPEG's coded data 0xff never stands before anything but its own marks

# What makes Pillow warn makes it raise where it matters. Warnings cannot be silenced around a
# call: the filters are the whole process's, and pictures are decoded by many threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadablePictureError(ValueError):
    """The bytes are no picture that can be read in full; the message says why."""


@dataclass(frozen=True)
class Facts:
    """What a file says of its picture: format as Pillow names it, sides as shown, EXIF's marks.

    orientation: 1 where the picture stands as it is stored; camera: maker and model, or "".
    """

    format: str
    width: int
    height: int
    orientation: int
    camera: str


def decode(data: bytes, channels: int, least: int | None = None) -> torch.Tensor:
    """The picture in a file's bytes: uint8 of shape (C, H, W), C being 1 (luma) or 3 (RGB).

    least: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both
        sides keep this many pixels: several times as fast for a large photo.
    Raises UnreadablePictureError if the file is truncated, damaged, too large or not a picture.
    """
    return examine(data, channels, least)[0]


def examine(data: bytes, channels: int, least: int | None = None) -> tuple[torch.Tensor, Facts]:
    """As `decode`, and what the file says of its picture."""
    if not data:
        raise UnreadablePictureError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as opened:
            scanned = opened.width * opened.height * data.count(_SCAN)
            if opened.format in ("JPEG", "MPO") and scanned > MOST_SCANNED:
                raise UnreadablePictureError(
                    f"too many scans to decode in time: {data.count(_SCAN):,} of"
                    f" {opened.width} x {opened.height} pixels"
                )
            sides = opened.size
            if opened.info.get("progressive") and opened.width * opened.height > 2 * LARGEST:
                # However small it is drawn, all of its coefficients are held.
                raise UnreadablePictureError(
                    f"too large to decode safely: progressive, {opened.width} x {opened.height}"
                    " pixels"
                )
            if least is not None:
                opened.draft(opened.mode, (least, least))
            if opened.width * opened.height * (1 + _is_transparent(opened)) > LARGEST:
                raise UnreadablePictureError(
                    f"too large to decode safely: {opened.width} x {opened.height} pixels"
                )
            opened.load()
            facts = _facts(opened, sides)
            ImageOps.exif_transpose(opened, in_place=True)
            return _pixels(opened, facts.format, channels), facts
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError:
        named = ", ".join(_formats())
        raise UnreadablePictureError(f"not a picture in a known format ({named})") from None
    except Image.DecompressionBombError as error:
        raise UnreadablePictureError(f"too large to decode safely ({error})") from None
    except MemoryError:
        raise UnreadablePictureError("too large for this machine's memory") from None
    except Exception as error:  # the codecs raise whatever a damaged file makes them meet
        raise UnreadablePictureError(f"cannot be decoded ({error})") from None


def _facts(opened: Image.Image, sides: tuple[int, int]) -> Facts:
    marks = opened.getexif()
    turn = marks.get(ExifTags.Base.Orientation, 1)
    orientation = turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    width, height = sides if orientation < 5 else sides[::-1]
    named = (marks.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    camera = " ".join(str(name).strip("\0 ") for name in named if name)
    return Facts(opened.format or "", width, height, orientation, camera)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that are tried: HEIC too where the package pillow-heif is installed."""
    # Importing a plugin registers its format; nothing else of it is used.
    from PIL import AvifImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    Image.preinit()  # the others
    found = tuple(name for name in FORMATS if name in Image.OPEN)
    try:
        import pillow_heif
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    return (*found, "HEIF")


def from_pillow(picture: Image.Image, channels: int) -> torch.Tensor:
    """A Pillow picture as uint8 of shape (C, H, W), upright; the picture stays as it is.

    Raises UnreadablePictureError if it is closed, damaged or too large.
    """
    if picture.width * picture.height * (1 + _is_transparent(picture)) > LARGEST:
        raise UnreadablePictureError(
            f"too large to convert safely: {picture.width} x {picture.height} pixels"
        )
    try:
        # The upright copy has forgotten what it was written as.
        return _pixels(ImageOps.exif_transpose(picture), picture.format, channels)
    except UnreadablePictureError:
        raise
    except Exception as error:  # a closed file, a mode of its own
        raise UnreadablePictureError(f"cannot be converted ({error})") from None


def _pixels(picture: Image.Image, written_as: str | None, channels: int) -> torch.Tensor:
    picture = _flattened(_eight_bit(picture, written_as))
    if channels == 1:
        if picture.mode not in ("1", "L"):
            picture = picture.convert(
                "RGB"
            )  # one way to grey, so that `with_channels` gives it too
        return torch.from_numpy(np.array(picture.convert("L")))[None]
    coloured = picture if picture.mode == "RGB" else picture.convert("RGB")
    return torch.from_numpy(np.array(coloured)).permute(2, 0, 1)


def _eight_bit(picture: Image.Image, written_as: str | None) -> Image.Image:
    """Deep grey pictures scaled to 8 bits: Pillow's own conversion would clip them to white."""
    if picture.mode == "I" and written_as not in ("PNG", "PPM"):
        raise UnreadablePictureError("32-bit integer pixels; save it with 8 or 16 bits a channel")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture).astype(np.int64)
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode == "F":
        raise UnreadablePictureError("floating-point pixels; save it with 8 or 16 bits a channel")
    return picture


def _flattened(picture: Image.Image) -> Image.Image:
    """Transparent parts laid over white: what stands in their colour channels is arbitrary."""
    if _is_transparent(picture):
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer)
    return picture


def _is_transparent(picture: Image.Image) -> bool:
    return bool({"A", "a"} & set(picture.getbands())) or "transparency" in picture.info


def with_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 pictures of shape (N, C, H, W) with 1 or 3 channels, as `decode` would give them."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    # ITU-R 601-2 luma in Pillow's own fixed-point form.
    red, green, blue = pixels.to(torch.int32).unbind(1)
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma.to(torch.uint8)[:, None]
