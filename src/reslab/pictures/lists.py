"""List files (`path label` lines), CSV files and class files; every problem with its line."""

import csv
import io
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reslab.errors import nearest
from reslab.pictures.names import NameList, Names

PATH_COLUMNS = ("path", "file", "filename", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "classname", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "set")
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_BLOCK = 1 << 22  # bytes of a list that are Python objects at a time


@dataclass(frozen=True)
class Entries:
    """The pictures of a list in its order, as they are written: paths, labels, splits.

    lines: where each stands, int32 (N,). labels: int32 (N,), places in `words`. splits: int8 (N,),
    places in SPLITS; -1 where the list says nothing of splits.
    """

    name: str
    lines: np.ndarray
    paths: Names
    labels: np.ndarray
    words: Sequence[str]
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, row: int) -> str:
        """The list and the line."""
        return f"{self.name}:{self.lines[row]}"

    def label(self, row: int) -> str:
        return self.words[int(self.labels[row])]

    def rows_with(self, is_such: Callable[[str], bool]) -> np.ndarray:
        """The rows whose label is such a word, in rising order."""
        such = np.array([is_such(word) for word in self.words], dtype=bool)
        return np.flatnonzero(such[self.labels]) if len(self) else np.zeros(0, np.int64)


class _Gathered:
    """Entries as they are read, line by line."""

    def __init__(self) -> None:
        self._lines, self._labels, self._splits = array("i"), array("i"), array("b")
        self._paths = NameList()
        self._words: dict[str, int] = {}

    def append(self, line: int, path: str, label: str, split: int = -1) -> None:
        self._lines.append(line)
        self._paths.append(path)
        self._labels.append(self._words.setdefault(label, len(self._words)))
        self._splits.append(split)

    def entries(self, name: str) -> Entries:
        return Entries(
            name,
            np.frombuffer(self._lines, np.int32),
            self._paths.names(),
            np.frombuffer(self._labels, np.int32),
            tuple(self._words),
            np.frombuffer(self._splits, np.int8),
        )


def text_lines(data: bytes, name: str, problems: list[str]) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line that is not blank; `problems` gathers the encoding's."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.append(f"{name}:1: the file is UTF-16; save it as UTF-8")
        return
    number = 0
    for block in _blocks(data.removeprefix(b"\xef\xbb\xbf")):
        for raw in block.splitlines():
            number += 1
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError:
                problems.append(f"{name}:{number}: not UTF-8{_guess(raw)}; save the file as UTF-8")
                continue
            if "\0" in line:
                problems.append(f"{name}:{number}: holds a NUL byte; this is not a text file")
            elif line.strip():
                yield number, line


