"""What an earlier command read: content keys, and small pictures' pixels, by the files' stamps.

A file whose size, times and inode are those of the earlier reading is not read again, as git
does it. A table is one safetensors file in the cache folder, guarded by a checksum; one that is
damaged or does not fit is not used, and nothing is lost but time.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reslab.pictures.arrays import keep_arrays, kept_arrays
from reslab.pictures.cache import cache_folder
from reslab.pictures.content import KEY
from reslab.pictures.names import Names
from reslab.pictures.pixel_file import KeptPixels, PixelFile

FORMAT = 2
WORTH_KEEPING = 1000  # fewer files are read anew sooner than their table is looked after
_SETTLED = 2_000_000_000  # nanoseconds after which a later change shows in a file's times


@dataclass(frozen=True)
class Reading:
    """What is known of files: rows of stamps (N, 4), content keys (N,) and perhaps pixels.

    pixels: uint8 (N, 3, H, W), where all pictures are small and of one size. lacking: (3, H, W)
    where they may be so and there was no memory for them. kept: these, where a file has them.
    """

    names: Names
    stamps: np.ndarray
    keys: np.ndarray
    pixels: np.ndarray | None
    lacking: tuple[int, ...] | None = None
    kept: KeptPixels | None = None

    def fits(self) -> bool:
        """Whether its arrays belong together."""
        count = len(self.names)
        arrays = [(self.stamps, (count, 4), "int64"), (self.keys, (count,), KEY)]
        if self.pixels is not None:
            arrays.append((self.pixels, (count, *self.pixels.shape[1:]), "uint8"))
        if self.kept is not None:
            arrays.append((self.kept.rows, (count,), "int32"))
        return all(found.shape == shape and found.dtype == kind for found, shape, kind in arrays)

    def rows_of(self, names: Names, stamps: np.ndarray) -> np.ndarray:
        """For each file the row that still holds for it, or -1."""
        rows = self.names.matching(names)
        same = (self.stamps[rows] == stamps).all(1) & (stamps[:, 0] >= 0) & (rows >= 0)
        return np.where(same, rows, -1)


def recall(location: Path, split: str, names: Names) -> Reading | None:
    """The last reading of these files, or else the newest of this split in their place."""
    exact = _place(location, split, names)
    try:
        others = sorted(exact.parent.glob(f"{exact.name[:16]}-*"), key=os.path.getmtime)
        for path in [exact] if exact.exists() else others[-1:]:
            found = _read(path)
            if found is not None:
                return found
    except OSError:
        pass  # no cache folder, or not ours to read: the files themselves are there
    return None


def remember(location: Path, split: str, reading: Reading, began: int) -> None:
    """Keep a reading that began at a time (in ns); nothing happens where that is not possible.

    A file changed just before may change again without its times showing it: it is not trusted.
    """
    if len(reading.names) < WORTH_KEEPING:
        return
    fresh = reading.stamps[:, 1:3].max(1) > began - _SETTLED
    stamps = np.where(fresh[:, None], -1, reading.stamps)
    arrays = {
        "names": reading.names.text()[:-1],
        "stamps": stamps,
        "keys": np.ascontiguousarray(reading.keys).view(np.uint64).reshape(-1, 2),
    }
    if reading.pixels is not None:
        arrays["pixels"] = reading.pixels
    header: dict[str, Any] = {"format": FORMAT, "lacking": reading.lacking}
    if reading.kept is not None:
        arrays["rows"] = reading.kept.rows
        header["kept"] = {"key": reading.kept.file.key, "shape": reading.kept.file.shape}
    keep_arrays(_place(location, split, reading.names), arrays, header)


def now() -> int:
    return time.time_ns()


def _place(location: Path, split: str, names: Names) -> Path:
    def digest(data: bytes | memoryview) -> str:
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    place = f"{split}{chr(0)}{os.path.realpath(location)}".encode("utf-8", "surrogateescape")
    where, what = digest(place), digest(names.text()[:-1].data)
    return cache_folder() / "read" / f"{where}-{what}.safetensors"


def _read(path: Path) -> Reading | None:
    kept = kept_arrays(path, FORMAT)
    if kept is None:
        return None
    header, arrays = kept
    try:
        names = Names(np.append(arrays["names"], np.uint8(0)))
        keys = np.ascontiguousarray(arrays["keys"]).view(KEY).reshape(-1)
        lacking = tuple(map(int, header.get("lacking") or ())) or None
        in_file = _in_file(header.get("kept"), arrays)
        found = Reading(names, arrays["stamps"], keys, arrays.get("pixels"), lacking, in_file)
    except Exception:  # another table than this one
        return None
    return found if found.fits() else None


def _in_file(told: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> KeptPixels | None:
    """The pixels in the file that a table's header names, if it is still there."""
    file = PixelFile.find(told["key"], tuple(told["shape"])) if told else None
    return None if file is None else KeptPixels(file, arrays["rows"])
