"""Pictures that lie in larger files: each is found by where it lies, in the order of a folder's.

A picture is called by its split (where there are several), its class and its name in the file, as
it would be in folders of classes, and the samples stand in the order of these names. So the same
pictures give the same training, bit for bit, whether they lie in a folder or are packed.
"""

import re
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from reslab.errors import InputError
from reslab.pictures.files import LARGEST_FILE, Folder
from reslab.pictures.listed import class_file, settled_classes
from reslab.pictures.lists import SPLIT_NAMES, Entries, resolve_labels
from reslab.pictures.names import NameList, Names
from reslab.pictures.table import Pictures, Samples

Place = tuple[int, int]


@dataclass(frozen=True)
class PackedEntries(Entries):
    """The pictures of some packed files, in the order in which they lie there.

    parts: which of `files` each lies in, int32 (N,). places: where in it, int64 (N, 2).
    """

    files: tuple[Path, ...]
    parts: np.ndarray
    places: np.ndarray

    def where(self, row: int) -> str:
        return f"{self.files[self.parts[row]]}:{self.paths[row]}"


@dataclass
class PackedList:
    """Pictures as they are found, file after file."""

    paths: NameList = field(default_factory=NameList)
    labels: "array[int]" = field(default_factory=lambda: array("i"))
    parts: "array[int]" = field(default_factory=lambda: array("i"))
    places: "array[int]" = field(default_factory=lambda: array("q"))
    words: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def append(self, path: str, label: str, part: int, place: Place) -> None:
        """Add a picture; see `PackedEntries`."""
        self.paths.append(path)
        self.labels.append(self.words.setdefault(label, len(self.words)))
        self.parts.append(part)
        self.places.extend(place)

    def entries(self, files: Sequence[Path], name: str) -> PackedEntries:
        """What was found. Raises InputError if there were problems."""
        if self.problems:
            count = f"{len(self.problems):,} problem(s) in what is packed:"
            raise InputError(f"{name}: {count}", self.problems)
        labels, parts = (np.frombuffer(one, np.int32) for one in (self.labels, self.parts))
        places = np.frombuffer(self.places, np.int64).reshape(-1, 2)
        return packed_entries(
            name, files, self.paths.names(), labels, tuple(self.words), parts, places
        )


def packed_entries(
    name: str,
    files: Sequence[Path],
    paths: Names,
    labels: np.ndarray,
    words: Sequence[str],
    parts: np.ndarray,
    places: np.ndarray,
) -> PackedEntries:
    """Entries of packed files, which have no lines and say nothing of splits."""
    no_lines, no_splits = np.zeros(0, np.int32), np.full(len(labels), -1, np.int8)
    return PackedEntries(
        name, no_lines, paths, labels, words, no_splits, tuple(files), parts, places
    )


class Packed(ABC):
    """Files that hold pictures, as the files they hold."""

    others = ""  # what they hold beside, as a note names it

    def __init__(
        self,
        location: Path,
        files: Sequence[Path],
        names: Names,
        parts: np.ndarray,
        places: np.ndarray,
    ) -> None:
        """names: of the pictures, sorted; parts and places: as of `PackedEntries`."""
        self.location = location
        self._files = tuple(files)
        self._names, self._parts, self._places = names, parts, places
        found = [path.stat() for path in self._files]
        self._times = np.array([(one.st_mtime_ns, one.st_ctime_ns) for one in found], np.int64)
        self._sizes = [one.st_size for one in found]

    @abstractmethod
    def _read(self, part: int, place: Place, most: int) -> bytes:
        """The bytes of a picture. Raises OSError."""

    def names(self) -> Names:
        return self._names

    def folders(self) -> list[str]:
        found = {str(parent) for name in self._names for parent in PurePosixPath(name).parents}
        return sorted(found - {"."})

    def read(self, name: str, most: int = LARGEST_FILE) -> bytes:
        row = self._row(name)
        if row is None:
            raise FileNotFoundError(2, "no such picture", name)
        part, (first, second) = int(self._parts[row]), self._places[row].tolist()
        return self._read(part, (first, second), most)

    def stamps(self, names: Names) -> np.ndarray:
        """The files' times, and where in them a picture lies."""
        rows = self._names.matching(names)
        found = np.empty((len(names), 4), np.int64)
        found[:, 0], found[:, 3] = self._places[rows, 1], self._places[rows, 0]
        found[:, 1:3] = self._times[self._parts[rows]]
        found[rows < 0] = -1
        return found

    def nearby(self, names: Names) -> np.ndarray | None:
        rows = self._names.matching(names)
        places = self._places[rows]
        return np.lexsort((places[:, 1], places[:, 0], self._parts[rows]))

    def has(self, name: str) -> bool:
        return self._row(name) is not None

    def holds(self, names: Names) -> np.ndarray:
        return self._names.matching(names) >= 0

    def where(self, name: str) -> str:
        row = self._row(name)
        return name if row is None else f"{self._files[self._parts[row]]}:{name}"

    def _row(self, name: str) -> int | None:
        row = bisect_left(self._names, name)
        return row if row < len(self._names) and self._names[row] == name else None


def in_order(found: Iterable[tuple[str, Place]]) -> tuple[Names, np.ndarray]:
    """What pictures are called, sorted, and where they lie: int64 (N, 2)."""
    names, places = NameList(), []
    for name, place in sorted(found):
        names.append(name)
        places.append(place)
    return names.names(), np.array(places, np.int64).reshape(-1, 2)


