"""Seeded augmentation of whole batches, with a draw per sample.

A policy's operation comes first, on the picture as it is. The geometry (rotation, zoom, shift,
crop, flips) is one sampling of the source; then come the colours. Each operation follows
torchvision.transforms.v2's of the same name, and is tested against it draw for draw.
"""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from reslab.pictures import draws
from reslab.pictures.erasing import erased
from reslab.pictures.settings import Augmentation
from reslab.pictures.trivial import trivial_augment

_DRAWS = 22  # numbers reserved for each sample; a larger count leaves the first ones as they are
_POLICY, _ERASING = slice(14, 17), slice(17, 22)  # which of them are for what
_FLIP = 1  # which of them decides on the horizontal flip
_TOGETHER = 1 << 18  # values at a time: with larger temporaries, which leave the cache, a photo
# took four times as long


def draw_for(settings: Augmentation, seed: int, epoch: int, keys: np.ndarray) -> np.ndarray:
    """The draws of an epoch for the samples of these 64-bit keys: float64 in [0, 1], (N, 22)."""
    drawn = draws.uniform(draws.address(seed, "augment", epoch), keys, _DRAWS)
    if settings.flip_alternating:
        # K. Jordan, arXiv 2404.00498, section 3.6: of two epochs each picture is flipped in one.
        first = draws.uniform(draws.address(seed, "augment", 0), keys, _DRAWS)[:, _FLIP]
        flipped = (first < settings.flip_horizontal) != bool(epoch % 2)
        drawn[:, _FLIP] = np.where(flipped, 0.0, 1.0)
    return drawn


def augment(
    settings: Augmentation, pixels: torch.Tensor, size: tuple[int, int], drawn: np.ndarray
) -> torch.Tensor:
    """Augment uint8 pictures (N, C, H, W) and crop them to `size`.

    drawn: each sample's numbers, from `draw_for`.
    Returns floats in [0, 1], or uint8 where no value had to be computed, (N, C, *size).
    """
    if settings.policy == "trivial-wide":
        pixels = trivial_augment(pixels, drawn[:, _POLICY])
    if settings.moves_whole_pixels and settings.moves:
        pixels = _move_whole_pixels(settings, pixels, drawn)
    interpolates = settings.moves and not settings.moves_whole_pixels
    if not (interpolates or settings.colours):
        return pixels
    parts = []
    together = max(1, _TOGETHER // pixels[0].numel())
    for first in range(0, len(pixels), together):
        few = slice(first, first + together)
        floats = pixels[few].to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        if interpolates:
            floats = _move(settings, floats, size, drawn[few])
        if settings.colours:
            floats = _colour(settings, floats, drawn[few])
        parts.append(floats)
    return torch.cat(parts)


def erase(settings: Augmentation, x: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """Cover rectangles of normalised pictures (N, C, H, W), with the chance that is asked for."""
    return erased(x, settings.erase, drawn[:, _ERASING]) if settings.erase else x


def _move_whole_pixels(settings: Augmentation, x: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """Flips, then shifts as windows of the padded pictures: uint8 (N, C, H, W) in and out."""
    count, _, height, width = x.shape
    flipped = x.numpy()
    starts, pads = [], []
    for axis, length, flip, chance, shift in (
        (2, height, 2, settings.flip_vertical, 7),
        (3, width, _FLIP, settings.flip_horizontal, 5),
    ):
        mirrored = drawn[:, flip] < chance
        flipped = _mirrored(flipped, mirrored, axis)
        pad = round(settings.shift * length)
        moves = np.rint(settings.shift * length * (2 * drawn[:, shift] - 1)).astype(np.int64)
        starts.append(pad + np.where(mirrored, -moves, moves))
        pads.append((pad, pad))
    if not settings.shift:
        return torch.from_numpy(flipped)
    mode: Literal["constant", "reflect"] = "constant" if settings.edge == "black" else "reflect"
    padded = np.pad(flipped, ((0, 0), (0, 0), *pads), mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (2, 3))
    return torch.from_numpy(windows[np.arange(count), :, starts[0], starts[1]])


def _mirrored(x: np.ndarray, which: np.ndarray, axis: int) -> np.ndarray:
    """A copy of pictures (N, C, H, W) in which these (N,) are turned over along an axis."""
    if not which.any():
        return x
    found = x.copy()
    found[which] = np.flip(x[which], axis)
    return found


def _move(
    settings: Augmentation, x: torch.Tensor, size: tuple[int, int], drawn: np.ndarray
) -> torch.Tensor:
    """One sampling of the source for each output pixel.

    A pixel's place runs backwards through flip, centre crop, shift, zoom and rotation, in
    pixels from the picture's centre.
    """
    height, width = x.shape[-2:]
    sign_x = np.where(drawn[:, _FLIP] < settings.flip_horizontal, -1.0, 1.0)
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
            if not wanted[which] or not len(rows):
                continue
            if len(rows) == count:
                x = change(x, factors[which])
            else:
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
    red, green, blue = torch.split(x, 1, 1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)


def adjust_brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (x * factor).clamp_(0, 1)


def adjust_contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    # Along rows first: what threads do to one large sum depends on their number.
    mean = luma(x).mean(dim=3, keepdim=True).mean(dim=(1, 2), keepdim=True)
    return (x * factor).add_(mean * (1 - factor)).clamp_(0, 1)


def adjust_saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (x * factor).add_(luma(x) * (1 - factor)).clamp_(0, 1)


def adjust_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue of RGB floats by `shift` turns, value and saturation kept.

    The hexcone model of A. R. Smith: Color Gamut Transform Pairs, SIGGRAPH 1978.
    """
    red, green, blue = torch.split(x, 1, 1)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    # Masks are floats, which multiply several times as fast as `where` chooses.
    is_red = high.clone().eq_(red)
    is_green = high.clone().eq_(green).mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    sector = (green - blue).mul_(is_red)
    sector.add_((blue - red).mul_(is_green)).add_((red - green).mul_(is_blue))
    sector.div_(chroma.clone().eq_(0).add_(chroma))
    sector.add_(is_green.mul_(2).add_(is_blue.mul_(4))).add_(6 * shift)
    # f(n) = v - c * max(0, min(k, 4 - k, 1)) with k = (n + h) mod 6.
    turned = torch.empty_like(x)
    for plane, offset in zip(torch.split(turned, 1, 1), (5.0, 3.0, 1.0), strict=True):
        k = sector + offset
        k.sub_((k / 6).floor_().mul_(6))
        torch.minimum(k, 4 - k, out=plane).clamp_(0, 1).mul_(chroma).neg_().add_(high)
    return turned
