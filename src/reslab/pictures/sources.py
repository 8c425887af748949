"""DATA as the user names it: a built-in set, a folder, a list, a CSV, or a zip of any of these."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from reslab.disk import real_path, user_path
from reslab.errors import InputError, nearest
from reslab.pictures.builtin import BUILTINS, open_builtin
from reslab.pictures.files import Archive, Files, Folder, is_picture_name, printable
from reslab.pictures.lists import (
    SPLIT_NAMES,
    Entry,
    is_table,
    ordered_classes,
    parse_classes,
    parse_csv,
    parse_list,
    resolve_labels,
)
from reslab.pictures.table import Pictures, Samples

Parsed = tuple[list[Entry], list[str]]
LIST_FILES = {"train": "train", "validation": "val", "test": "test"}


def open_pictures(
    data: str | Path,
    *,
    test: str | Path | None = None,
    val: str | Path | None = None,
    root: str | Path | None = None,
    data_root: str | Path | None = None,
    classes: tuple[str, ...] | None = None,
) -> Pictures:
    """The table of a data set; no picture is read yet.

    `test` and `val` name the companions of a list or CSV file, `root` the folder its paths are
    relative to. `classes` are a model's own, to understand labels that are indices.
    Raises InputError with every problem of every list at once.
    """
    text = str(data)
    path = user_path(text)
    if text in BUILTINS and not path.exists():
        _refuse_companions(text, test=test, val=val, root=root)
        return open_builtin(text, data_root)
    if not text or not path.exists():
        hint = nearest(text, tuple(BUILTINS)) if path.name == text and not path.suffix else ""
        raise InputError(f"{text or 'DATA'}: no such file, folder or built-in data set{hint}")
    if path.is_dir():
        _refuse_companions(text, test=test, val=val)
        return _checked(_open_tree(Folder(path), real_path(path).name, classes, root))
    if path.suffix.lower() == ".zip":
        _refuse_companions(text, test=test, val=val, root=root)
        return _checked(_open_tree(Archive(path), path.stem, classes, None))
    if path.suffix.lower() in (".txt", ".csv", ".lst", ".list"):
        lists = {"train": path}
        for split, companion in (("validation", val), ("test", test)):
            if companion is not None:
                lists[split] = user_path(companion)
        return _checked(_open_named_lists(lists, root, classes))
    if is_picture_name(path.name):
        raise InputError(f"{text}: a single picture is not a data set; name its folder or a list")
    raise InputError(f"{text}: not a folder, a list (.txt), a CSV (.csv) or a zip (.zip)")


def _refuse_companions(data: str, **options: str | Path | None) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(f"--{option} goes with a list or CSV file, and {data} is none")


def _checked(pictures: Pictures) -> Pictures:
    if not any(len(samples) for _, samples in pictures):
        raise InputError(f"{pictures.name}: no pictures")
    return pictures


# Folders and archives.


def _open_tree(
    files: Files, name: str, classes: tuple[str, ...] | None, root: str | Path | None
) -> Pictures:
    lists = {}
    for split, stem in LIST_FILES.items():
        present = [stem + suffix for suffix in (".txt", ".csv") if files.has(stem + suffix)]
        if len(present) > 1:
            raise InputError(f"{files.location}: holds {' and '.join(present)}; keep one of them")
        if present:
            lists[split] = present[0]
    if "train" in lists or "test" in lists:
        return _open_tree_lists(files, name, lists, classes, root)
    if root is not None:
        raise InputError(f"--root goes with list files, and {name} holds no train.txt")
    tops = {folder for folder in files.folders() if "/" not in folder}
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    if "train" in splits.values() or (splits and len(splits) == len(tops)):
        return _open_class_folders(files, name, splits)
    tables = [file for file in files.names() if "/" not in file and file.lower().endswith(".csv")]
    if len(tables) == 1 and is_table(_read(files, tables[0])):
        where = files.where(tables[0])
        return _assemble(
            name, files, {None: parse_csv(_read(files, tables[0]), where)}, classes, where
        )
    return _open_class_folders(files, name, {"": "train"})


def _open_class_folders(files: Files, name: str, splits: dict[str, str]) -> Pictures:
    """Folders a class, at the top ({"": "train"}) or below the split folders."""
    twice = [split for split, count in Counter(splits.values()).items() if count > 1]
    if twice:
        folders = " and ".join(sorted(top for top, split in splits.items() if split == twice[0]))
        raise InputError(f"{files.location}: {folders} both hold the {twice[0]} split; keep one")
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in splits.values()}
    class_names: set[str] = set()
    for folder in files.folders():
        top, below = "", folder
        if "" not in splits:
            top, _, below = folder.partition("/")
        if top in splits and below and "/" not in below:
            class_names.add(below)
    outside, other = [], []
    for file in files.names():
        parts = file.split("/")
        top = "" if "" in splits else parts[0]
        inner = parts if top == "" else parts[1:]
        if not is_picture_name(file):
            other.append(file)
        elif top not in splits or len(inner) < 2:
            outside.append(file)
        else:
            found[splits[top]].append((file, inner[0]))
    if not any(found.values()):
        raise InputError(
            f"{files.location}: no pictures in class folders; a data folder holds a folder a class,"
            " or train/ and test/ with a folder a class, or train.txt and test.txt"
        )
    unnamed = [printable(name) for name in sorted(class_names) if printable(name) != name]
    if unnamed:
        raise InputError(f"{files.location}: class folders whose names are not UTF-8:", unnamed)
    classes = ordered_classes(class_names)
    index = {label: number for number, label in enumerate(classes)}
    table = {
        split: Samples(
            tuple(file for file, _ in rows),
            np.array([index[label] for _, label in rows], dtype=np.int64),
            files=files,
        )
        for split, rows in found.items()
        if rows
    }
    if "train" not in table and len(table) < 1:
        raise InputError(f"{files.location}: no pictures to train on")
    notes = []
    if outside:
        notes.append(f"{_some(outside)} outside any class folder: not used")
    if other:
        notes.append(f"{_some(other)} not pictures by their names: not used")
    return Pictures(name, classes, table, tuple(notes))


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names):,} file{'s' if len(names) > 1 else ''} ({shown})"


# Lists and CSV files.


def _open_tree_lists(
    files: Files,
    name: str,
    lists: dict[str, str],
    classes: tuple[str, ...] | None,
    root: str | Path | None,
) -> Pictures:
    parsed: dict[str | None, Parsed] = {
        split: _parser(file)(_read(files, file), files.where(file)) for split, file in lists.items()
    }
    written, problems, source = _class_file(files)
    if problems:
        raise InputError(f"{files.location}: the class file has problems:", problems)
    pictures = _root(root) if root is not None else files
    return _assemble(name, pictures, parsed, written or classes, source)


def _read(files: Files, name: str) -> bytes:
    """The bytes of a list or table. Raises InputError naming it."""
    try:
        return files.read(name)
    except OSError as error:
        raise InputError(f"{files.where(name)}: {error.strerror or error}") from None


def _parser(name: str) -> Callable[[bytes, str], Parsed]:
    return parse_csv if name.lower().endswith(".csv") else parse_list


def _class_file(files: Files) -> tuple[tuple[str, ...] | None, list[str], str]:
    if not files.has("classes.txt"):
        return None, [], "the model"
    where = files.where("classes.txt")
    names, problems = parse_classes(_read(files, "classes.txt"), where)
    return names, problems, where


def _root(root: str | Path) -> Folder:
    path = user_path(root)
    if not path.is_dir():
        raise InputError(f"--root {root}: no such folder")
    return Folder(path)


def _open_named_lists(
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
        data = _read(Folder(path.parent), path.name)
        parsed[split] = _parser(path.name)(data, str(path))
    written, problems, source = _class_file(Folder(folder))
    if problems:
        raise InputError(f"{folder}: the class file has problems:", problems)
    files = _root(root) if root is not None else Folder(folder)
    return _assemble(lists["train"].stem, files, parsed, written or classes, source)


def _assemble(
    name: str,
    files: Files,
    parsed: Mapping[str | None, Parsed],
    classes: tuple[str, ...] | None,
    classes_source: str,
) -> Pictures:
    """Samples from parsed entries; a list with a split column names each entry's split itself."""
    if len(parsed) > 1:
        for split, (found, _) in parsed.items():
            if any(entry.split not in (None, split) for entry in found):
                raise InputError(
                    f"{name}: the {split} list has a split column of its own; give one CSV with"
                    " the column, or one list a split without it"
                )
    problems = [problem for _, found in parsed.values() for problem in found]
    entries = [
        (entry.split or split or "train", entry)
        for split, (found, _) in parsed.items()
        for entry in found
    ]
    if classes is None:
        # An index into nothing cannot be checked: without a class file the labels are the names.
        for entry in [entry for _, entry in entries if entry.label.startswith("-")]:
            if entry.label[1:].isdecimal():
                problems.append(f"{entry.where}: label {entry.label} is out of range")
        classes = ordered_classes({entry.label for _, entry in entries})
        classes_source = "the lists"
    labels, unknown = resolve_labels([entry for _, entry in entries], classes, classes_source)
    problems += unknown
    table, repeated, absent = _rows(files, entries, labels)
    listed = {split: entry.where.rpartition(":")[0] for split, entry in entries}
    problems += absent
    if problems:
        raise InputError(f"{name}: {len(problems):,} problem(s) in the lists:", problems)
    notes = [f"{repeated:,} line(s) repeat a picture of their own list: it counts each time"]
    return Pictures(
        name,
        classes,
        {
            split: Samples(
                tuple(path for path, _, _ in rows),
                np.array([label for _, label, _ in rows], dtype=np.int64),
                files=files,
                listed=listed[split],
                lines=np.array([line for _, _, line in rows], dtype=np.int32),
            )
            for split, rows in table.items()
        },
        tuple(notes if repeated else ()),
    )


