"""The user's cache folder: what can be made again, and so may be deleted at any time."""

import os
from pathlib import Path

LIMIT = 8 << 30  # bytes that the remembered pixels may take before the oldest give way


def cache_folder() -> Path:
    """The user's cache: RESLAB_CACHE, else the platform's custom."""
    if given := os.environ.get("RESLAB_CACHE"):
        return Path(given).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "reslab"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "reslab"


def make_room(folder: Path, needed: int) -> None:
    """Delete the files of a cache folder that were used longest ago until `needed` bytes fit."""
    held = sorted(
        (
            (entry.stat().st_mtime, entry.stat().st_size, Path(entry))
            for entry in os.scandir(folder)
        ),
        reverse=True,
    )
    room = LIMIT - needed
    for _, size, path in held:
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)
