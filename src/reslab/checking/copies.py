"""Copies, leaks between splits, and copies whose labels disagree."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from reslab.checking.findings import told
from reslab.checking.issues import Issue, issue_of
from reslab.checking.looks import Looked
from reslab.errors import InputError
from reslab.pictures.copies.pairs import Pairs, groups_of, near_pairs
from reslab.pictures.names import Names
from reslab.pictures.reading import read_picture
from reslab.pictures.table import Samples

_KEPT_FIRST = ("test", "validation", "train")  # of copies: a test split is to stay as it is
_SAME = 0.9  # agreement from which pixels are compared one by one


@dataclass(frozen=True)
class _Content:
    """Rows of identical files, the best kept first, and the contents that are near copies.

    near: (score, content, whether all pixels are equal), of pairs that were compared.
    """

    rows: list[int]
    near: list[tuple[float, int, bool]] = field(default_factory=list)


def copies_in(looked: Looked) -> tuple[list[Issue], np.ndarray]:
    """Leaks, conflicts, and every copy but the one of each group that is best kept; and the groups.

    The groups are a number for each picture (N,), equal for copies.
    """
    names = Names.of(looked.path(row) for row in range(len(looked)))
    flat = Samples(names, looked.labels, keys=looked.keys)
    pairs = near_pairs(flat, looked.thumbs)
    groups = groups_of(flat, pairs)
    outvoted = _outvoted(looked, groups)

    def worse(row: int) -> tuple[int, ...]:
        """Sorts what is best kept first: test pictures, labels that most copies have, what
        chooses, then the largest picture."""
        look, split = looked.looks[row], looked.split(row)
        area = int(look["width"]) * int(look["height"])
        return split != "test", bool(outvoted[row]), _KEPT_FIRST.index(split), -area, row

    contents, content_of = _contents(looked, pairs, worse)
    found: list[Issue] = []
    for members in _groups(groups):
        inside = list(dict.fromkeys(content_of[row] for row in members))
        keeper = min(inside, key=lambda content: worse(contents[content].rows[0]))
        for number in inside:
            found += _copies(looked, contents, number, keeper)
            found += _leaks(looked, contents, number, outvoted)
        found += _conflicts(looked, members)
    if pairs.alike:
        share = pairs.alike / len(looked)
        values = {"count": f"{pairs.alike:,}"}
        found.append(
            Issue(
                "set", looked.split(0), "", "", share, told("alike", **values),
                finding="alike", values=dict(values),
            )
        )  # fmt: skip
    return found, groups


def _outvoted(looked: Looked, groups: np.ndarray) -> np.ndarray:
    """Which pictures (N,) have another label than the clear majority of their copies."""
    found = np.zeros(len(looked), dtype=bool)
    for members in _groups(groups):
        labels = looked.labels[members]
        most = _most(labels)
        found[members] = most is not None and labels != most
    return found


def _most(labels: np.ndarray) -> int | None:
    """The label that more of these have than any other, if there is one."""
    classes, counts = np.unique(labels, return_counts=True)
    most = classes[counts == counts.max()]
    return int(most[0]) if len(most) == 1 else None


def _contents(
    looked: Looked, pairs: Pairs, worse: Callable[[int], tuple[int, ...]]
) -> tuple[list[_Content], list[int]]:
    """All contents, and the number of each picture's own."""
    _, same = np.unique(looked.keys, return_inverse=True)
    contents = [_Content([]) for _ in range(int(same.max()) + 1)]
    for row in sorted(range(len(looked)), key=worse):
        contents[same[row]].rows.append(row)
    for one, other, score in zip(
        pairs.first.tolist(), pairs.second.tolist(), pairs.share.tolist(), strict=True
    ):
        exact = score >= _SAME and _same_pixels(looked, one, other)
        score = 1.0 if exact else min(score, 0.9999)
        contents[same[one]].near.append((score, int(same[other]), exact))
        contents[same[other]].near.append((score, int(same[one]), exact))
    return contents, same.tolist()


def _groups(numbers: np.ndarray) -> Iterator[list[int]]:
    """The rows of each number that stands more than once."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1:
            yield rows.tolist()


def _copies(looked: Looked, contents: list[_Content], number: int, keeper: int) -> Iterator[Issue]:
    """All rows of a content but its best; that one too where it is not the group's keeper."""
    content = contents[number]
    best = content.rows[0]
    for row in content.rows[1:]:
        yield issue_of(looked, row, "exact-copy", 1.0, other_row=best)
    if number != keeper:
        # To the kept one if they were compared, else to what it agrees with most.
        score, other, exact = max(content.near, key=lambda near: (near[2], near[1] == keeper, near))
        kind = "exact-copy" if exact else "near-copy"
        yield issue_of(looked, best, kind, score, other_row=contents[other].rows[0])


def _leaks(
    looked: Looked, contents: list[_Content], number: int, outvoted: np.ndarray
) -> Iterator[Issue]:
    """Rows that are learned from, or chosen by, though a later split holds a copy of them.

    One of the validation split whose label is outvoted is itself what is to go.
    """
    content = contents[number]
    near = sorted(content.near, reverse=True)
    copies = [(1.0, content.rows[0])] + [(score, contents[of].rows[0]) for score, of, _ in near]
    ranks = [
        (_KEPT_FIRST.index(looked.split(row)), score, row)
        for score, row in copies
        if looked.split(row) == "test" or not outvoted[row]
    ]
    for row in content.rows:
        own = _KEPT_FIRST.index(looked.split(row))
        for rank, score, other in ranks:
            if rank < own:
                yield issue_of(looked, row, "leak", score, other_row=other)
                break


def _conflicts(looked: Looked, members: list[int]) -> list[Issue]:
    """Members whose labels disagree; of a clear majority only the others are named."""
    labels = looked.labels[members]
    if len(np.unique(labels)) == 1:
        return []
    most = _most(labels)
    found = []
    for row in members:
        label = looked.labels[row]
        if label == most:
            continue
        suggested = "" if most is None else looked.classes[most]
        others = labels != label if most is None else labels == most
        other = members[int(np.flatnonzero(others)[0])]
        found.append(
            issue_of(looked, row, "conflicting-copy", 1.0, other_row=other, suggested=suggested)
        )
    return found


def _same_pixels(looked: Looked, one: int, other: int) -> bool:
    sides = looked.looks[["width", "height"]]
    if sides[one] != sides[other]:
        return False
    try:
        first, second = (
            read_picture(samples, row, 3) for _, samples, row in map(looked.place, (one, other))
        )
    except InputError:  # gone meanwhile
        return False
    return torch.equal(first, second)
