"""issues.csv, as `reslab check` writes it: what is wrong with a data set, a row a picture.

`train --without issues.csv` reads it again, to leave out what it names.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reslab.disk import read_regular
from reslab.errors import InputError, nearest
from reslab.pictures.files import printable
from reslab.pictures.lists import SPLIT_NAMES, text_lines
from reslab.pictures.table import Pictures

HEADER = ("path", "split", "label", "kind", "score", "other", "suggested")
KINDS = (
    "unreadable",
    "mismatched-type",
    "exact-copy",
    "near-copy",
    "leak",
    "conflicting-copy",
    "label",
    "outlier",
    "odd",
    "set",
)
# What harms a training or flatters a score; the others are to be looked at.
HARMFUL = ("unreadable", "exact-copy", "near-copy", "leak", "conflicting-copy", "label")


def is_issue_table(start: bytes) -> bool:
    """Whether a file that begins so is a table of issues."""
    return start.startswith(",".join(HEADER).encode() + b"\n")


def chosen_kinds(text: str | None) -> tuple[str, ...]:
    """Kinds that are named with commas between, or the harmful ones. Raises InputError."""
    if text is None:
        return HARMFUL
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"--kinds {text}: {kind!r} is no kind of issue{nearest(kind, KINDS)}")
    if not kinds:
        raise InputError(f"--kinds: name at least one of {', '.join(KINDS)}")
    return kinds


def is_left_out(kind: str, split: str, kinds: Sequence[str], *, named: bool) -> bool:
    """Whether a picture with an issue of this kind is to be left out.

    A test split without what is hard or doubtful would flatter: of it only what cannot be read is
    left out, unless the user named the kinds.
    """
    return kind in kinds and (split != "test" or named or kind == "unreadable")


def without_named(pictures: Pictures, table: str, kinds: str | None) -> Pictures:
    """The pictures without those that a table of issues names, which `without` then lists.

    kinds: as `chosen_kinds` takes them. Raises InputError if the table is none, or names no picture
    of this data.
    """
    chosen = chosen_kinds(kinds)
    reasons: dict[tuple[str, str], str] = {}
    named: set[tuple[str, str]] = set()
    for split, path, kind, other in _rows(table):
        if not path:
            continue
        named.add((split, path))
        if is_left_out(kind, split, chosen, named=kinds is not None):
            reasons.setdefault((split, path), f"{kind} ({other})" if other else kind)
    splits, left_out, known = {}, [], 0
    for name, samples in pictures:
        gone = [reasons.get((name, path)) for path in samples.paths]
        known += sum((name, path) in named for path in samples.paths)
        left_out += [
            printable(f"{name}: {path}: {reason}")
            for path, reason in zip(samples.paths, gone, strict=True)
            if reason
        ]
        kept = np.flatnonzero([reason is None for reason in gone])
        if len(kept):
            splits[name] = samples if len(kept) == len(samples) else samples.take(kept)
    if named and not known:
        raise InputError(f"--without {table}: names no picture of {pictures.name}")
    if not splits:
        raise InputError(f"--without {table}: leaves no picture of {pictures.name}")
    of_test = sum(line.startswith("test: ") for line in left_out)
    notes = [
        f"{len(left_out):,} picture(s) left out by {printable(Path(table).name)}, see run.json"
    ]
    if of_test:
        notes.append(
            f"{of_test:,} of them stood in test: its score is not to be compared with one of all"
        )
    whole = replace(pictures, splits=splits, without=tuple(left_out))
    return whole.with_notes(*notes)


def _rows(table: str) -> Iterator[tuple[str, str, str, str]]:
    """(split, path, kind, other) of each row. Raises InputError naming the line."""
    try:
        data = read_regular(Path(table))
    except OSError as error:
        raise InputError(f"--without {table}: {error.strerror or error}") from None
    first = text_lines(data.split(b"\n", 1)[0], table)[0]
    if not first or tuple(first[0][1].strip().split(",")) != HEADER:
        raise InputError(f"{table}:1: no table of issues; its header is {','.join(HEADER)}")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    rows = csv.reader(io.StringIO(text, newline=""))
    next(rows)
    try:
        for row in rows:
            if not any(row):
                continue
            where = f"{table}:{rows.line_num}"
            if len(row) != len(HEADER):
                raise InputError(f"{where}: {len(row)} fields where the header has {len(HEADER)}")
            path, split, _, kind, _, other, _ = row
            if kind not in KINDS:
                raise InputError(f"{where}: kind {kind!r} is unknown{nearest(kind, KINDS)}")
            if path and split not in SPLIT_NAMES:
                known = ("train", "validation", "test")
                raise InputError(f"{where}: split {split!r} is unknown{nearest(split, known)}")
            yield SPLIT_NAMES.get(split, ""), path, kind, other
    except csv.Error as error:
        raise InputError(f"{table}:{rows.line_num}: not readable as CSV ({error})") from None
