"""The one way to open files, and to write them so that a kill or a full disk leaves old or new.

Whatever a user or a cache may put in a file's place, a pipe, a device, a folder, a link to itself,
none of these functions waits for it or raises anything but OSError or InputError.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from uuid import uuid4

from reslab.errors import InputError

# A pipe is not waited for; on Windows bytes are left as they are.
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MOST_NAMED = 1_000_000


def user_path(written: str | Path) -> Path:
    """A path as the user wrote it, ~ opened. Raises InputError if it can be none."""
    if "\0" in str(written):
        raise InputError(f"{str(written)!r}: no path, it holds a NUL")
    try:
        return Path(written).expanduser()
    except RuntimeError:  # ~name of nobody: a file may be called that
        return Path(written)


def expanded(written: str | Path) -> list[Path]:
    """The paths that braces stand for: shards/{000..099}.tar is a hundred of them.

    One path where there are no such braces. Raises InputError if it can be none, or they stand for
    more than a million.
    """
    text = str(written)
    found = _RANGE.search(text)
    if found is None:
        return [user_path(text)]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= _MOST_NAMED:
        raise InputError(f"{text}: {found[0]} counts from {first:,} to {last:,}")
    width = len(found[1]) if len(found[1]) == len(found[2]) else 0
    names = (
        f"{text[: found.start()]}{number:0{width}d}{text[found.end() :]}"
        for number in range(first, last + 1)
    )
    return [path for name in names for path in expanded(name)]


def real_path(path: str | Path) -> Path:
    """A path with its links followed, as far as they lead somewhere."""
    return Path(os.path.realpath(path))


def refuse_unwritable_name(path: str | Path, option: str) -> None:
    """Raise InputError for a name that cannot stand in run.json and tables: bytes, no UTF-8."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError(f"{option} {shown}: the name is not UTF-8; choose another") from None


def folder_to_fill(target: str | Path, option: str) -> Path:
    """The folder an option names, there or to be made in one that is. Raises InputError."""
    path = user_path(target)
    refuse_unwritable_name(path, option)
    if path.exists() and not path.is_dir():
        raise InputError(f"{option} {path}: a file stands there; name a folder")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: {path.parent} is no folder")
    return path


def open_regular(path: str | Path) -> BufferedReader:
    """A regular file to be read. Raises OSError for anything else, without waiting for it."""
    return os.fdopen(_opened(path)[0], "rb")


def read_regular(path: str | Path, most: int | None = None) -> bytes:
    """The bytes of a regular file. Raises OSError for anything else, and above `most` bytes."""
    number, size = _opened(path)
    try:
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB", str(path))
        # By bare calls: a file object costs as much again as reading a small picture.
        data = os.read(number, size + 1)
        if len(data) == size:
            return data
        parts = [data]  # it is read in parts, or has grown since
        while part := os.read(number, 1 << 20):
            parts.append(part)
            if most is not None and sum(map(len, parts)) > most:
                raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB", str(path))
        return b"".join(parts)
    finally:
        os.close(number)


def _opened(path: str | Path) -> tuple[int, int]:
    """(descriptor, size) of a regular file."""
    try:
        number = os.open(path, _READING)
    except ValueError as error:  # a name with a NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return number, found.st_size


def refuse_foreign(path: Path, option: str, is_ours: Callable[[bytes], bool], what: str) -> None:
    """Refuse to write over a file unless `is_ours` knows its first KiB."""
    refuse_unwritable_name(path, option)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{option} {path}: name a file in a folder that exists, for {what}")
    if not path.exists():
        return
    try:
        with open_regular(path) as file:
            ours = is_ours(file.read(1024))
    except OSError:
        ours = False
    if not ours:
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


class Replacement:
    """A file of no name yet, to be written in any order; `discard` leaves nothing of it."""

    def __init__(self, folder: Path) -> None:
        """folder: where it will stand. Raises OSError."""
        # 32 hexadecimal digits: so the cache knows what an ended process left half written.
        self._path = folder / f".{uuid4().hex}.{os.getpid()}.tmp"
        self.file = self._path.open("wb")

    def finish(self, path: Path) -> None:
        """Let it take the place of `path`, which is untouched if that fails.

        Raises OSError naming it, or InputError if a folder stands there, a pipe or the like.
        """
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file, so it is not replaced")
        with _named(path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self._path.replace(path)
            _flush_folder(path.parent)

    def discard(self) -> None:
        """Delete it, unless it is finished."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


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
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file, so nothing is added to it")
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