def _blocks(data: bytes) -> Iterator[bytes]:
    """Parts of a text that end where a line does."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", min(start + _BLOCK, len(data))) + 1 or len(data)
        yield data[start:end]
        start = end


def _guess(raw: bytes) -> str:
    try:
        return f" (as GBK it reads {raw.decode('gb18030')!r})"
    except UnicodeDecodeError:
        return ""


def parse_list(data: bytes, name: str) -> tuple[Entries, list[str]]:
    """The entries of a list file and its problems.

    A line is `path label`. The label is the last field: after the last tab where the line has
    one, else after the last blank, so that a path may hold blanks.
    """
    problems: list[str] = []
    found = _Gathered()
    for number, line in text_lines(data, name, problems):
        text = line.strip()
        parts = text.rsplit("\t" if "\t" in text else None, 1)
        path, label = parts[0].strip(), parts[-1].strip()
        if len(parts) < 2 or not path or not label:
            problems.append(f"{name}:{number}: no label in {text!r}; a line is `path label`")
        else:
            found.append(number, path, label)
    entries = found.entries(name)
    if not len(entries) and not problems:
        problems.append(f"{name}: the list is empty; a line is `path label`")
    return entries, problems


def parse_csv(data: bytes, name: str) -> tuple[Entries, list[str]]:
    """The entries of a CSV with a header: columns path and label, and perhaps split."""
    found = _Gathered()
    problems = _unreadable(data, name)
    header = "" if problems else next((line for _, line in text_lines(data, name, [])), "")
    if not header:
        problems = problems or [f"{name}: the file is empty; it needs a header `path,label`"]
        return found.entries(name), problems
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=_delimiter(header), strict=True)
    columns: dict[str, int] | None = None
    width = 0
    try:
        for written in reader:
            row = [field.strip() for field in written]
            if not any(row):
                continue
            if columns is None:
                width = len(row)
                columns, missing = _columns(row)
                if missing:
                    problems.append(f"{name}:{reader.line_num}: {missing}")
                    return found.entries(name), problems
                continue
            if len(row) != width:
                problem = f"{len(row)} fields where the header has {width}"
            else:
                problem = _add_row(row, columns, reader.line_num, found)
            if problem:
                problems.append(f"{name}:{reader.line_num}: {problem}")
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: not readable as CSV ({error})")
    entries = found.entries(name)
    if not len(entries) and not problems:
        problems.append(f"{name}: a header and no rows")
    return entries, problems


def _unreadable(data: bytes, name: str) -> list[str]:
    """What is wrong with the encoding of a table."""
    problems: list[str] = []
    try:
        for block in _blocks(data):
            block.decode("utf-8")
        whole = b"\0" not in data
    except UnicodeDecodeError:
        whole = False
    for _ in () if whole else text_lines(data, name, problems):
        pass
    return problems


def is_table(data: bytes) -> bool:
    """Whether a CSV file lists pictures, by the columns of its header."""
    line = next((line for _, line in text_lines(data[:4096].split(b"\n", 1)[0], "", [])), "")
    header = [field.strip(' "\r') for field in line.split(_delimiter(line))]
    return bool(line) and not _columns(header)[1]


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _columns(header: list[str]) -> tuple[dict[str, int], str]:
    names = [field.lower() for field in header]
    found = {}
    for role, choices in (
        ("path", PATH_COLUMNS),
        ("label", LABEL_COLUMNS),
        ("split", SPLIT_COLUMNS),
    ):
        for choice in choices:
            if choice in names:
                found[role] = names.index(choice)
                break
    for role in ("path", "label"):
        if role not in found:
            columns = ", ".join(header)
            return {}, f"no column {role!r} among {columns}; the header needs `path` and `label`"
    return found, ""


def _add_row(row: list[str], columns: dict[str, int], line: int, found: _Gathered) -> str:
    """Add a row; what is wrong with it instead, or ""."""
    path, label = row[columns["path"]], row[columns["label"]]
    if not path or not label:
        return f"no {'path' if not path else 'label'}"
    split = -1
    if "split" in columns:
        written = row[columns["split"]]
        named = SPLIT_NAMES.get(written.lower())
        if named is None:
            return f"split {written!r} is unknown{nearest(written, ('train', 'val', 'test'))}"
        split = SPLITS.index(named)
    found.append(line, path, label, split)
    return ""


def parse_classes(data: bytes, name: str) -> tuple[tuple[str, ...], list[str]]:
    """The class names of a `classes.txt`, a line each, in the order of their index."""
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, line in text_lines(data, name, problems):
        text = line.strip()
        if text in seen:
            problems.append(f"{name}:{number}: class {text!r} stands on line {seen[text]} already")
        else:
            seen[text] = number
    if not seen and not problems:
        problems.append(f"{name}: the file is empty; it holds a class name a line")
    numbers = [text for text in seen if _is_number(text)]
    if numbers and list(seen) != [str(row) for row in range(len(seen))]:
        # Label 1 would be the class "1" and the class on the second line at once.
        problems.append(
            f"{name}:{seen[numbers[0]]}: class {numbers[0]!r} is a number, which a label could also"
            " mean as an index; name the classes by words, or 0, 1, 2, ... in order"
        )
    return tuple(seen), problems


def resolve_labels(
    entries: Entries, classes: tuple[str, ...], classes_name: str
) -> tuple[np.ndarray, list[str]]:
    """The class index of each entry (-1 where there is a problem), int64 (N,), and the problems.

    A label is a class name or, where no class is named by a number, an index into `classes`:
    never is it guessed from the labels that happen to be present.
    """
    index = {name: number for number, name in enumerate(classes)}
    indices = not any(_is_number(name) for name in classes)
    reasons: dict[str, str] = {}
    label_of = np.full(len(entries.words), -1, np.int64)
    for place, word in enumerate(entries.words):
        if word in index:
            label_of[place] = index[word]
        elif indices and _is_number(word):
            if 0 <= int(word) < len(classes):
                label_of[place] = int(word)
            else:
                reasons[word] = (
                    f"label {word} is out of range; {classes_name} has"
                    f" {len(classes)} classes, 0 to {len(classes) - 1}"
                )
        else:
            known = nearest(word, classes) if len(classes) <= 1000 else ""
            reasons[word] = f"label {word[:80]!r} is not a class of {classes_name}{known}"
    problems = [
        f"{entries.where(row)}: {reasons[entries.label(row)]}"
        for row in entries.rows_with(reasons.__contains__).tolist()
    ]
    return label_of[entries.labels], problems


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,9}", text) is not None


def ordered_classes(names: set[str]) -> tuple[str, ...]:
    """Class names in their order: by number where all are numbers, else by name."""
    if all(_is_number(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
