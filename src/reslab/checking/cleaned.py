"""Lists without what is wrong, beside the reasons."""

import os
from collections.abc import Sequence
from pathlib import Path

from reslab.checking.issues import Issue
from reslab.checking.looks import Looked
from reslab.disk import real_path, refuse_foreign, write_safely
from reslab.errors import InputError
from reslab.judging.csv_text import csv_text
from reslab.pictures.files import Folder
from reslab.pictures.issue_table import is_left_out
from reslab.pictures.lists import parse_classes, parse_list
from reslab.pictures.table import Pictures, Samples

REASONS = ("path", "split", "line", "kind", "score", "other", "suggested")
_NAMES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


def refuse_unlistable(pictures: Pictures, folder: Path) -> None:
    """Raise InputError where lists cannot name the pictures, or would replace what is not ours."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--write-lists {folder}: a file stands there; name a folder")
    for name in (*_NAMES.values(), "classes.txt"):
        if (folder / name).exists():
            raise InputError(f"--write-lists {folder}: holds {name} already; name another folder")
    if folder.is_dir():
        refuse_foreign(folder / "reasons.csv", "--write-lists", _is_reasons, "a table of reasons")
    unlisted, start = [], real_path(folder)
    for _, samples in pictures:
        if not isinstance(samples.files, Folder):
            raise InputError(
                f"--write-lists {folder}: lists name files of a folder, and {pictures.name} is"
                " none; unpack it first"
            )
        for row in range(len(samples)):
            line = _line(samples, row, pictures.classes, start)
            entries, _ = parse_list(line.encode("utf-8", "surrogateescape"), "")
            if [*entries.paths, *entries.words] != line.split("\t"):
                unlisted.append(repr(samples.paths[row]))
    if unlisted:
        raise InputError("--write-lists: a line of a list cannot hold these paths:", unlisted)


def write_cleaned(
    folder: Path, looked: Looked, issues: Sequence[Issue], kinds: Sequence[str], *, named: bool
) -> int:
    """Write a list a split, the classes, and why each picture is missing; how many are.

    Classes that are called 1, 2, 3 are named by the lists' labels alone.
    named: whether the user named the kinds; see `is_left_out`. Raises InputError where no training
    picture would be left, or none of a class that the lists alone name; OSError.
    """
    gone = [
        one
        for one in issues
        # A picture without a row could not be read, and so cannot be listed, whatever is named.
        if one.path and (one.row is None or is_left_out(one.kind, one.split, kinds, named=named))
    ]
    left_out = {one.row for one in gone if one.row is not None}
    lines: dict[str, list[str]] = {}
    held: set[int] = set()
    start = real_path(folder)
    for row in range(len(looked)):
        if row not in left_out:
            split, samples, own = looked.place(row)
            lines.setdefault(split, []).append(_line(samples, own, looked.classes, start))
            held.add(int(samples.labels[own]))
    classes = ("\n".join(looked.classes) + "\n").encode()
    listable = not parse_classes(classes, "classes.txt")[1]
    lost = [repr(name) for index, name in enumerate(looked.classes) if index not in held]
    if lost and not listable:
        raise InputError(
            f"--write-lists {folder}: classes that are called by numbers stand in the lists alone,"
            " and these would have no picture left; name fewer --kinds:",
            lost,
        )
    if "train" in looked.pictures.splits and "train" not in lines:
        raise InputError(
            f"--write-lists {folder}: no training picture would be left; name fewer --kinds"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for split, written in lines.items():
        text = "\n".join(written) + "\n"
        write_safely(folder / _NAMES[split], text.encode("utf-8", "surrogateescape"))
    if listable:
        write_safely(folder / "classes.txt", classes)
    rows = [
        (one.path, one.split, one.line, one.kind, f"{one.score:.4f}", one.other, one.suggested)
        for one in gone
    ]
    table = csv_text([REASONS, *rows]).encode("utf-8", "surrogateescape")
    write_safely(folder / "reasons.csv", table)
    return len(left_out) + sum(one.row is None for one in gone)


def _line(samples: Samples, row: int, classes: Sequence[str], folder: Path) -> str:
    """A line of a list in the folder, whose name has no links: ".." leads out of their targets."""
    assert samples.files is not None
    path = samples.files.where(samples.paths[row])
    try:
        path = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        path = str(Path(path).absolute())
    return f"{path}\t{classes[samples.labels[row]]}"


def _is_reasons(start: bytes) -> bool:
    return start.startswith(",".join(REASONS).encode() + b"\n")
