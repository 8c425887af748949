"""Which pictures may be copies of one another, without comparing each with each.

A picture's middle is described by the signs of 128 random sums of its low frequencies. What a copy
shows in its middle is some region of the original: turned, mirrored, larger, smaller or aside. So
each picture is looked up by the signatures of such regions of it, among the middles of all. A
lookup is by groups of bits (locality-sensitive hashing: P. Indyk, R. Motwani, Approximate Nearest
Neighbors, STOC 1998; random hyperplanes: M. Charikar, STOC 2002), so time grows with the pictures,
not with their pairs. All signatures are linear in the pixels, so they are one matrix product.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from reslab.pictures import draws

SIDE = 32  # pixels of a picture as its signature sees it
BITS = 128
MIDDLE = 0.75  # of a side: what is compared, so that margins may differ
FARTHEST = 22  # bits in which the signatures of a copy may differ; of others 64 do, give or take 6
_FREQUENCIES = 8  # a side
_SAMPLES = 24  # a side, of a region
_TOGETHER = 1024  # pictures of a matrix product
_LOOKUPS = 16384  # together
_BUCKET = 64  # pictures of one group of bits that are looked at, at most
_MOST = 8  # candidates of a picture that are kept


@dataclass(frozen=True)
class Region:
    """Part of a picture whose sides run from -1 to 1: its centre, its sides' shares, its turn."""

    x: float = 0.0
    y: float = 0.0
    width: float = MIDDLE
    height: float = MIDDLE
    degrees: float = 0.0
    mirrored: bool = False

    def affine(self) -> torch.Tensor:
        """(2, 3): from places in the region, -1 to 1, to places in the picture."""
        angle = math.radians(self.degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        width = -self.width if self.mirrored else self.width
        return torch.tensor([
            [cosine * width, -sine * self.height, self.x],
            [sine * width, cosine * self.height, self.y],
        ])  # fmt: skip


def _regions() -> tuple[Region, ...]:
    turned = [Region(degrees=angle) for angle in (-9.0, -6.0, -3.0, 3.0, 6.0, 9.0)]
    nine, eight = 0.9 * MIDDLE, 0.8 * MIDDLE
    moved = [Region(x, y, nine, nine) for x in (-0.07, 0.0, 0.07) for y in (-0.07, 0.0, 0.07)]
    # A strip above or below the picture, which makes it higher.
    strips = [
        Region(0, side * (1 - share), MIDDLE, MIDDLE * share)
        for share in (0.9, 0.82)
        for side in (-1, 1)
    ]
    return (Region(), Region(mirrored=True), *turned, *moved, Region(0, 0, eight, eight), *strips)


REGIONS = _regions()


@dataclass(frozen=True)
class Candidates:
    """Pairs that may be copies: rows of pictures (P,), and which region of `first` is `second`."""

    first: np.ndarray
    second: np.ndarray
    region: np.ndarray


def candidates(pictures: torch.Tensor) -> Candidates:
    """Pairs of grey pictures, uint8 (N, S, S), whose signatures are near each other.

    Each picture is in few pairs: the nearest ones.
    """
    signatures = _signatures(pictures)
    middles = np.ascontiguousarray(signatures[:, 0])
    bits = min(20, max(8, math.ceil(math.log2(len(pictures) + 1))))
    tables = [_Table(middles, bits * number, bits) for number in range(BITS // bits)]
    found = [
        _near(signatures[:, region], middles, tables, region) for region in range(len(REGIONS))
    ]
    first, second, region, far = (np.concatenate(part) for part in zip(*found, strict=True))
    return _nearest_of_each(first, second, region, far, len(pictures))


def _near(
    wanted: np.ndarray, middles: np.ndarray, tables: "list[_Table]", region: int
) -> tuple[np.ndarray, ...]:
    parts = []
    for table in tables:
        for first, second in table.pairs(wanted):
            far = np.bitwise_count(wanted[first] ^ middles[second]).sum(1)
            near = (far <= FARTHEST) & (first != second)
            parts.append((first[near], second[near], far[near]))
    first, second, far = (np.concatenate(part) for part in zip(*parts, strict=True))
    once = np.unique(first * len(middles) + second, return_index=True)[1]  # of several tables
    return (
        first[once].astype(np.int32),
        second[once].astype(np.int32),
        np.full(len(once), region, np.int16),
        far[once].astype(np.int16),
    )


def _nearest_of_each(
    first: np.ndarray, second: np.ndarray, region: np.ndarray, far: np.ndarray, count: int
) -> Candidates:
    """One of each pair, the nearest; of the pairs of a picture the nearest few."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((region, far, high, low))
    pair = low[order].astype(np.int64) * count + high[order]
    order = order[np.flatnonzero(np.diff(pair, prepend=-1))]
    for side in (low, high):
        order = order[np.lexsort((far[order], side[order]))]
        starts = np.flatnonzero(np.diff(side[order], prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        order = order[rank < _MOST]
    return Candidates(first[order], second[order], region[order])


class _Table:
    """Pictures by a group of their signatures' bits."""

    def __init__(self, signatures: np.ndarray, start: int, bits: int) -> None:
        self._start, self._bits = start, bits
        codes = self._codes(signatures)
        self._rows = np.argsort(codes, kind="stable").astype(np.int32)
        self._ends = np.cumsum(np.bincount(codes, minlength=1 << bits))

    def _codes(self, signatures: np.ndarray) -> np.ndarray:
        word, shift = divmod(self._start, 64)
        found = signatures[:, word] >> np.uint64(shift)
        if shift + self._bits > 64:
            found = found | (signatures[:, word + 1] << np.uint64(64 - shift))
        return (found & np.uint64((1 << self._bits) - 1)).astype(np.int64)

    def pairs(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows of `wanted`, rows of the table) that share the bits, some at a time."""
        codes = self._codes(wanted)
        starts = np.where(codes > 0, self._ends[codes - 1], 0)
        counts = np.minimum(self._ends[codes] - starts, _BUCKET)
        for begin in range(0, len(codes), _LOOKUPS):
            part = slice(begin, begin + _LOOKUPS)
            first = np.repeat(np.arange(part.start, part.start + len(counts[part])), counts[part])
            within = np.arange(len(first)) - np.repeat(
                np.cumsum(counts[part]) - counts[part], counts[part]
            )
            yield first, self._rows[starts[first] + within]


def _signatures(pictures: torch.Tensor) -> np.ndarray:
    """Signatures uint64 (N, regions, 2) of every region of each picture."""
    makers = torch.cat(_makers())
    found = np.empty((len(pictures), len(REGIONS), BITS // 64), np.uint64)
    for start in range(0, len(pictures), _TOGETHER):
        part = pictures[start : start + _TOGETHER, None].float()
        small = F.adaptive_avg_pool2d(part, SIDE).flatten(1)
        signs = (small @ makers.T > 0).numpy()
        packed = np.packbits(signs, axis=1, bitorder="little").view(np.uint64)
        found[start : start + len(part)] = packed.reshape(len(part), len(REGIONS), -1)
    return found


def _makers() -> list[torch.Tensor]:
    """For each region the matrix (BITS, SIDE * SIDE) from pixels to what the bits are signs of."""
    single = torch.eye(SIDE * SIDE).reshape(-1, 1, SIDE, SIDE)
    reading = _frequencies()
    sums = torch.randn(BITS, len(reading), generator=draws.generator(0, "signatures"))
    makers = []
    for region in REGIONS:
        grid = F.affine_grid(region.affine()[None], [1, 1, _SAMPLES, _SAMPLES], align_corners=False)
        seen = F.grid_sample(
            single, grid.expand(len(single), -1, -1, -1), align_corners=False,
            padding_mode="border",
        )  # fmt: skip
        makers.append((sums @ reading @ seen.flatten(1).T).contiguous())
    return makers


def _frequencies() -> torch.Tensor:
    """What reads the low frequencies (F, samples) of a region that fades out at its edges.

    High ones are raised as much as they are weaker in photos.
    """
    place = (torch.arange(_SAMPLES) + 0.5) / _SAMPLES
    waves = torch.stack([torch.cos(math.pi * k * place) for k in range(_FREQUENCIES)])
    fade = torch.sin(math.pi * place).sqrt()
    weight = torch.outer(fade, fade)
    found = []
    for u in range(_FREQUENCIES):
        for v in range(_FREQUENCIES):
            if u == v == 0:
                continue
            wave = torch.outer(waves[u], waves[v]) * weight
            wave = wave - weight * (wave.sum() / weight.sum())  # blind to brightness
            found.append((math.hypot(u, v) * wave / wave.norm()).flatten())
    return torch.stack(found)
