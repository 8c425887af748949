"""Pictures as the user names them to predict: files, and folders of them, in one order."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.pictures.files import Folder, is_picture_name
from reslab.pictures.names import Names


class Listing(Sequence[str]):
    """Paths in order: of a folder its names alone are held, however many there are."""

    def __init__(self, parts: Sequence[tuple[str, Sequence[str]]]) -> None:
        """parts: what a part's names begin with, and the names."""
        self._parts = tuple(parts)
        self._ends = list(accumulate(len(names) for _, names in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]  # from the end where negative; raises IndexError
        part = bisect_right(self._ends, row)
        start, names = self._parts[part]
        return start + names[row - self._ends[part]]  # from the part's end

    def __iter__(self) -> Iterator[str]:
        for start, names in self._parts:
            for name in names:
                yield start + name

    def digest(self) -> str:
        """A SHA-256 of the paths in their order, and of where they lie."""
        found = hashlib.sha256()
        for start, names in self._parts:
            found.update(str(Path(start).absolute()).encode("utf-8", "surrogateescape"))
            for name in names:
                found.update(f"\0{name}".encode("utf-8", "surrogateescape"))
            found.update(b"\0\0")
        return found.hexdigest()


def expand(paths: Sequence[str]) -> Listing:
    """Files as named, and the pictures of each named folder in its place, sorted.

    Raises InputError naming every path that does not exist and every folder without pictures.
    """
    parts: list[tuple[str, Sequence[str]]] = []
    files: list[str] = []
    problems = []
    for name in paths:
        path = user_path(name)
        if path.is_dir():
            inside = Names.of(item for item in Folder(path).names() if is_picture_name(item))
            if not inside:
                problems.append(f"{name}: no pictures in this folder")
            parts += [("", tuple(files)), (f"{name.rstrip('/')}/", inside)]
            files = []
        elif path.exists():
            files.append(name if path == Path(name) else str(path))
        else:
            problems.append(f"{name}: no such file or folder")
    if problems:
        raise InputError(f"{len(problems)} of {len(paths)} path(s) cannot be used:", problems)
    return Listing([(start, names) for start, names in [*parts, ("", tuple(files))] if names])
