"""From a picture file to the input of the exported network beside this file: numpy and Pillow only.

contract = json.loads(session.get_modelmeta().custom_metadata_map["reslab"])  # onnxruntime
pixels = read_picture(contract, "cat.jpg")
probabilities = session.run(None, {contract["input"]: pixels[None]})[0][0]
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Image.init()  # Pillow's plugins; HEIF is among them where pillow_heif has been registered
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF")


def read_picture(contract: dict[str, Any], picture: str | Path | bytes) -> np.ndarray:
    """A picture's pixels, uint8 (C, H, W), of a file or of its bytes."""
    how = contract["preprocessing"]
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with Image.open(io.BytesIO(data), formats=formats) as opened:
        if how["interpolation"] != "nearest":  # a large JPEG may be decoded smaller
            least = max(128, math.ceil(2 * max(how["size"]) / how["crop_fraction"]))
            opened.draft(opened.mode, (least, least))
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray(((np.asarray(image, np.int64) * 255 + 32767) // 65535).astype("u1"))
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if how["channels"] == 1:
        image = image if image.mode in ("1", "L") else image.convert("RGB")
        return fit(np.asarray(image.convert("L"))[None], how)
    return fit(np.asarray(image.convert("RGB")).transpose(2, 0, 1), how)


def fit(pixels: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """Pixels squashed, cropped or letterboxed to the size."""
    given, wanted = pixels.shape[1:], tuple(how["size"])
    scales = [one / other for one, other in zip(wanted, given, strict=True)]
    if how["mode"] == "squash":
        return resize(pixels, wanted, how["interpolation"])
    crop = how["mode"] == "crop"
    scale = max(scales) / how["crop_fraction"] if crop else min(scales)
    least = wanted if crop else (1, 1)
    size = [max(low, int(n * scale + 1e-6)) for n, low in zip(given, least, strict=True)]
    pixels = resize(pixels, size, how["interpolation"])
    if crop:
        top, left = (round((n - m) / 2) for n, m in zip(size, wanted, strict=True))
        return pixels[:, top : top + wanted[0], left : left + wanted[1]]
    canvas = np.zeros((len(pixels), *wanted), np.uint8)
    canvas += np.array([round(255 * mean) for mean in how["mean"]], np.uint8)[:, None, None]
    top, left = ((m - n) // 2 for n, m in zip(size, wanted, strict=True))
    canvas[:, top : top + size[0], left : left + size[1]] = pixels
    return canvas


def resize(pixels: np.ndarray, size: Any, interpolation: str) -> np.ndarray:
    """Pixels resized with antialiasing, in whole numbers as PyTorch does it for uint8.

    Pillow's own resize weighs with other roundings: its pixels differ.
    """
    for axis in (2, 1):
        n, m = pixels.shape[axis], size[axis - 1]
        centre = (np.arange(m) + 0.5) * (n / m)
        if interpolation == "nearest":
            ratio = np.float32(n) / np.float32(m)  # as PyTorch rounds
            at = np.float32((np.arange(m) + 0.5) * float(ratio) - 0.5) + np.float32(0.5)
            pixels = pixels.take(np.minimum(at.astype(int), n - 1), axis)
            continue
        x = abs(np.arange(n) + 0.5 - centre[:, None]) / max(n / m, 1)
        w = np.maximum(1 - x, 0)
        if interpolation == "bicubic":
            near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
            w = np.where(x < 1, near, np.where(x < 2, far, 0))
        w /= w.sum(1, keepdims=True)
        bits = next(b for b in range(23) if b == 22 or int(0.5 + w.max() * 2 ** (b + 1)) >= 2**15)
        whole = np.trunc(w * 2**bits + np.copysign(0.5, w))
        sums = np.moveaxis(pixels, axis, 2) @ whole.T  # whole numbers below 2 ** 53: exact
        sums = np.clip((sums + 2 ** (bits - 1)) // 2**bits, 0, 255).astype(np.uint8)
        pixels = np.moveaxis(sums, 2, axis)
    return pixels
