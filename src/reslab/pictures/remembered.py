"""What an earlier command read: content keys, and small pictures' pixels, by the files' stamps.

A file whose size, times and inode are those of the earlier reading is not read again, as git
does it. A table is one safetensors file in the cache folder, guarded by a checksum; one that is
damaged or does not fit is not used, and nothing is lost but time.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from reslab.disk import write_safely
from reslab.errors import InputError
from reslab.pictures.cache import cache_folder, make_room
from reslab.pictures.content import KEY

FORMAT = 2
WORTH_KEEPING = 1000  # fewer files are read anew sooner than their table is looked after
_SETTLED = 2_000_000_000  # nanoseconds after which a later change shows in a file's times


@dataclass(frozen=True)
class Reading:
    """What is known of files: rows of stamps (N, 4), content keys (N,) and perhaps pixels.

    pixels: uint8 (N, 3, H, W), where all pictures are small and of one size.
    """

    names: tuple[str, ...]
    stamps: np.ndarray
    keys: np.ndarray
    pixels: np.ndarray | None

    def fits(self) -> bool:
        """Whether its arrays belong together."""
        count = len(self.names)
        arrays = [(self.stamps, (count, 4), "int64"), (self.keys, (count,), KEY)]
        if self.pixels is not None:
            arrays.append((self.pixels, (count, *self.pixels.shape[1:]), "uint8"))
        return all(found.shape == shape and found.dtype == kind for found, shape, kind in arrays)

    def rows_of(self, names: tuple[str, ...], stamps: np.ndarray) -> np.ndarray:
        """For each file the row that still holds for it, or -1."""
        if names == self.names:
            rows = np.arange(len(names))
        else:
            known = {name: row for row, name in enumerate(self.names)}
            rows = np.array([known.get(name, -1) for name in names], dtype=np.int64)
        same = (self.stamps[rows] == stamps).all(1) & (stamps[:, 0] >= 0) & (rows >= 0)
        return np.where(same, rows, -1)


def recall(location: Path, split: str, names: tuple[str, ...]) -> Reading | None:
    """The last reading of these files, or else the newest of this split in their place."""
    exact = _place(location, split, names)
    try:
        others = sorted(exact.parent.glob(f"{exact.name[:16]}-*"), key=os.path.getmtime)
        for path in [exact] if exact.exists() else others[-1:]:
            found = _read(path)
            if found is not None:
                with contextlib.suppress(OSError):  # a cache may be read and not written
                    os.utime(path)
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
    text = "\0".join(reading.names).encode("utf-8", "surrogateescape")
    arrays = {
        "names": np.frombuffer(text, np.uint8),
        "stamps": stamps,
        "keys": np.ascontiguousarray(reading.keys).view(np.uint64).reshape(-1, 2),
    }
    if reading.pixels is not None:
        arrays["pixels"] = reading.pixels
    header = {"format": FORMAT, "checksum": _checksum(arrays)}
    data = safetensors.numpy.save(arrays, {"reslab": json.dumps(header)})
    path = _place(location, split, reading.names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if make_room(path, len(data)):
            write_safely(path, data)
    except (OSError, InputError):
        pass  # a full or read-only disk, or what stands in its place, costs the memory, not the run


def now() -> int:
    return time.time_ns()


def _place(location: Path, split: str, names: tuple[str, ...]) -> Path:
    def digest(text: str) -> str:
        data = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    real = os.path.realpath(location)
    where, what = digest(f"{split}{chr(0)}{real}"), digest(chr(0).join(names))
    return cache_folder() / "read" / f"{where}-{what}.safetensors"


def _read(path: Path) -> Reading | None:
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="np") as opened:
            header = json.loads((opened.metadata() or {})["reslab"])
            # An opened file is no dictionary: it cannot be iterated over itself.
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT or header.get("checksum") != _checksum(arrays):
            return None
        text = arrays["names"].tobytes().decode("utf-8", "surrogateescape")
        names = tuple(text.split("\0"))
        keys = np.ascontiguousarray(arrays["keys"]).view(KEY).reshape(-1)
        found = Reading(names, arrays["stamps"], keys, arrays.get("pixels"))
    except Exception:  # whatever stands there in the place of what was written
        return None
    return found if found.fits() else None


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    value = 0
    for key in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[key]).data.cast("B"), value)
    return value
