"""Seeded augmentation of whole batches, with a draw per sample.

The geometry (rotation, zoom, shift, crop, flips) is one sampling of the source; then come the
colours. Each operation follows torchvision.transforms.v2's of the same name, and is tested
against it draw for draw.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from reslab.pictures import draws
from reslab.pictures.settings import Augmentation

_DRAWS = 16  # numbers reserved for each sample
_TOGETHER = 8  # pictures at a time: larger temporaries leave the cache, 64 cost 2.8 times as much


def augment(
    settings: Augmentation,
    pixels: torch.Tensor,
    size: tuple[int, int],
    start: int,
    keys: np.ndarray,
) -> torch.Tensor:
    """Augment uint8 pictures (N, C, H, W) and crop them to `size`.

    start: the address of the draws (see `draws.address`); keys: one 64-bit key a sample.
    Returns floats in [0, 1], (N, C, *size), or the input where nothing is asked for.
    """
    if not (settings.moves or settings.colours):
        return pixels
    drawn = draws.uniform(start, keys, _DRAWS)
    parts = []
    for first in range(0, len(pixels), _TOGETHER):
        few = slice(first, first + _TOGETHER)
        floats = pixels[few].float() / 255
        if settings.moves:
            floats = _move(settings, floats, size, drawn[few])
        if settings.colours:
            floats = _colour(settings, floats, drawn[few])
        parts.append(floats)
    return torch.cat(parts)


def _move(
    settings: Augmentation, x: torch.Tensor, size: tuple[int, int], drawn: np.ndarray
) -> torch.Tensor:
    """One sampling of the source for each output pixel.

    A pixel's place runs backwards through flip, centre crop, shift, zoom and rotation, in
    pixels from the picture's centre.
    """
    height, width = x.shape[-2:]
    sign_x = np.where(drawn[:, 1] < settings.flip_horizontal, -1.0, 1.0)
    sign_y = np.where(drawn[:, 2] < settings.flip_vertical, -1.0, 1.0)
    scale = 1 - (1 - settings.zoom) * drawn[:, 3]
    angle = np.deg2rad(settings.rotate * (2 * drawn[:, 0] - 1))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    # A zoomed view may wander within the picture; a shift moves whole pixels.
    spare_x, spare_y = (1 - scale) * width / 2, (1 - scale) * height / 2
    shift_x, shift_y = settings.shift * width, settings.shift * height
    move_x = spare_x * (2 * drawn[:, 4] - 1) + np.rint(shift_x * (2 * drawn[:, 5] - 1))
    move_y = spare_y * (2 * drawn[:, 6] - 1) + np.rint(shift_y * (2 * drawn[:, 7] - 1))
    # Flips mirror the crop, and the crop need not lie in the very middle of the picture.
    crop_y, crop_x = _crop_offset(height, size[0]), _crop_offset(width, size[1])
    move_x += cos * crop_x - sin * crop_y
    move_y += sin * crop_x + cos * crop_y
    theta = np.empty((len(x), 2, 3))
    theta[:, 0] = np.stack([cos * sign_x, -sin * sign_y, move_x], axis=1)
    theta[:, 1] = np.stack([sin * sign_x, cos * sign_y, move_y], axis=1)
    matrix = torch.from_numpy(theta).float()
    rows = torch.arange(size[0]) - (size[0] - 1) / 2
    columns = torch.arange(size[1]) - (size[1] - 1) / 2
    grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], dim=-1)
    source = places.view(1, -1, 3) @ matrix.transpose(1, 2)
    source = source / torch.tensor([width / 2, height / 2])
    # Nearest, as torchvision's rotation; bilinear where a zoom would show its steps.
    mode = "bilinear" if settings.zoom < 1 else "nearest"
    return F.grid_sample(x, source.view(len(x), *size, 2), mode=mode, align_corners=False)


def _colour(settings: Augmentation, x: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    count = len(x)

    def factor(column: int, spread: float) -> torch.Tensor:
        values = 1 + spread * (2 * drawn[:, column] - 1)
        return torch.from_numpy(values).float().view(count, 1, 1, 1)

    factors = [
        factor(8, settings.brightness),
        factor(9, settings.contrast),
        factor(10, settings.saturation),
        factor(11, settings.hue) - 1,
    ]
    wanted = [settings.brightness, settings.contrast, settings.saturation, settings.hue]
    if x.shape[1] == 1:  # a grey picture has no saturation and no hue
        wanted[2:] = [0, 0]
    changes = [adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue]
    # torchvision's ColorJitter draws the order of the four anew for each picture.
    order = _permutations(drawn[:, 12])
    for place in range(4):
        for which, change in enumerate(changes):
            rows = torch.from_numpy(np.flatnonzero(order[:, place] == which))
            if wanted[which] and len(rows):
                x = x.index_copy(0, rows, change(x[rows], factors[which][rows]))
    grey = torch.from_numpy(np.flatnonzero(drawn[:, 13] < settings.grey))
    if len(grey):
        x = x.index_copy(0, grey, luma(x[grey]).expand(-1, x.shape[1], -1, -1))
    return x


def _crop_offset(source: int, target: int) -> float:
    """How far torchvision's centre crop lies off the middle: it rounds an odd difference."""
    return round((source - target) / 2) - (source - target) / 2


def _permutations(drawn: np.ndarray) -> np.ndarray:
    """One of the 24 orders of four things for each draw in [0, 1): (N, 4)."""
    code = np.floor(drawn * 24).astype(np.int64)
    left = np.tile(np.arange(4), (len(code), 1))
    chosen = []
    for place in range(4):
        block = math.factorial(3 - place)
        pick, code = np.divmod(code, block)
        rows = np.arange(len(left))
        chosen.append(left[rows, pick])
        keep = np.ones(left.shape, dtype=bool)
        keep[rows, pick] = False
        left = left[keep].reshape(len(left), -1)
    return np.stack(chosen, axis=1)


def luma(x: torch.Tensor) -> torch.Tensor:
    """Grey of RGB or grey floats (N, C, H, W): (N, 1, H, W), with torchvision's weights."""
    if x.shape[1] == 1:
        return x
    weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def adjust_brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (x * factor).clamp_(0, 1)


def adjust_contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = luma(x).mean(dim=(1, 2, 3), keepdim=True)
    return (x * factor + mean * (1 - factor)).clamp_(0, 1)


def adjust_saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (x * factor + luma(x) * (1 - factor)).clamp_(0, 1)


def adjust_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue of RGB floats by `shift` turns, value and saturation kept.

    The hexcone model of A. R. Smith: Color Gamut Transform Pairs, SIGGRAPH 1978.
    """
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * shift
    # f(n) = v - c * max(0, min(k, 4 - k, 1)) with k = (n + h) mod 6.
    offsets = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (offsets + sector) % 6
    return high - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
