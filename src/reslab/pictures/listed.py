"""Lists and CSV files with the files that they name: the samples of each split."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from reslab.disk import real_path, user_path
from reslab.errors import InputError
from reslab.pictures.files import LARGEST_LIST, Files, Folder
from reslab.pictures.lists import (
    SPLITS,
    Entries,
    ordered_classes,
    parse_classes,
    parse_csv,
    parse_list,
    resolve_labels,
)
from reslab.pictures.names import NameList, Names
from reslab.pictures.table import Pictures, Samples

Split = TypeVar("Split", str, str | None)
Parsed = tuple[Entries, list[str]]


def open_tree_lists(
    files: Files,
    name: str,
    lists: dict[str, str],
    classes: tuple[str, ...] | None,
    root: str | Path | None,
) -> Pictures:
    parsed: dict[str | None, Parsed] = {
        split: _parser(file)(read_list(files, file), files.where(file))
        for split, file in lists.items()
    }
    written, problems, source = class_file(files)
    if problems:
        raise InputError(f"{files.location}: the class file has problems:", problems)
    pictures = _root(root) if root is not None else files
    return assemble(name, pictures, parsed, written or classes, source)


def read_list(files: Files, name: str) -> bytes:
    """The bytes of a list or table. Raises InputError naming it."""
    try:
        return files.read(name, LARGEST_LIST)
    except OSError as error:
        raise InputError(f"{files.where(name)}: {error.strerror or error}") from None


def _parser(name: str) -> Callable[[bytes, str], Parsed]:
    return parse_csv if name.lower().endswith(".csv") else parse_list


def class_file(files: Files) -> tuple[tuple[str, ...] | None, list[str], str]:
    if not files.has("classes.txt"):
        return None, [], "the model"
    where = files.where("classes.txt")
    names, problems = parse_classes(read_list(files, "classes.txt"), where)
    return names, problems, where


def _root(root: str | Path) -> Folder:
    path = user_path(root)
    if not path.is_dir():
        raise InputError(f"--root {root}: no such folder")
    return Folder(path)


def open_named_lists(
    lists: dict[str, Path], root: str | Path | None, classes: tuple[str, ...] | None
) -> Pictures:
    parsed: dict[str | None, Parsed] = {}
    folder = lists["train"].parent
    for split, path in lists.items():
        if not path.is_file():
            raise InputError(f"{path}: no such {split} list")
        if root is None and real_path(path.parent) != real_path(folder):
            raise InputError(
                f"{path} and {lists['train']} lie in different folders; say with --root what"
                " their paths are relative to"
            )
        data = read_list(Folder(path.parent), path.name)
        parsed[split] = _parser(path.name)(data, str(path))
    written, problems, source = class_file(Folder(folder))
    if problems:
        raise InputError(f"{folder}: the class file has problems:", problems)
    files = _root(root) if root is not None else Folder(folder)
    return assemble(lists["train"].stem, files, parsed, written or classes, source)


def assemble(
    name: str,
    files: Files,
    parsed: Mapping[str | None, Parsed],
    classes: tuple[str, ...] | None,
    classes_source: str,
) -> Pictures:
    """Samples from parsed entries; a list with a split column names each entry's split itself.

    Raises InputError with every problem of every list.
    """
    lists = {split: entries for split, (entries, _) in parsed.items()}
    if len(lists) > 1:
        for split, entries in lists.items():
            if any(SPLITS[code] != split for code in np.unique(entries.splits) if code >= 0):
                raise InputError(
                    f"{name}: the {split} list has a split column of its own; give one CSV with"
                    " the column, or one list a split without it"
                )
    problems = [problem for _, found in parsed.values() for problem in found]
    classes, classes_source, negative = settled_classes(lists, classes, classes_source)
    problems += negative
    table: dict[str, Samples] = {}
    wrong: list[str] = []
    repeated = 0
    for split, entries in lists.items():
        labels, unknown = resolve_labels(entries, classes, classes_source)
        problems += unknown
        paths, absent = _as_they_lie(files, entries)
        found = Samples(paths, labels, files, listed=entries.name, lines=entries.lines)
        present = np.ones(len(entries), bool)
        present[list(absent)] = False
        for code in np.unique(entries.splits).tolist():
            own = SPLITS[code] if code >= 0 else split or "train"
            rows = np.flatnonzero((entries.splits == code) & present)
            table[own] = found.take(rows)
            again, differing = _repeats(table[own], entries, rows)
            repeated += again
            absent |= differing
        wrong += [absent[row] for row in sorted(absent)]
    problems += wrong
    if problems:
        raise InputError(f"{name}: {len(problems):,} problem(s) in the lists:", problems)
    notes = [f"{repeated:,} line(s) repeat a picture of their own list: it counts each time"]
    return Pictures(name, classes, table, tuple(notes if repeated else ()))


def settled_classes(
    lists: Mapping[Split, Entries], classes: tuple[str, ...] | None, source: str
) -> tuple[tuple[str, ...], str, list[str]]:
    """The classes, what names them, and the problems: the labels themselves name them, if need be.

    source: what names `classes`.
    """
    if classes is not None:
        return classes, source, []
    # An index into nothing cannot be checked: without a class file the labels are the names.
    problems = [
        f"{entries.where(row)}: label {entries.label(row)} is out of range"
        for entries in lists.values()
        for row in entries.rows_with(_is_negative).tolist()
    ]
    found = ordered_classes({word for entries in lists.values() for word in entries.words})
    return found, "the lists", problems


def _is_negative(label: str) -> bool:
    return label.startswith("-") and label[1:].isdecimal()


def _as_they_lie(files: Files, entries: Entries) -> tuple[Names, dict[int, str]]:
    """The paths as they can be read, and for each row that cannot what is wrong."""
    there = files.holds(entries.paths)
    if there.all():
        return entries.paths, {}
    found = NameList()
    absent: dict[int, str] = {}
    for row, path in enumerate(entries.paths):
        name = path if there[row] else _present(files, path)
        if name is None:
            absent[row] = f"{entries.where(row)}: no such file: {files.where(path)}"
        found.append(name or "")
    return found.names(), absent


def _repeats(samples: Samples, entries: Entries, rows: np.ndarray) -> tuple[int, dict[int, str]]:
    """How many samples repeat another, and for each row of the list whose labels differ that.

    rows: of the entries, where each sample comes from.
    """
    first = samples.paths.repeated()
    again = np.flatnonzero(first != np.arange(len(first)))
    other = again[samples.labels[again] != samples.labels[first[again]]]
    return len(again), {
        row: f"{entries.where(row)}: {samples.paths[one]} has label {entries.label(row)}, and"
        f" {entries.label(before)} at {entries.where(before)}"
        for one, row, before in zip(
            other.tolist(), rows[other].tolist(), rows[first[other]].tolist(), strict=True
        )
    }


def _present(files: Files, path: str) -> str | None:
    """The path as it can be read, or None; lists written on Windows may use backslashes."""
    for candidate in (path, path.replace("\\", "/")) if "\\" in path else (path,):
        name = candidate if isinstance(files, Folder) else str(PurePosixPath(candidate))
        try:
            if files.has(name):
                return name
        except OSError:
            return None
    return None
