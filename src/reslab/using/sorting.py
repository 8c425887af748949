"""Photos sorted by what they show: copied into a folder a class, never moved, nothing replaced."""

import filecmp
import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from reslab.disk import folder_to_fill, real_path, user_path
from reslab.errors import InputError

_WINDOWS = os.name == "nt"
_STRANGE = set("/\0") | (set('\\:*?"<>|') if _WINDOWS else set())
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(1, 10))}


def refuse_unsortable(target: str | Path, classes: Sequence[str]) -> Path:
    """The folder to copy into. Raises InputError if it, or a class's folder, cannot be."""
    path = folder_to_fill(target, "--copy-to")
    strange = [repr(name) for name in classes if not _can_be_a_folder(name)]
    if strange:
        raise InputError("--copy-to: names of classes that no folder can have:", strange)
    return path


def _can_be_a_folder(name: str) -> bool:
    if set(name) & _STRANGE or name in ("", ".", "..") or len(name.encode()) > 255:
        return False
    reserved = name.upper().split(".")[0] in _RESERVED or name.endswith((".", " "))
    return not (_WINDOWS and reserved)


def copy_into_class(path: str | Path, label: str, target: Path) -> Path:
    """Copy a file into the folder of its label, and return where it is.

    A file of that name that holds something else stays, and the copy is numbered: "name (2).jpg".
    An equal one is that very copy. Raises OSError.
    """
    source = user_path(path)
    folder = target / label
    folder.mkdir(parents=True, exist_ok=True)
    if real_path(source).parent == real_path(folder):
        return source
    part = folder / f".{os.getpid()}.part"
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
        shutil.copyfile(source, part)
        with suppress(OSError):  # the times are worth keeping, not the copy
            shutil.copystat(source, part)
        try:
            os.link(part, place)  # unlike a renaming, it replaces nothing
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            _copy_anew(part, place)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _copy_anew(part: Path, place: Path) -> None:
    with place.open("xb") as written:
        try:
            with part.open("rb") as read:
                shutil.copyfileobj(read, written)
        except BaseException:
            with suppress(OSError):
                place.unlink()
            raise
    with suppress(OSError):
        shutil.copystat(part, place)
