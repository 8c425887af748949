"""Pixels for which there is no memory: rows of one size in a memory-mapped file of the cache."""

import contextlib
import errno
import math
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reslab.disk import Replacement
from reslab.errors import InputError
from reslab.pictures.cache import cache_folder, keep, leave, limit_of

_MARK = b"reslab pixels 1\n"


class PixelFile:
    """All rows, then a checksum for each, then a mark."""

    def __init__(self, key: str, shape: tuple[int, ...]) -> None:
        """shape: (N, C, H, W). Raises OSError, or ValueError for a file that is shorter."""
        path = _path(key)
        self.key, self.shape = key, shape
        self._rows = np.memmap(path, np.uint8, "r", 0, shape)
        self._checksums = np.fromfile(path, np.uint32, shape[0], offset=math.prod(shape))
        keep(path)
        with contextlib.suppress(OSError):  # a cache may be read and not written
            os.utime(path)

    @classmethod
    def find(cls, key: str, shape: tuple[int, ...]) -> "PixelFile | None":
        """The whole file that was finished under this key, if there is one."""
        try:
            return cls(key, shape) if _is_whole(_path(key), shape) else None
        except (OSError, ValueError):
            return None

    @classmethod
    def find_or_write(
        cls, key: str, shape: tuple[int, ...], rows: Iterable[tuple[int, torch.Tensor]]
    ) -> "PixelFile | None":
        """The file of an earlier run, else a new one; None where the disk does not take it.

        What `rows` raises of a picture is raised.
        """
        found = cls.find(key, shape)
        if found is not None:
            return found
        try:
            writer = PixelWriter(shape)
        except (OSError, InputError):
            return None
        with writer:
            for row, pixels in rows:
                try:
                    writer.put(row, pixels)
                except OSError:
                    return None
            with contextlib.suppress(OSError, InputError):
                writer.finish(key)
        return cls.find(key, shape)

    def row(self, number: int) -> torch.Tensor | None:
        """A picture's pixels, or None if the file does not hold what was written."""
        pixels = np.array(self._rows[number])
        if zlib.crc32(pixels.data) != self._checksums[number]:
            return None
        return torch.from_numpy(pixels)


class PixelWriter:
    """Rows on their way into a file, in any order; nothing is left of one that is not finished."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Raises OSError where the cache takes no such file, InputError for its wrong limit."""
        folder = cache_folder() / "pixels"
        folder.mkdir(parents=True, exist_ok=True)
        self._limit = limit_of(folder) - _size(shape)
        if self._limit < 0 or _size(shape) > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        self._shape = shape
        self._checksums = np.zeros(shape[0], np.uint32)  # not that of zeros: no row but those put
        self._new = Replacement(folder)

    def __enter__(self) -> "PixelWriter":
        return self

    def __exit__(self, *raised: object) -> None:
        self.discard()

    def put(self, row: int, pixels: torch.Tensor) -> None:
        """Write a picture's pixels, uint8 (C, H, W). Raises OSError."""
        data = pixels.contiguous().numpy().data
        self._checksums[row] = zlib.crc32(data)
        self._new.file.seek(row * math.prod(self._shape[1:]))
        self._new.file.write(data)

    def finish(self, key: str) -> None:
        """Let the file stand under a key. Raises OSError or InputError."""
        self._new.file.seek(math.prod(self._shape))
        self._new.file.write(self._checksums.data)
        self._new.file.write(_MARK)
        self._new.finish(_path(key))
        leave(self._limit, _path(key))  # not before: it might have come to nothing

    def discard(self) -> None:
        """Leave nothing, unless it is finished."""
        self._new.discard()


@dataclass(frozen=True)
class KeptPixels:
    """Samples' pixels as rows of a file: int32 (N,)."""

    file: PixelFile
    rows: np.ndarray

    def take(self, rows: np.ndarray) -> "KeptPixels":
        return KeptPixels(self.file, self.rows[rows])

    def of(self, sample: int) -> torch.Tensor | None:
        """A sample's pixels, uint8 (C, H, W), or None if the file does not hold them any more."""
        return self.file.row(int(self.rows[sample]))

    @staticmethod
    def joined(parts: "list[KeptPixels | None]") -> "KeptPixels | None":
        """Those of several groups of samples, one after another, where one file holds all."""
        held = [part for part in parts if part is not None]
        if len(held) < len(parts) or any(part.file is not held[0].file for part in held):
            return None
        return KeptPixels(held[0].file, np.concatenate([part.rows for part in held]))


def _path(key: str) -> Path:
    return cache_folder() / "pixels" / f"{key}.u8"


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape) + 4 * shape[0] + len(_MARK)


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    if not path.is_file() or path.stat().st_size != _size(shape):
        return False
    with path.open("rb") as file:
        file.seek(-len(_MARK), os.SEEK_END)
        return file.read() == _MARK
