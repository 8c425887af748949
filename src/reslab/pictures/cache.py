"""The user's cache folder: what can be made again, and so may be deleted at any time."""

import os
import shutil
import time
from pathlib import Path

LEAST = 8 << 30  # bytes that a kind of file may take in the cache; half of the free disk if more
_DAY = 86_400.0
_in_use: set[Path] = set()


def cache_folder() -> Path:
    """The user's cache: RESLAB_CACHE, else the platform's custom."""
    if given := os.environ.get("RESLAB_CACHE"):
        return Path(given).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "reslab"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "reslab"


def keep(path: Path) -> None:
    """Let this process make no room by deleting a file it works with."""
    _in_use.add(path)


def make_room(path: Path, needed: int) -> bool:
    """Whether a file of `needed` bytes may be written to `path` in the cache.

    Files of its kind beside it that were used longest ago are deleted until it fits, and what an
    ended process left half written. Raises OSError.
    """
    limit = max(LEAST, shutil.disk_usage(path.parent).free // 2)
    if needed > min(limit, shutil.disk_usage(path.parent).free):
        return False
    held = []
    for other in path.parent.iterdir():
        try:
            found = other.stat()
        except FileNotFoundError:
            continue
        if _is_leftover(other, path.suffix):
            if time.time() - found.st_mtime > _DAY:
                other.unlink(missing_ok=True)
        elif other.suffix == path.suffix:
            held.append((found.st_mtime, found.st_size, other))
    room = limit - needed
    for _, size, other in sorted(held, reverse=True):
        room -= size
        if room < 0 and other not in _in_use and other != path:
            other.unlink(missing_ok=True)
    return True


def _is_leftover(path: Path, suffix: str) -> bool:
    """A temporary file of ours: .NAME.SUFFIX.PROCESS.tmp."""
    return path.name.startswith(".") and path.name.endswith(".tmp") and f"{suffix}." in path.name
