"""Photos sorted by what they show: copied into a folder a class, never moved, nothing replaced."""

import filecmp
import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from reslab.disk import real_path, refuse_unwritable_name, user_path
from reslab.errors import InputError
from reslab.using.prediction import UNKNOWN, Prediction

_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(1, 10))}
_STRANGE = set('/\\:*?"<>|')


def refuse_unsortable(target: str | Path, classes: Sequence[str]) -> Path:
    """The folder to copy into. Raises InputError if it, or a class's folder, cannot be."""
    path = user_path(target)
    refuse_unwritable_name(path, "--copy-to")
    if path.exists() and not path.is_dir():
        raise InputError(f"--copy-to {path}: a file stands there; name a folder")
    if not path.parent.is_dir():
        raise InputError(f"--copy-to {path}: {path.parent} is no folder")
    strange = [
        repr(name)
        for name in classes
        if set(name) & _STRANGE
        or name.upper().split(".")[0] in _RESERVED
        or name.startswith(".")
        or name.endswith((".", " "))
        or len(name.encode()) > 255
    ]
    if strange:
        raise InputError("--copy-to: names of classes that no folder can have everywhere:", strange)
    if UNKNOWN in classes:
        raise InputError(f"--copy-to: the model has a class {UNKNOWN!r}, the folder of its doubts")
    return path


def copy_into_class(found: Prediction, target: Path) -> Path:
    """Copy a predicted file into the folder of its label, and return where it is.

    A file of that name that holds something else stays, and the copy is numbered: "name (2).jpg".
    An equal one is that very copy. Raises OSError naming the file.
    """
    source = user_path(found.path)
    folder = target / found.label
    folder.mkdir(parents=True, exist_ok=True)
    if real_path(source).parent == real_path(folder):
        return source
    part = folder / f".{source.name[:100]}.{os.getpid()}.part"
    for number in itertools.count(1):
        numbered = source.name if number == 1 else f"{source.stem} ({number}){source.suffix}"
        place = folder / numbered
        if place.exists() or place.is_symlink():
            if place.is_file() and filecmp.cmp(source, place, shallow=False):
                return place
            continue
        try:
            _copy_whole(source, part, place)
        except FileExistsError:  # another process came first
            continue
        return place
    raise AssertionError("numbers do not end")


def _copy_whole(source: Path, part: Path, place: Path) -> None:
    """Let a whole copy appear at a place at once. Raises FileExistsError if something is there."""
    try:
        with source.open("rb") as read, part.open("wb") as written:
            while block := read.read(1 << 20):
                written.write(block)
        try:
            os.link(part, place)  # unlike a renaming, it replaces nothing
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if place.exists():
                raise FileExistsError(17, "stands there", str(place)) from None
            part.rename(place)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
