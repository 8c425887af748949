"""Arrays on disk by key, in the user's cache: what a frozen network made of pictures."""

import contextlib
import math
import os
import secrets
import time
import zlib
from pathlib import Path

import numpy as np
import torch

from reslab.disk import read_regular
from reslab.pictures.cache import keep
from reslab.pictures.content import KEY

_MARK = 0x52534C42
_ENTRY = np.dtype([("key", KEY), ("checksum", "<u4"), ("mark", "<u4")])


class FeatureStore:
    """Equally shaped arrays by 128-bit key, in a folder that several processes may share.

    Each process appends to files of its own: the values to `<name>.data`, then their keys and
    checksums to `<name>.index`. So what a killed process wrote in full is found again, and what it
    wrote in part is passed over. Where a key stands twice, the newest counts.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.item_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self._parts: list[np.memmap] = []
        self._keys = np.zeros(0, KEY)
        self._places = np.zeros((0, 2), np.int64)  # part, row
        self._checksums = np.zeros(0, np.uint32)
        self._own: Path | None = None
        keep(folder)
        with contextlib.suppress(OSError):  # not there yet, or a cache to be read alone
            os.utime(folder)
        self.refresh()

    def refresh(self) -> None:
        """Look for what this and other processes have written. Raises OSError."""
        self._parts = []
        keys: list[np.ndarray] = [np.zeros(0, KEY)]
        places: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
        checksums: list[np.ndarray] = [np.zeros(0, np.uint32)]
        names = sorted(self.folder.glob("*.index")) if self.folder.is_dir() else []
        for index in names:
            entries, values = self._open(index)
            if values is None:
                continue
            rows = np.flatnonzero(entries["mark"] == _MARK)
            keys.append(entries["key"][rows])
            checksums.append(entries["checksum"][rows])
            places.append(np.stack([np.full(len(rows), len(self._parts)), rows], axis=1))
            self._parts.append(values)
        # The last of equal keys: np.unique gives the first, so they are turned round.
        found, first = np.unique(np.concatenate(keys)[::-1], return_index=True)
        newest = len(np.concatenate(keys)) - 1 - first
        self._keys = found
        self._places = np.concatenate(places)[newest]
        self._checksums = np.concatenate(checksums)[newest]

    def _open(self, index: Path) -> tuple[np.ndarray, np.memmap | None]:
        """The entries of a pair of files whose values are there, and the values."""
        data = index.with_suffix(".data")
        none = np.zeros(0, _ENTRY)
        try:
            count = min(
                index.stat().st_size // _ENTRY.itemsize, data.stat().st_size // self.item_bytes
            )
            if not count:
                return none, None
            entries = np.fromfile(index, _ENTRY, count)
            return entries, np.memmap(data, self.dtype, "r", shape=(count, *self.shape))
        except (OSError, ValueError):  # another process makes room, or what stands there is no file
            return none, None

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where each key's value is found, -1 where it is not."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, -1)

    def undamaged(self, places: np.ndarray) -> np.ndarray:
        """Which of these values are still as they were written: (N,) of bool."""
        return np.array(
            [
                _checksum(self._keys[place], self._value(place)) == self._checksums[place]
                for place in places.tolist()
            ],
            dtype=bool,
        )

    def read(self, places: np.ndarray) -> torch.Tensor:
        """The values at these places: (n, *shape)."""
        out = np.empty((len(places), *self.shape), self.dtype)
        for row, place in enumerate(places.tolist()):
            out[row] = self._value(place)
        return torch.from_numpy(out)

    def _value(self, place: int) -> np.ndarray:
        part, row = self._places[place]
        return np.asarray(self._parts[part][row])

    def remember_error(self, error: float) -> None:
        """Keep how far the values are from those of full precision."""
        with contextlib.suppress(OSError):
            (self.folder / "relative_error").write_text(repr(error), "utf-8")

    def recall_error(self) -> float | None:
        try:
            found = float(read_regular(self.folder / "relative_error", 100))
        except (OSError, ValueError):
            return None
        return found if math.isfinite(found) else None

    def put(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Append values; `refresh` lets them be found. Raises OSError, and leaves no half."""
        if self._own is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Names in the order of time, so that the newest of equal keys is found.
            self._own = self.folder / f"{time.time_ns():020}-{secrets.token_hex(4)}.index"
        data = self._own.with_suffix(".data")
        values = np.ascontiguousarray(values, self.dtype)
        entries = np.zeros(len(keys), _ENTRY)
        entries["key"], entries["mark"] = keys, _MARK
        entries["checksum"] = [
            _checksum(key, value) for key, value in zip(keys, values, strict=True)
        ]
        sizes = [path.stat().st_size if path.exists() else 0 for path in (data, self._own)]
        try:
            for path, content in ((data, values.tobytes()), (self._own, entries.tobytes())):
                with path.open("ab") as file:
                    file.write(content)
        except OSError:
            for path, size in zip((data, self._own), sizes, strict=True):
                with contextlib.suppress(OSError):
                    os.truncate(path, size)
            raise


def _checksum(key: np.void, value: np.ndarray) -> int:
    """Of both: a damaged key must not lend a value to another picture."""
    return zlib.crc32(np.ascontiguousarray(value).data, zlib.crc32(key.tobytes()))
