"""Small pictures' pixels as they are first read: in memory, or in a file of the cache."""

import hashlib
import math
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

from reslab.errors import InputError
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.pixel_file import KeptPixels, PixelFile, PixelWriter
from reslab.pictures.remembered import Reading


class SmallPixels:
    """Pixels of the pictures read so far, as long as all are small and of one size.

    They are in memory, or on their way into a file where `budget` bytes do not suffice.
    """

    def __init__(self, count: int, budget: int) -> None:
        self._count = count
        self._budget = budget
        self._pixels: np.ndarray | None = None
        self._writer: PixelWriter | None = None
        self._kept: KeptPixels | None = None
        self._given_up = False
        self.lacking: tuple[int, ...] | None = None  # the shape for which there is no memory

    def put(self, row: int, pixels: torch.Tensor | None) -> None:
        """The pixels of a row, uint8 (3, H, W), or None if it is no small picture."""
        if pixels is None or not self._takes(tuple(pixels.shape)):
            self._give_up()
        elif self._pixels is not None:
            self._pixels[row] = pixels.numpy()
        elif self._writer is not None:
            try:
                self._writer.put(row, pixels)
            except OSError:  # a full disk: they are decoded again
                self._give_up()

    def put_many(self, known: np.ndarray, rows: np.ndarray, earlier: Reading) -> None:
        """What an earlier reading has of the known rows, a mask: at these rows of its own.

        Without pixels those of the other rows are of no use either. A row whose pixels are lost
        becomes -1: it must be read again.
        """
        if not known.any():
            return
        held = earlier.pixels
        if held is not None:
            if known.all() and np.array_equal(rows, np.arange(len(held))):
                self._pixels = held  # as they are: there may be no room for a copy
            else:
                self._copy(known, rows, lambda row: torch.from_numpy(held[row]))
        elif earlier.kept is None:
            self.lacking = earlier.lacking
            self._give_up()
        elif known.all() and not self.fits(earlier.lacking):
            self.lacking = earlier.lacking
            self._kept = earlier.kept.take(rows)
        else:
            self._copy(known, rows, earlier.kept.of)

    def fits(self, shape: tuple[int, ...] | None) -> bool:
        """Whether there is memory for all pictures, if each has this shape."""
        return shape is not None and math.prod(shape) * self._count <= self._budget

    def held(self) -> HeldPixels | None:
        """All pixels, where they are in memory."""
        return None if self._pixels is None else HeldPixels(torch.from_numpy(self._pixels))

    def kept(self, keys: np.ndarray) -> KeptPixels | None:
        """All pixels where they are in a file; keys: of the pictures' contents, (N,)."""
        if self._writer is not None and self.lacking is not None:
            told = repr(self.lacking).encode() + keys.tobytes()
            key = hashlib.blake2b(told, digest_size=16).hexdigest()
            shape = (self._count, *self.lacking)
            found = PixelFile.find(key, shape)
            if found is None:
                with suppress(OSError, InputError):
                    self._writer.finish(key)
                found = PixelFile.find(key, shape)
            if found is not None:
                self._kept = KeptPixels(found, np.arange(self._count, dtype=np.int32))
        return self._kept

    def close(self) -> None:
        """Leave nothing of a file that is not finished."""
        if self._writer is not None:
            self._writer.discard()

    def _copy(
        self, known: np.ndarray, rows: np.ndarray, pixels_of: Callable[[int], torch.Tensor | None]
    ) -> None:
        for row in np.flatnonzero(known).tolist():
            if self._given_up:
                return
            pixels = pixels_of(int(rows[row]))
            if pixels is None:  # damaged meanwhile
                rows[row] = -1
            else:
                self.put(row, pixels)

    def _takes(self, shape: tuple[int, ...]) -> bool:
        """Whether pictures of this shape have a place, which the first one makes."""
        if self._given_up:
            return False
        if self._pixels is not None:
            return self._pixels.shape[1:] == shape
        if self._writer is not None:
            return self.lacking == shape
        if self.fits(shape):
            self._pixels = np.zeros((self._count, *shape), dtype=np.uint8)
            return True
        self.lacking = shape
        with suppress(OSError, InputError):
            self._writer = PixelWriter((self._count, *shape))
        return self._writer is not None

    def _give_up(self) -> None:
        self._given_up = True
        self._pixels = None
        self.close()
        self._writer = None
