"""Writing a file so that a kill, a crash or a full disk leaves the old one or the new one."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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

    Data that is too large to be held at once may come in parts; what comes whole is read back and
    compared before it takes its place. Raises OSError naming the file; the one that stood there
    before is then untouched.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file, so it is not replaced")
    with _named(path):
        temporary = _write_beside(path, data)
        temporary.replace(path)
        _flush_folder(path.parent)


def write_keeping(path: Path, before: Path, data: bytes) -> None:
    """As `write_safely`, but what stood at `path` stays, as `before`.

    At every moment at least one of the two holds what was written whole.
    """
    with _named(path):
        temporary = _write_beside(path, data)
        if path.exists():
            path.replace(before)
        temporary.replace(path)
        _flush_folder(path.parent)


def append_safely(path: Path, data: bytes) -> None:
    """Append to a file, flushed to the disk. Raises OSError naming the file."""
    with _named(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an OSError name the file: a failed write does not by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write_beside(path: Path, data: bytes | Iterable[bytes | memoryview]) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if isinstance(data, bytes) and temporary.read_bytes() != data:
            raise OSError(errno.EIO, "what was written cannot be read back")
        return temporary
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """A rename itself must reach the disk too."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
