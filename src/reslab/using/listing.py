"""Pictures as the user names them to predict: files, folders, packed files, in one order."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple, overload

from reslab.disk import expanded, real_path, user_path
from reslab.errors import InputError
from reslab.pictures.files import Folder, is_picture_name, printable, some_files
from reslab.pictures.names import Names
from reslab.pictures.packed import Packed
from reslab.pictures.packs import is_pack, pictures_of


class Part(NamedTuple):
    """Some of a listing: what its names begin with, and the file that holds them, if one does."""

    start: str
    names: Sequence[str]
    packed: Packed | None = None


class Listing(Sequence[str]):
    """Paths in order: of a folder its names alone are held, however many there are.

    A picture that is packed is called FILE:NAME. notes: what the folders hold beside.
    """

    def __init__(self, parts: Sequence[Part], notes: Sequence[str] = ()) -> None:
        self._parts = tuple(parts)
        self.notes = tuple(notes)
        self._ends = list(accumulate(len(part.names) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        part, name = self._at(range(len(self))[row])  # from the end where negative
        return part.start + name

    def _at(self, row: int) -> tuple[Part, str]:
        number = bisect_right(self._ends, row)
        part = self._parts[number]
        return part, part.names[row - self._ends[number]]  # from the part's end

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            for name in part.names:
                yield part.start + name

    def held(self, rows: range) -> list[str | bytes | InputError]:
        """The pictures of these rows as a `Predictor` takes them: paths, or what was packed."""
        return [self._held(row) for row in rows]

    def _held(self, row: int) -> str | bytes | InputError:
        part, name = self._at(row)
        if part.packed is None:
            return part.start + name
        try:
            return part.packed.read(name)
        except OSError as error:
            return InputError(f"{part.packed.where(name)}: {error.strerror or error}")

    def digest(self) -> str:
        """A SHA-256 of the paths in their order, as they are written and where they lie."""
        found = hashlib.sha256()
        for start, names, _ in self._parts:
            where = str(Path(start).absolute()) if start else ""
            found.update(f"{start}\0{where}".encode("utf-8", "surrogateescape"))
            for name in names:
                told = name if start else f"{name}\0{Path(name).absolute()}"
                found.update(f"\0{told}".encode("utf-8", "surrogateescape"))
            found.update(b"\0\0")
        return found.hexdigest()


def expand(paths: Sequence[str], *, packed: bool = False, without: Path | None = None) -> Listing:
    """Files as named, and the pictures of each named folder in its place, sorted.

    packed: look into tar shards and Parquet files too, which may be named by braces, and into a
    folder of them. without: a folder that results go into, which may lie in one of these: what it
    holds by now is no picture to predict.
    Raises InputError naming every path that does not exist and every folder without pictures.
    """
    parts: list[Part] = []
    problems: list[str] = []
    notes: list[str] = []
    named = [one for path in paths for one in (_braces(path) if packed else [path])]
    for name in named:
        path = user_path(name)
        if path.is_dir():
            held = _files_in(path, without, notes)
            parts += _inside(name.rstrip("/"), held, problems, notes, packed=packed)
        elif packed and is_pack(name) and path.is_file():
            parts.append(_packed(name, problems, notes))
        elif path.exists():
            parts.append(Part("", (name if path == Path(name) else str(path),)))
        else:
            problems.append(f"{name}: no such file or folder")
    if problems:
        raise InputError(f"{len(problems)} of {len(named)} path(s) cannot be used:", problems)
    return Listing(_together(parts), notes)


def _braces(name: str) -> list[str]:
    if user_path(name).exists():
        return [name]
    found = expanded(name)
    return [name] if len(found) == 1 else [str(path) for path in found]


def _files_in(folder: Path, without: Path | None, notes: list[str]) -> Sequence[str]:
    """The names of a folder's files, but for those in a folder of results."""
    held = Folder(folder).names()
    whole = real_path(folder)
    if without is None or whole not in real_path(without).parents:
        return held
    start = f"{real_path(without).relative_to(whole).as_posix()}/"
    found = [item for item in held if not item.startswith(start)]
    if len(found) < len(held):
        count = f"{len(held) - len(found):,} file(s)"
        notes.append(f"{printable(str(without))}: results go there, so its {count} are not used")
    return found


def _inside(
    name: str, held: Sequence[str], problems: list[str], notes: list[str], *, packed: bool
) -> list[Part]:
    """A folder's pictures, or those in its packed files, of the files it holds."""
    pictures = Names.of(item for item in held if is_picture_name(item))
    packs = [f"{name}/{item}" for item in held if is_pack(item)] if packed else []
    other = [item for item in held if not is_picture_name(item) and not (packed and is_pack(item))]
    if pictures and packs:
        problems.append(f"{name}: both pictures and packed files ({packs[0]}, ...); name one kind")
    elif not pictures and not packs:
        problems.append(f"{name}: no pictures in this folder")
    elif other:
        notes.append(
            f"{printable(name)}: {some_files(other)} not pictures by their names: not used"
        )
    if pictures:
        return [Part(f"{name}/", pictures)]
    return [_packed(pack, problems, notes) for pack in packs]


def _packed(name: str, problems: list[str], notes: list[str]) -> Part:
    """The pictures of a packed file."""
    found = pictures_of(user_path(name))
    if not found.names():
        problems.append(f"{name}: no pictures in this file")
    elif found.others:
        notes.append(f"{printable(name)}: {found.others} not pictures by their names: not used")
    return Part(f"{name}:", found.names(), found)


def _together(parts: list[Part]) -> list[Part]:
    """The parts, files that stand one after the other as one of them."""
    found: list[Part] = []
    for alone, group in groupby(parts, lambda part: not part.start):
        one = list(group)
        found += [Part("", tuple(part.names[0] for part in one))] if alone else one
    return found
