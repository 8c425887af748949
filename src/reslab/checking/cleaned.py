"""Lists without what is wrong, beside the reasons."""

import os
from collections.abc import Sequence
from pathlib import Path

from reslab.checking.issues import Issue
from reslab.checking.looks import Looked
from reslab.disk import refuse_foreign, write_safely
from reslab.errors import InputError
from reslab.judging.csv_text import csv_text
from reslab.pictures.files import Folder
from reslab.pictures.issue_table import is_left_out
from reslab.pictures.lists import parse_list

REASONS = ("path", "split", "line", "kind", "score", "other", "suggested")
_NAMES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


def refuse_unlistable(looked: Looked, folder: Path) -> None:
    """Raise InputError where a list cannot name the pictures, or would replace what is not ours."""
    for _, samples in looked.pictures:
        if not isinstance(samples.files, Folder):
            raise InputError(
                f"--write-lists {folder}: lists name files of a folder, and {looked.pictures.name}"
                " is none; unpack it first"
            )
    for name in (*_NAMES.values(), "classes.txt"):
        if (folder / name).exists():
            raise InputError(f"--write-lists {folder}: holds {name} already; name another folder")
    if folder.is_dir():
        refuse_foreign(folder / "reasons.csv", "--write-lists", _is_reasons, "a table of reasons")


def write_lists(
    folder: Path, looked: Looked, issues: Sequence[Issue], kinds: Sequence[str], *, named: bool
) -> int:
    """Write a list a split, the classes, and why each picture is missing; how many are.

    named: whether the user named the kinds; see `is_left_out`. Raises InputError or OSError.
    """
    gone = [
        one for one in issues if one.path and is_left_out(one.kind, one.split, kinds, named=named)
    ]
    left_out = {one.row for one in gone if one.row is not None}
    lines: dict[str, list[str]] = {}
    unlisted = []
    for row in range(len(looked)):
        split, samples, own = looked.place(row)
        if row in left_out:
            continue
        assert samples.files is not None
        path = os.path.relpath(samples.files.where(samples.paths[own]), folder)
        line = f"{path}\t{looked.classes[looked.labels[row]]}"
        entries, _ = parse_list(line.encode("utf-8", "surrogateescape"), "")
        if [(one.path, one.label) for one in entries] != [tuple(line.split("\t"))]:
            unlisted.append(path)
        lines.setdefault(split, []).append(line)
    if unlisted:
        raise InputError("--write-lists: a line of a list cannot hold these paths:", unlisted)
    folder.mkdir(parents=True, exist_ok=True)
    for split, written in lines.items():
        text = "\n".join(written) + "\n"
        write_safely(folder / _NAMES[split], text.encode("utf-8", "surrogateescape"))
    write_safely(folder / "classes.txt", ("\n".join(looked.classes) + "\n").encode())
    rows = [
        (one.path, one.split, one.line, one.kind, f"{one.score:.4f}", one.other, one.suggested)
        for one in gone
    ]
    table = csv_text([REASONS, *rows]).encode("utf-8", "surrogateescape")
    write_safely(folder / "reasons.csv", table)
    return len({(one.split, one.path) for one in gone})


def _is_reasons(start: bytes) -> bool:
    return start.startswith(",".join(REASONS).encode() + b"\n")
