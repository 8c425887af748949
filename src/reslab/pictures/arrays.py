"""Arrays kept in a file of the cache: safetensors, with a header and a checksum.

What is damaged or of another format is not used, and nothing is lost but time.
"""

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from reslab.disk import write_safely
from reslab.errors import InputError
from reslab.pictures.cache import make_room

_KINDS = {"uint8": "U8", "int32": "I32", "int64": "I64", "uint64": "U64"}


def keep_arrays(path: Path, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Keep arrays with a header, whose `format` is looked at later.

    A full or read-only disk, or what stands in its place, costs the memory of them, not the run.
    """
    parts = _parts(arrays, header | {"checksum": _checksum(arrays, header)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if make_room(path, sum(part.nbytes for part in parts)):
            write_safely(path, parts)
    except (OSError, InputError):
        pass


def kept_arrays(path: Path, form: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The header and the arrays, or None if they are not there, damaged or of another format."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="np") as opened:
            header = json.loads((opened.metadata() or {})["reslab"])
            # An opened file is no dictionary: it cannot be iterated over itself.
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        found = header.pop("checksum", None)
        if header.get("format") != form or found != _checksum(arrays, header):
            return None
    except Exception:  # whatever stands there in the place of what was written
        return None
    with contextlib.suppress(OSError):  # a cache may be read and not written
        os.utime(path)
    return header, arrays


def _parts(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> list[memoryview]:
    """A safetensors file of the arrays, which its own function would copy twice over."""
    table: dict[str, Any] = {"__metadata__": {"reslab": json.dumps(header)}}
    parts, end = [], 0
    for name, values in sorted(arrays.items(), key=lambda item: -item[1].itemsize):
        start, end = end, end + values.nbytes
        kind = _KINDS[values.dtype.name]
        table[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [start, end]}
        if values.size:  # a memoryview of nothing cannot be cast
            parts.append(np.ascontiguousarray(values).data.cast("B"))
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *parts]


def _checksum(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> int:
    value = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for key in sorted(arrays):
        if arrays[key].size:
            value = zlib.crc32(np.ascontiguousarray(arrays[key]).data.cast("B"), value)
    return value