def _rows(
    files: Files, entries: list[tuple[str, Entry]], labels: Sequence[int]
) -> tuple[dict[str, list[tuple[str, int, int]]], int, list[str]]:
    """(path, label, line) of each entry by split, how many repeat one of theirs, the problems."""
    problems = []
    table: dict[str, list[tuple[str, int, int]]] = {}
    first: dict[tuple[str, str], tuple[Entry, int]] = {}
    repeated = 0
    for (split, entry), label in zip(entries, labels, strict=True):
        path = _present(files, entry.path)
        if path is None:
            problems.append(f"{entry.where}: no such file: {files.where(entry.path)}")
            continue
        earlier = first.setdefault((split, path), (entry, label))
        if earlier[0] is not entry:
            repeated += 1
            if earlier[1] != label:
                problems.append(
                    f"{entry.where}: {path} has label {entry.label}, and {earlier[0].label} at"
                    f" {earlier[0].where}"
                )
        line = int(entry.where.rpartition(":")[2])
        table.setdefault(split, []).append((path, label, line))
    return table, repeated, problems


def _present(files: Files, path: str) -> str | None:
    """The path as it can be read, or None; lists written on Windows may use backslashes."""
    if "\0" in path:
        return None
    for candidate in (path, path.replace("\\", "/")):
        name = candidate if isinstance(files, Folder) else str(PurePosixPath(candidate))
        try:
            if files.has(name):
                return name
        except OSError:
            return None
    return None
