"""The user's cache folder: what can be made again, and so may be deleted at any time."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reslab.disk import user_path
from reslab.errors import InputError

KINDS = {
    "features": "what frozen networks made of pictures",
    "pixels": "decoded pictures for which there was no memory",
    "read": "what is known of files read before",
    "shards": "where pictures lie in tar shards",
    "copies": "which pictures are near copies",
    "precision": "whether bf16 was faster",
}
LEAST = 8 << 30  # bytes that each kind may take; half of the free disk if that is more
_DAY = 86_400.0
_OURS = re.compile(r"[0-9a-f]{16}-?[0-9a-f]{16}(\.\w+)?")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_in_use: set[Path] = set()


@dataclass(frozen=True)
class Entry:
    """A file or folder of the cache; `used` is when it was last written or read, as time.time."""

    path: Path
    kind: str
    size: int
    used: float


def cache_folder() -> Path:
    """The user's cache: RESLAB_CACHE, else the platform's custom."""
    if given := os.environ.get("RESLAB_CACHE"):
        return user_path(given)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "reslab"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "reslab"


def keep(path: Path) -> None:
    """Let this process make no room by deleting what it works with."""
    _in_use.add(path)


def size_of(text: str, what: str = "") -> int:
    """Bytes of text such as 500MB or 20GB, which `what` was given. Raises InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B|)", text.strip().upper())
    if not found:
        raise InputError(f"{what} {text!r} is no size; such as 500MB, 20GB or 0".lstrip())
    size = float(found[1][:30]) * _UNITS[found[2] if found[2] != "B" else ""]
    return int(min(size, 2.0**62))


def entries(folder: Path) -> list[Entry]:
    """What a kind's folder of the cache holds, as far as it is reslab's. Raises OSError."""
    found = []
    # A link in a kind's place leads to what is not ours to count or delete.
    inside = folder.is_dir() and not folder.is_symlink()
    for path in folder.iterdir() if inside else ():
        if path.is_symlink():
            continue
        if _OURS.fullmatch(path.name):
            try:
                files = [path, *path.iterdir()] if path.is_dir() else [path]
                stats = [file.stat() for file in files]
            except FileNotFoundError:  # another process makes room
                continue
            size = sum(
                one.st_size for one, file in zip(stats, files, strict=True) if file.is_file()
            )
            found.append(Entry(path, folder.name, size, max(one.st_mtime for one in stats)))
    return found


def contents() -> list[Entry]:
    """Everything of reslab's in the cache. Raises OSError."""
    folders = [cache_folder() / kind for kind in KINDS]
    return [entry for folder in folders if folder.is_dir() for entry in entries(folder)]


def prune(limit: int, held: list[Entry]) -> list[Entry]:
    """Delete those used longest ago until the others fit into `limit` bytes; what was deleted.

    What this process works with stays. Raises OSError.
    """
    deleted = []
    for entry in sorted(held, key=lambda entry: entry.used, reverse=True):
        limit -= entry.size
        if limit < 0 and entry.path not in _in_use:
            if entry.path.is_dir():
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                entry.path.unlink(missing_ok=True)
            deleted.append(entry)
    return deleted


def limit_of(folder: Path) -> int:
    """How many bytes a kind's folder may take, as the disk is now, or as RESLAB_CACHE_LIMIT says.

    Raises OSError, and InputError if that is no size.
    """
    given = os.environ.get("RESLAB_CACHE_LIMIT")
    free = shutil.disk_usage(folder).free
    return size_of(given, "RESLAB_CACHE_LIMIT") if given else max(LEAST, free // 2)


def make_room(path: Path, needed: int) -> bool:
    """Whether `needed` more bytes may be written to `path`, a file or folder of a kind's folder.

    What was used longest ago of that kind is deleted until it fits, and what an ended process left
    half written. Raises as `limit_of`.
    """
    limit = limit_of(path.parent)
    own = sum(entry.size for entry in entries(path.parent) if entry.path == path)
    if needed > shutil.disk_usage(path.parent).free or own + needed > limit:
        return False
    leave(limit - needed - own, path)
    return True


def leave(limit: int, path: Path) -> None:
    """Let all of a kind but `path` take at most `limit` bytes, and be whole. Raises OSError."""
    for left in _leftovers(path.parent):
        left.unlink(missing_ok=True)
    prune(limit, [entry for entry in entries(path.parent) if entry.path != path])


def _leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files of ours, .NAME.PROCESS.tmp, of processes that ended long ago."""
    for path in folder.iterdir():
        if path.name.endswith(".tmp") and _OURS.match(path.name[1:]):
            try:
                old = time.time() - path.stat().st_mtime > _DAY
            except FileNotFoundError:
                continue
            if old:
                yield path
