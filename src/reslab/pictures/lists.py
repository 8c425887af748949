"""List files (`path label` lines), CSV files and class files; every problem with its line."""

import csv
import io
import re
from dataclasses import dataclass

from reslab.errors import nearest

PATH_COLUMNS = ("path", "file", "filename", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "classname", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "set")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Entry:
    """One picture of a list: its path and label as written, and where that stands."""

    where: str
    path: str
    label: str
    split: str | None = None


def text_lines(data: bytes, name: str) -> tuple[list[tuple[int, str]], list[str]]:
    """(line number, text) of each line that is not blank, and the problems of the encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], [f"{name}:1: the file is UTF-16; save it as UTF-8"]
    lines, problems = [], []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            problems.append(f"{name}:{number}: not UTF-8{_guess(raw)}; save the file as UTF-8")
            continue
        if "\0" in line:
            problems.append(f"{name}:{number}: holds a NUL byte; this is not a text file")
        elif line.strip():
            lines.append((number, line))
    return lines, problems


def _guess(raw: bytes) -> str:
    try:
        return f" (as GBK it reads {raw.decode('gb18030')!r})"
    except UnicodeDecodeError:
        return ""


def parse_list(data: bytes, name: str) -> tuple[list[Entry], list[str]]:
    """The entries of a list file and its problems.

    A line is `path label`. The label is the last field: after the last tab where the line has
    one, else after the last blank, so that a path may hold blanks.
    """
    lines, problems = text_lines(data, name)
    entries = []
    for number, line in lines:
        separator = "\t" if "\t" in line.strip() else None
        parts = [part.strip() for part in line.strip().rsplit(separator, 1)]
        if len(parts) < 2 or not all(parts):
            problems.append(
                f"{name}:{number}: no label in {line.strip()!r}; a line is `path label`"
            )
        else:
            entries.append(Entry(f"{name}:{number}", parts[0], parts[1]))
    if not entries and not problems:
        problems.append(f"{name}: the list is empty; a line is `path label`")
    return entries, problems


def parse_csv(data: bytes, name: str) -> tuple[list[Entry], list[str]]:
    """The entries of a CSV with a header: columns path and label, and perhaps split."""
    lines, problems = text_lines(data, name)
    if problems:
        return [], problems
    if not lines:
        return [], [f"{name}: the file is empty; it needs a header `path,label`"]
    delimiter = _delimiter(lines[0][1])
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: dict[str, int] | None = None
    entries: list[Entry] = []
    width = 0
    try:
        for row in reader:
            row = [field.strip() for field in row]
            if not any(row):
                continue
            where = f"{name}:{reader.line_num}"
            if columns is None:
                width = len(row)
                columns, missing = _columns(row)
                if missing:
                    return [], [f"{where}: {missing}"]
                continue
            if len(row) != width:
                problems.append(f"{where}: {len(row)} fields where the header has {width}")
                continue
            entry, problem = _row(row, columns, where)
            if problem:
                problems.append(problem)
            elif entry:
                entries.append(entry)
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: not readable as CSV ({error})")
    if not entries and not problems:
        problems.append(f"{name}: a header and no rows")
    return entries, problems


def is_table(data: bytes) -> bool:
    """Whether a CSV file lists pictures, by the columns of its header."""
    lines, _ = text_lines(data[:4096].split(b"\n", 1)[0], "")
    if not lines:
        return False
    header = [field.strip(' "\r') for field in lines[0][1].split(_delimiter(lines[0][1]))]
    return not _columns(header)[1]


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


def _row(row: list[str], columns: dict[str, int], where: str) -> tuple[Entry | None, str]:
    path, label = row[columns["path"]], row[columns["label"]]
    if not path or not label:
        return None, f"{where}: no {'path' if not path else 'label'}"
    split = None
    if "split" in columns:
        written = row[columns["split"]]
        split = SPLIT_NAMES.get(written.lower())
        if split is None:
            known = ("train", "val", "test")
            return None, f"{where}: split {written!r} is unknown{nearest(written, known)}"
    return Entry(where, path, label, split), ""


def parse_classes(data: bytes, name: str) -> tuple[tuple[str, ...], list[str]]:
    """The class names of a `classes.txt`, a line each, in the order of their index."""
    lines, problems = text_lines(data, name)
    seen: dict[str, int] = {}
    for number, line in lines:
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
    entries: list[Entry], classes: tuple[str, ...], classes_name: str
) -> tuple[list[int], list[str]]:
    """The class index of each entry (-1 where there is a problem), and the problems.

    A label is a class name or, where no class is named by a number, an index into `classes`:
    never is it guessed from the labels that happen to be present.
    """
    index = {name: number for number, name in enumerate(classes)}
    indices = not any(_is_number(name) for name in classes)
    labels, problems = [], []
    for entry in entries:
        text, label = entry.label, -1
        if text in index:
            label = index[text]
        elif indices and _is_number(text):
            label = int(text)
            if not 0 <= label < len(classes):
                problems.append(
                    f"{entry.where}: label {text} is out of range; {classes_name} has"
                    f" {len(classes)} classes, 0 to {len(classes) - 1}"
                )
                label = -1
        else:
            known = nearest(text, classes) if len(classes) <= 1000 else ""
            problems.append(
                f"{entry.where}: label {text[:80]!r} is not a class of {classes_name}{known}"
            )
        labels.append(label)
    return labels, problems


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,9}", text) is not None


def ordered_classes(names: set[str]) -> tuple[str, ...]:
    """Class names in their order: by number where all are numbers, else by name."""
    if all(_is_number(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
