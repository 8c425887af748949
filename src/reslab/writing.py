"""Writing a file so that a kill, a crash or a full disk leaves the old one or the new one."""

import os
from collections.abc import Iterable
from pathlib import Path

from reslab.errors import InputError


def refuse_foreign(path: Path, option: str, mark: bytes, what: str) -> None:
    """Refuse to write over a file that does not begin with our own mark within its first KiB."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{option} {path}: name a file in a folder that exists, for {what}")
    if path.exists():
        with path.open("rb") as file:
            if not path.is_file() or mark not in file.read(1024):
                raise InputError(f"{option} {path}: stands there and is not {what}; name another")


def write_safely(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Replace `path` by `data` in one step: a temporary file beside it, flushed, then renamed.

    Data that is too large to be held at once may come in parts.
    Raises OSError; the file that stood there before is then untouched.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file, so it is not replaced")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
