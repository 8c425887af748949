"""Whether two pictures show the same: one is laid over the other, and what then agrees is measured.

The laying over is affine and found by Gauss-Newton steps on pixels that are made alike in
brightness and contrast (B. Lucas, T. Kanade, IJCAI 1981; S. Baker, I. Matthews, IJCV 56, 2004).
"""

import numpy as np
import torch
import torch.nn.functional as F

from reslab.pictures.copies.signatures import MIDDLE, REGIONS, Candidates

_PASSES = ((32, 2), (32, 4), (64, 4))  # pixels a side, and steps
_CLEAR = 0.9  # nothing to gain from further steps
_HOPELESS = 0.15  # after the first steps
_BLOCKS = 8  # a side, of a picture that is compared in parts
_TOGETHER = 128  # pairs: more would not fit the processor's cache
_PLAIN = 2.5  # levels of deviation below which a block has no texture to compare
_ALIKE = 0.75  # correlation from which a block agrees
_DAMPING = 1e-3
_ODD = 0.7  # deviations


def shared(pictures: torch.Tensor, pairs: Candidates) -> np.ndarray:
    """For each pair (P,) how much of `second` agrees with `first` laid over it, from 0 to 1.

    Of the blocks with texture; pictures are grey, uint8 (N, S, S).
    """
    starts = torch.stack([region.affine() for region in REGIONS])
    starts[:, :, :2] /= MIDDLE
    found = np.zeros(len(pairs.first))
    for start in range(0, len(found), _TOGETHER):
        rows = np.arange(start, min(start + _TOGETHER, len(found)))
        first, second, region = (
            torch.from_numpy(side[rows].astype(np.int64))
            for side in (pairs.first, pairs.second, pairs.region)
        )
        found[rows] = _shared(
            pictures[first][:, None].float(), pictures[second][:, None].float(), starts[region]
        ).numpy()
    return found


def _shared(first: torch.Tensor, second: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """The agreement of pictures (P, 1, S, S) from maps (P, 2, 3) on; most are decided early."""
    found = _agreement(first, second, maps)
    least = -1.0
    for size, steps in _PASSES:
        left = torch.nonzero((found > least) & (found < _CLEAR))[:, 0]
        if not len(left):
            break
        least = _HOPELESS
        one, other = (F.adaptive_avg_pool2d(each[left], size) for each in (first, second))
        better = maps[left]
        for _ in range(steps):
            better = _step(one, other, better)
        maps[left] = better
        found[left] = torch.maximum(found[left], _agreement(first[left], second[left], better))
    return found


def _step(first: torch.Tensor, second: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Better maps (P, 2, 3), from places of `second` to places of `first`, both (P, 1, S, S)."""
    size = first.shape[-1]
    grid = F.affine_grid(maps, list(second.shape), align_corners=False)
    # Slopes of `first` by its own places, whose sides are 2 long.
    padded = F.pad(first, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (size / 4)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (size / 4)
    seen = F.grid_sample(
        torch.cat([first, across, down], 1), grid, align_corners=False, padding_mode="border"
    ).flatten(2)
    inside = (grid.abs() <= 1).all(-1).flatten(1).float()
    place = (torch.arange(size) + 0.5) / size
    fade = torch.sin(torch.pi * place).sqrt()
    weight = inside * torch.outer(fade, fade).flatten()
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    one, spread = _standard(seen[:, 0], weight)
    other, _ = _standard(second.flatten(1), weight)
    # What does not fit, such as a caption, has little to say (Geman and McClure's weights).
    weight = weight / (1 + ((other - one) / _ODD).square()).square()
    one, spread = _standard(seen[:, 0], weight / weight.sum(1, keepdim=True).clamp(min=1e-6))
    other, _ = _standard(second.flatten(1), weight / weight.sum(1, keepdim=True).clamp(min=1e-6))
    slope_x, slope_y = seen[:, 1] / spread, seen[:, 2] / spread
    at = (2 * place - 1).repeat(size), (2 * place - 1).repeat_interleave(size)
    terms = [slope_x * at[0], slope_x * at[1], slope_x, slope_y * at[0], slope_y * at[1], slope_y]
    jacobian = torch.stack(terms, 1)
    weighted = jacobian * weight[:, None]
    normal = weighted @ jacobian.transpose(1, 2)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    normal = normal + torch.diag_embed(_DAMPING * diagonal + 1e-9)
    right = weighted @ (other - one)[..., None]
    change = torch.linalg.solve(normal, right)[..., 0].reshape(-1, 2, 3).clamp(-0.1, 0.1)
    better: torch.Tensor = maps + change
    return better


def _standard(values: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (P, n) at mean 0 and deviation 1, and the deviation (P, 1)."""
    centred = values - (values * weight).sum(1, keepdim=True)
    spread = (centred.square() * weight).sum(1, keepdim=True).sqrt().clamp(min=1.0)
    return centred / spread, spread


def _agreement(first: torch.Tensor, second: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """The share of blocks that agree, among those of `second` with texture that `first` reaches."""
    grid = F.affine_grid(maps, list(second.shape), align_corners=False)
    seen = F.grid_sample(first, grid, align_corners=False, padding_mode="border")
    inside = (grid.abs() <= 1.0).all(-1)[:, None].float()
    one, other = _fine(seen), _fine(second)
    size = first.shape[-1] // _BLOCKS

    def blocks(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values, size).flatten(1)

    product, square, other_square = blocks(one * other), blocks(one * one), blocks(other * other)
    reached = blocks(inside) > 0.9
    textured = (other_square.sqrt() > _PLAIN) | (square.sqrt() > _PLAIN)
    correlation = product / (square * other_square).sqrt().clamp(min=1e-6)
    counted = reached & textured
    agrees = counted & (correlation > _ALIKE)
    enough = counted.sum(1) >= 6
    return torch.where(enough, agrees.sum(1) / counted.sum(1).clamp(min=1), 0.0)


def _fine(values: torch.Tensor) -> torch.Tensor:
    """What is left without the broad light and shade, which many pictures share."""
    blurred: torch.Tensor = F.avg_pool2d(F.pad(values, (4, 4, 4, 4), mode="replicate"), 9, 1)
    return values - blurred
