"""The pixels of samples at the size a network wants them, a batch at a time."""

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from reslab.errors import InputError
from reslab.pictures.decoding import UnreadablePictureError, with_channels
from reslab.pictures.pixel_file import PixelFile
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import (
    Track,
    in_threads,
    memory_budget,
    read_picture,
    threads_for,
    untracked,
)
from reslab.pictures.table import Samples


class PixelStore:
    """The pixels of samples, fitted to a target, a batch at a time.

    Small pictures that were kept as they are, in memory or in a file, get fitted when they are
    taken. Others are decoded when they are taken, until `fill` has kept them all, or `fill_as_read`
    those once taken.
    """

    def __init__(self, samples: Samples, target: Preprocessing) -> None:
        self.samples = samples
        self.target = target
        self._small = samples.pixels
        self._kept = samples.kept
        self._fitted: torch.Tensor | None = None
        self._known: torch.Tensor | None = None
        self._file: PixelFile | None = None
        self._lacks_room = False

    def fill(
        self, *, budget: int | None = None, track: Track = untracked, what: str = "reading"
    ) -> "PixelStore":
        """Fit every picture once and keep it, for those who come back to them in every epoch.

        They are kept in memory where `budget` bytes suffice, else in a file of the cache folder,
        which the next run uses too. Without room on the disk they are still decoded each time.
        """
        if self._small is not None:
            return self
        shape = (len(self.samples), self.target.channels, *self.target.size)
        limit = memory_budget() if budget is None else budget
        rows = track(self._each(), what, len(self))
        if math.prod(shape) <= limit:
            self._fitted = torch.empty(shape, dtype=torch.uint8)
            for row, pixels in rows:
                self._fitted[row] = pixels
        elif self._kept is None:
            self._file = PixelFile.find_or_write(_key(self.samples, self.target), shape, rows)
            self._lacks_room = self._file is None
        return self

    def _each(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Every row and its pixels, in the order in which they are read fastest."""
        files, names = self.samples.files, self.samples.paths
        order = None if files is None else files.nearby(names)

        def read(row: int) -> tuple[int, torch.Tensor]:
            return row, self.read(row)

        rows = np.arange(len(self)) if order is None else order
        threads = None if self._kept is not None else threads_for(self.samples, rows)
        yield from in_threads(read, map(int, rows), threads=threads)

    def fill_as_read(self) -> "PixelStore":
        """Keep every picture when it is first taken, for those who may not come to all of them.

        Where memory does not suffice for all, none is kept.
        """
        shape = (len(self.samples), self.target.channels, *self.target.size)
        if self._small is None and self._fitted is None and math.prod(shape) <= memory_budget():
            self._fitted = torch.empty(shape, dtype=torch.uint8)
            self._known = torch.zeros(len(self.samples), dtype=torch.bool)
        return self

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """The pixels of these rows, uint8 (n, C, *target.size)."""
        if self._fitted is not None:
            self._read_unknown(rows)
            return self._fitted[rows]
        if self._small is not None:
            return self._fit(self._small.of(rows))
        found = [self._row_of_file(row) for row in rows.tolist()]
        lost = [row for row, pixels in zip(rows.tolist(), found, strict=True) if pixels is None]
        read = self.read if self._kept is None else self._read_whole
        decoded = in_threads(read, lost) if lost else iter(())
        pixels = torch.stack([next(decoded) if one is None else one for one in found])
        return pixels if self._kept is None else self._fit(pixels)

    def _row_of_file(self, row: int) -> torch.Tensor | None:
        """A picture's pixels from the file that has them, small ones as they are; None if lost."""
        if self._kept is not None:
            return self._kept.of(row)
        return None if self._file is None else self._file.row(row)

    def _read_whole(self, row: int) -> torch.Tensor:
        return read_picture(self.samples, row, 3)

    def _fit(self, small: torch.Tensor) -> torch.Tensor:
        try:
            return self.target.fit(with_channels(small, self.target.channels))
        except UnreadablePictureError as error:
            raise InputError(str(error)) from None

    def _read_unknown(self, rows: torch.Tensor) -> None:
        """Read those of the rows that are to be kept and were not taken before."""
        if self._known is None or self._fitted is None:
            return
        unknown = sorted(set(rows[~self._known[rows]].tolist()))
        for row, pixels in zip(unknown, in_threads(self.read, unknown), strict=True):
            self._fitted[row] = pixels
            self._known[row] = True

    @property
    def decodes(self) -> bool:
        """Whether taking pixels means reading files."""
        kept = self._fitted is not None and (self._known is None or bool(self._known.all()))
        return self._small is None and not kept

    @property
    def note(self) -> str | None:
        """What the user should hear of how the pixels are kept."""
        if self._lacks_room:
            return (
                "the pictures fit neither into memory nor into the cache folder, so they are"
                " decoded again each time; RESLAB_CACHE names another folder"
            )
        return None

    def read(self, row: int) -> torch.Tensor:
        """One picture's pixels, from its file: uint8 (C, *target.size)."""
        if self._small is not None:
            return self.take(torch.tensor([row]))[0]
        if self._kept is not None:
            pixels = self._kept.of(row)
            return self._fit((self._read_whole(row) if pixels is None else pixels)[None])[0]
        return read_picture(self.samples, row, self.target.channels, self.target.read)


def _key(samples: Samples, target: Preprocessing) -> str:
    """Names the pixels of these contents, in this order, brought to this target."""
    kept = {"size", "mode", "interpolation", "crop_fraction", "channels"}
    if target.mode == "letterbox":
        kept.add("mean")  # what the borders are filled with
    text = target.model_dump_json(include=kept)
    return hashlib.blake2b(text.encode() + samples.keys.tobytes(), digest_size=16).hexdigest()
