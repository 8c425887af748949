"""Where bytes come from: a folder or a zip archive, both read only, with the same three calls."""

import errno
import os
import threading
import unicodedata
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from reslab.disk import read_regular
from reslab.errors import InputError
from reslab.pictures.names import NameList, Names

PICTURE_SUFFIXES = frozenset(
    [
        *[".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp"],
        *[".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif"],
    ]
)

LARGEST_FILE = 128 << 20  # bytes of a picture that are read, or unpacked, at most
LARGEST_LIST = 8 << 30  # and of a list of pictures
Stamp = tuple[int, int, int, int]
_FEW, _SHARE = 100, 4  # a folder is listed as far as this and so many times what is asked of it
_NO_STAMP = (-1, -1, -1, -1)


def is_picture_name(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in PICTURE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether any part of a relative path starts with a dot, or is an archive's own litter."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


class Files(Protocol):
    """A read-only tree of files, addressed by relative names with forward slashes."""

    @property
    def location(self) -> Path: ...

    def names(self) -> Names:
        """Every file that is not hidden, sorted."""
        ...

    def folders(self) -> list[str]:
        """Every folder that is not hidden, sorted: an empty class folder counts too."""
        ...

    def read(self, name: str, most: int = LARGEST_FILE) -> bytes:
        """The bytes of a file. Raises OSError, also for more than `most`."""
        ...

    def stamps(self, names: Names) -> np.ndarray:
        """Numbers that change when a file does, int64 (N, 4): size, two times in ns, an identity.

        Negative where there is no telling. On Windows the second time is the file's birth, so that
        there an edit of equal size with its time put back goes unseen.
        """
        ...

    def nearby(self, names: Names) -> np.ndarray | None:
        """The rows of names in an order in which they are read fastest; None if it is theirs."""
        ...

    def has(self, name: str) -> bool: ...

    def holds(self, names: Names) -> np.ndarray:
        """Whether each of many files is there: bool (N,)."""
        ...

    def where(self, name: str) -> str:
        """How a message names the file."""
        ...


class Folder:
    """The files below a folder. Symbolic links are followed, but for those that lead back up."""

    def __init__(self, location: Path) -> None:
        self.location = location
        self._walked: tuple[Names, list[str]] | None = None

    def _walk(self) -> tuple[Names, list[str]]:
        if self._walked is None:
            names = NameList()
            folders: list[str] = []
            self._enter("", (), names, folders)
            self._walked = names.names(), sorted(folders)
        return self._walked

    def _enter(
        self, prefix: str, above: tuple[str, ...], names: NameList, folders: list[str]
    ) -> None:
        here = self.location / prefix
        real = os.path.realpath(here)
        if real in above:
            return
        try:
            with os.scandir(here) as entries:
                # With its slash a folder stands where the names of what it holds do.
                found = [
                    entry.name + "/" if entry.is_dir() else entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except OSError as error:
            raise InputError(f"{printable(str(here))}: cannot be read ({error.strerror})") from None
        found.sort()
        for name in found:
            if name.endswith("/"):
                folders.append(prefix + name[:-1])
                self._enter(prefix + name, (*above, real), names, folders)
            else:
                names.append(prefix + name)

    def names(self) -> Names:
        return self._walk()[0]

    def folders(self) -> list[str]:
        return self._walk()[1]

    def read(self, name: str, most: int = LARGEST_FILE) -> bytes:
        # A Path for each of many thousand files costs more than opening one.
        return read_regular(os.path.join(self.location, name), most)  # noqa: PTH118

    def stamps(self, names: Names) -> np.ndarray:
        return _table(map(self._stamp, names))

    def _stamp(self, name: str) -> Stamp:
        try:
            # A Path for each of many thousand files costs more than asking for the stamp.
            found = os.stat(os.path.join(self.location, name))  # noqa: PTH116, PTH118
        except OSError:
            return _NO_STAMP
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino

    def nearby(self, names: Names) -> np.ndarray | None:
        return None

    def has(self, name: str) -> bool:
        # Asked for each file of a list: no Path, as above.
        return os.path.isfile(os.path.join(self.location, name))  # noqa: PTH113, PTH118

    def holds(self, names: Names) -> np.ndarray:
        """As `has` says; a folder of which much is asked for is listed instead, once."""
        numbers: dict[str, int] = {}
        folder_of = array("i")
        for name in names:
            folder_of.append(numbers.setdefault(name.rpartition("/")[0], len(numbers)))
        order = np.argsort(np.frombuffer(folder_of, np.int32), kind="stable")
        ends = np.cumsum(np.bincount(np.frombuffer(folder_of, np.int32), minlength=len(numbers)))
        found = np.empty(len(names), bool)
        for folder, start, end in zip(numbers, [0, *ends], ends, strict=False):
            rows = order[start:end]
            listed = self._files_in(folder, _FEW + _SHARE * len(rows))
            asked = names.take(rows)
            found[rows] = [name.rpartition("/")[2] in listed or self.has(name) for name in asked]
        return found

    def _files_in(self, folder: str, most: int) -> set[str]:
        """The names of some files in a folder: of all, if it holds no more than so many."""
        try:
            with os.scandir(self.location / folder) as entries:
                return {entry.name for entry in islice(entries, most) if entry.is_file()}
        except (OSError, ValueError):
            return set()

    def where(self, name: str) -> str:
        return str(self.location / name)


class Archive:
    """The files in a zip, read in place. A single folder at its top is stepped into."""

    def __init__(self, location: Path) -> None:
        self.location = location
        if not location.is_file():
            raise InputError(f"{location}: not a regular file")
        try:
            self._zip = zipfile.ZipFile(location)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise InputError(f"{location}: not a readable zip archive ({error})") from None
        found = location.stat()
        self._times = found.st_mtime_ns, found.st_ctime_ns
        self._lock = threading.Lock()
        infos = self._zip.infolist()
        names = _member_names(infos)
        members = dict(zip(names, infos, strict=True))
        strange = [repr(name) for name in names if not stays_inside(name)]
        if strange:
            raise InputError(f"{location}: holds names that are no paths inside it:", strange)
        if len(members) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"{location}: holds {len(twice)} name(s) more than once:", twice)
        tops = {name.split("/")[0] for name in members if not is_hidden(name)}
        nested = any("/" in name.rstrip("/") for name in members if not is_hidden(name))
        prefix = f"{tops.pop()}/" if len(tops) == 1 and nested else ""
        # A zip of `train/<class>/...` alone has one top folder too, and it is a split's name.
        if prefix.rstrip("/") in ("train", "test", "val"):
            prefix = ""
        self._prefix = prefix
        self._members = {
            name.removeprefix(prefix): info
            for name, info in members.items()
            if name.startswith(prefix) and name != prefix and not is_hidden(name)
        }

    def names(self) -> Names:
        return Names.of(sorted(name for name in self._members if not name.endswith("/")))

    def folders(self) -> list[str]:
        found = {name.rstrip("/") for name in self._members if name.endswith("/")}
        for name in self._members:
            found.update(
                str(parent) for parent in PurePosixPath(name).parents if str(parent) != "."
            )
        return sorted(found)

    def read(self, name: str, most: int = LARGEST_FILE) -> bytes:
        info = self._members.get(name)
        if info is None:
            raise FileNotFoundError(2, "no such member", self.where(name))
        try:
            # What the archive says of its size may be a lie, so no more is unpacked either.
            data = b""
            if info.file_size <= most:
                with self._lock, self._zip.open(info) as member:
                    data = member.read(most + 1)
        except Exception as error:  # BadZipFile, zlib.error, ...: each codec raises its own
            raise OSError(f"damaged or encrypted in the archive ({error})") from None
        if max(len(data), info.file_size) > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB", name)
        return data

    def stamps(self, names: Names) -> np.ndarray:
        """The members' sizes and checksums, the archive's times."""
        return _table(map(self._stamp, names))

    def _stamp(self, name: str) -> Stamp:
        if name not in self._members:
            return _NO_STAMP
        info = self._members[name]
        return info.file_size, self._times[0], self._times[1], info.CRC

    def nearby(self, names: Names) -> np.ndarray | None:
        return None

    def has(self, name: str) -> bool:
        return name in self._members and not name.endswith("/")

    def holds(self, names: Names) -> np.ndarray:
        return np.fromiter(map(self.has, names), bool, len(names))

    def where(self, name: str) -> str:
        return f"{self.location}:{self._prefix}{name}"


def _table(stamps: Iterable[Stamp]) -> np.ndarray:
    found = array("q")
    for stamp in stamps:
        found.extend(stamp)
    return np.frombuffer(found, np.int64).reshape(-1, 4)


def stays_inside(name: str) -> bool:
    parts = name.removesuffix("/").split("/")
    return not any(part in ("", "..") or "\0" in part for part in parts)


def _member_names(infos: list[zipfile.ZipInfo]) -> list[str]:
    """The members' names; archives made on Chinese Windows hold GBK bytes without saying so.

    Two GBK bytes may happen to be UTF-8, so all names are judged together. Some archivers of
    Windows write backslashes for slashes.
    """
    names = _decoded([_as_written(info) for info in infos])
    windows = not any("/" in name for name in names)
    return [name.replace("\\", "/") for name in names] if windows else names


def _as_written(info: zipfile.ZipInfo) -> str | bytes:
    """A member's name: as text where the archive says what it means, else its bytes."""
    plain = info.orig_filename.split("\0")[0]
    # From Python 3.12 on a name that is told in Unicode beside has taken the other's place.
    told = info.filename not in (plain, plain.replace("\\", "/"))
    if info.flag_bits & 0x800 or told:
        return info.filename
    return plain.encode("cp437", "replace")


def _decoded(names: list[str | bytes]) -> list[str]:
    for encoding in ("utf-8", "gb18030", "cp437"):
        try:
            return [name if isinstance(name, str) else name.decode(encoding) for name in names]
        except UnicodeDecodeError:
            continue
    raise AssertionError("cp437 has a letter for each byte")


def printable(name: str) -> str:
    """A file name that can be printed: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def some_files(names: list[str]) -> str:
    """How many files, and what the first ones are called."""
    shown = ", ".join(printable(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names):,} file{'s' if len(names) > 1 else ''} ({shown})"


def has_control_characters(name: str) -> bool:
    """Whether printing a name could do more than show it, such as steer a terminal."""
    return any(unicodedata.category(letter) == "Cc" for letter in name)
