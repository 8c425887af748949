"""DATA as the user names it: a built-in set, a folder, a list, a CSV, a zip, packed files."""

from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from reslab.disk import expanded, real_path, user_path
from reslab.errors import InputError, nearest
from reslab.pictures.builtin import BUILTINS, open_builtin
from reslab.pictures.files import Archive, Files, Folder, is_picture_name, printable, some_files
from reslab.pictures.listed import assemble, open_named_lists, open_tree_lists, read_list
from reslab.pictures.lists import SPLIT_NAMES, is_table, ordered_classes, parse_csv
from reslab.pictures.packs import is_pack, open_folder_of_packs, open_named_packs
from reslab.pictures.table import Pictures, Samples

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
    lists = {
        split: str(written) for split, written in (("validation", val), ("test", test)) if written
    }
    if is_pack(path) and expanded(text)[0].exists():
        _refuse_companions(text, root=root)
        return _checked(open_named_packs(text, lists, classes))
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
        named = {"train": path} | {split: user_path(item) for split, item in lists.items()}
        return _checked(open_named_lists(named, root, classes))
    if is_picture_name(path.name):
        raise InputError(f"{text}: a single picture is not a data set; name its folder or a list")
    raise InputError(
        f"{text}: not a folder, a list (.txt), a CSV (.csv), a zip (.zip), a tar that is not"
        " compressed (.tar) or a Parquet file (.parquet)"
    )


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
        return open_tree_lists(files, name, lists, classes, root)
    if root is not None:
        raise InputError(f"--root goes with list files, and {name} holds no train.txt")
    if isinstance(files, Folder) and (packed := open_folder_of_packs(files, name, classes)):
        return packed
    folders = files.folders()
    tops = {folder for folder in folders if "/" not in folder}
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    if len(splits) < len(tops) and not any(top in splits for top in _parents(folders)):
        splits = {}  # classes that are called so, such as trains beside cars
    if "train" in splits.values() or (splits and len(splits) == len(tops)):
        return _open_class_folders(files, name, splits)
    tables = [file for file in files.names() if "/" not in file and file.lower().endswith(".csv")]
    if len(tables) == 1 and is_table(read_list(files, tables[0])):
        where = files.where(tables[0])
        return assemble(
            name, files, {None: parse_csv(read_list(files, tables[0]), where)}, classes, where
        )
    return _open_class_folders(files, name, {"": "train"})


def _open_class_folders(files: Files, name: str, splits: dict[str, str]) -> Pictures:
    """Folders a class, at the top ({"": "train"}) or below the split folders."""
    twice = [split for split, count in Counter(splits.values()).items() if count > 1]
    if twice:
        folders = " and ".join(sorted(top for top, split in splits.items() if split == twice[0]))
        raise InputError(f"{files.location}: {folders} both hold the {twice[0]} split; keep one")
    places = _places(files, splits)
    class_names = {label for _, label in places.values()}
    classes = ordered_classes(class_names)
    index = {label: number for number, label in enumerate(classes)}
    rows = {split: (array("q"), array("q")) for split in splits.values()}
    outside, other = [], []
    for row, file in enumerate(files.names()):
        place = places.get(file.rpartition("/")[0])
        if not is_picture_name(file):
            other.append(file)
        elif place is None:
            outside.append(file)
        else:
            rows[place[0]][0].append(row)
            rows[place[0]][1].append(index[place[1]])
    if not any(len(found) for found, _ in rows.values()):
        raise InputError(
            f"{files.location}: no pictures in class folders; a data folder holds a folder a class,"
            " or train/ and test/ with a folder a class, or train.txt and test.txt"
        )
    unnamed = [printable(name) for name in sorted(class_names) if printable(name) != name]
    if unnamed:
        raise InputError(f"{files.location}: class folders whose names are not UTF-8:", unnamed)
    table = {
        split: Samples(
            files.names().take(np.frombuffer(found, np.int64)),
            np.frombuffer(labels, np.int64),
            files=files,
        )
        for split, (found, labels) in rows.items()
        if len(found)
    }
    if "train" not in table and len(table) < 1:
        raise InputError(f"{files.location}: no pictures to train on")
    notes = []
    if outside:
        notes.append(f"{some_files(outside)} outside any class folder: not used")
    if other:
        notes.append(f"{some_files(other)} not pictures by their names: not used")
    return Pictures(name, classes, table, tuple(notes))


def _parents(folders: list[str]) -> set[str]:
    """The top folders that hold folders."""
    return {folder.split("/", 1)[0] for folder in folders if "/" in folder}


def _places(files: Files, splits: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The split and the class of what lies in each folder, if it lies in a class folder."""
    found = {}
    for folder in files.folders():
        top, _, below = ("", "", folder) if "" in splits else folder.partition("/")
        if top in splits and below:
            found[folder] = splits[top], below.split("/", 1)[0]
    return found