def unlabelled(
    kind: type[Packed], path: Path, names: Names, places: np.ndarray, others: str = ""
) -> Packed:
    """The pictures of one file, called and placed so; what else it tells of them is left.

    others: what it holds beside, as a note names it.
    """
    found = kind(path.parent, [path], names, np.zeros(len(names), np.int32), places)
    found.others = others
    return found


def split_of(path: PurePosixPath) -> str:
    """The split that a file's folders or name tell, such as train-0001.tar; "" if none.

    Raises InputError where they tell several.
    """
    words = [*path.parts[:-1], *re.split(r"[-_.]", path.name)]
    found = {SPLIT_NAMES[word.lower()] for word in words if word.lower() in SPLIT_NAMES}
    if len(found) > 1:
        raise InputError(f"{path}: of {' or '.join(sorted(found))}? Its name tells both")
    return found.pop() if found else ""


def by_split(files: Sequence[Path], location: Path) -> dict[str, list[Path]]:
    """Packed files by the split that their names below a folder tell; all train if none tells.

    Raises InputError where some tell and others do not.
    """
    told: dict[str, list[Path]] = {}
    for path in sorted(files):
        told.setdefault(split_of(PurePosixPath(path.relative_to(location))), []).append(path)
    if "" in told and len(told) > 1:
        raise InputError(
            f"{location}: {told[''][0].name} and {len(told['']) - 1:,} other file(s) do not tell"
            " their split by their names, as others do; call them such as train-0000",
        )
    return {split or "train": found for split, found in told.items()}


def open_packed(
    name: str,
    location: Path,
    found: Mapping[str, PackedEntries],
    kind: type[Packed],
    classes: tuple[str, ...] | None,
    own: tuple[tuple[str, ...], str] | None = None,
) -> Pictures:
    """The table of what packed files hold; `kind` reads it.

    found: for each split. classes: a model's own. own: the classes that the files tell, and what
    tells them; of a classes.txt beside the files if None. Raises InputError with every problem.
    """
    written, problems, source = (
        class_file(Folder(location)) if own is None else (own[0], [], own[1])
    )
    twice = sorted(label for label, count in Counter(written or ()).items() if count > 1)
    if twice:
        raise InputError(f"{source}: names {len(twice)} class(es) more than once:", twice)
    classes, source, negative = settled_classes(found, written or classes, source)
    problems = [*problems, *negative]
    labels = {}
    for split, entries in found.items():
        labels[split], unknown = resolve_labels(entries, classes, source)
        problems += unknown
    if problems:
        raise InputError(f"{name}: {len(problems):,} problem(s) in what is packed:", problems)
    for apart in range(3):  # the same name in several files: these tell the pictures apart
        order = {
            split: _named(entries, labels[split], classes, apart)
            for split, entries in found.items()
        }
        if not any(
            (names.repeated() != np.arange(len(names))).any() for names, _ in order.values()
        ):
            break
    return _table(name, location, found, kind, classes, labels, order)


def _named(
    entries: PackedEntries, labels: np.ndarray, classes: tuple[str, ...], apart: int
) -> tuple[Names, np.ndarray]:
    """The pictures' names in their order, and the rows of the entries they stand for.

    apart: 1 puts the name of the file that holds a picture into its name, 2 its number too.
    """
    folders = [label.replace("/", "_") + "/" for label in classes]
    by_label = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(classes)))
    within: dict[str, list[np.ndarray]] = {}
    for end, count, folder in zip(ends, np.diff(ends, prepend=0), folders, strict=True):
        within.setdefault(folder, []).append(by_label[end - count : end])
    names, rows = NameList(), [np.zeros(0, np.int64)]
    for folder in sorted(within):  # a class at a time: few names are objects at once
        own_rows = np.concatenate(within[folder])
        stems = [f"{path.stem}/" if apart else "" for path in entries.files]
        called = [
            f"{folder}{stems[part]}{f'{row:08d}-' if apart > 1 else ''}{path.removeprefix(folder)}"
            for row, part, path in zip(
                own_rows.tolist(),
                entries.parts[own_rows].tolist(),
                entries.paths.take(own_rows),
                strict=True,
            )
        ]
        order = sorted(range(len(called)), key=called.__getitem__)
        for row in order:
            names.append(called[row])
        rows.append(own_rows[np.array(order, np.int64)])
    return names.names(), np.concatenate(rows)


def _table(
    name: str,
    location: Path,
    found: Mapping[str, PackedEntries],
    kind: type[Packed],
    classes: tuple[str, ...],
    labels: Mapping[str, np.ndarray],
    order: Mapping[str, tuple[Names, np.ndarray]],
) -> Pictures:
    """The samples of every split, in one set of files."""
    splits = sorted(found)
    files = [path for split in splits for path in found[split].files]
    starts = np.cumsum([0, *(len(found[split].files) for split in splits)])
    gathered, parts, places = NameList(), [], []
    for split, start in zip(splits, starts.tolist(), strict=False):
        called, rows = order[split]
        for path in called:
            gathered.append(f"{split}/{path}" if len(splits) > 1 else path)
        parts.append(found[split].parts[rows] + start)
        places.append(found[split].places[rows])
    names = gathered.names()
    opened = kind(location, files, names, np.concatenate(parts), np.concatenate(places))
    table, end = {}, 0
    for split in splits:
        rows = order[split][1]
        start, end = end, end + len(rows)
        taken = names.take(np.arange(start, end))
        table[split] = Samples(taken, labels[split][rows], files=opened)
    return Pictures(name, classes, {split: one for split, one in table.items() if len(one)})
