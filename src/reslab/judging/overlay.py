"""Where a network looks, drawn over the picture it looked at."""

import numpy as np
from PIL import Image

_STRONGEST = 0.65  # how much of the picture the mark may cover


def overlay(pixels: np.ndarray, marks: np.ndarray) -> Image.Image:
    """A picture, uint8 (H, W, C), in grey, with marks (H, W) in [0, 1] from yellow to red.

    The marks are brought to the picture's size.
    """
    colour = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    grey = np.asarray(colour.convert("L").convert("RGB"), dtype=np.float32)
    height, width = grey.shape[:2]
    soft = Image.fromarray(marks.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    strength = np.asarray(soft).clip(0, 1)[..., None]
    heat = np.concatenate(
        [np.full_like(strength, 255), 225 * (1 - strength), np.zeros_like(strength)], axis=2
    )
    cover = _STRONGEST * strength
    return Image.fromarray((grey * (1 - cover) + heat * cover).round().astype(np.uint8))
