"""Copies, leaks between splits, and copies whose labels disagree."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from reslab.checking.issues import Issue, issue_of
from reslab.checking.looks import Looked
from reslab.errors import InputError
from reslab.pictures.copies.pairs import groups_of, near_pairs
from reslab.pictures.reading import read_picture
from reslab.pictures.table import Samples

_KEPT_FIRST = ("test", "validation", "train")  # of copies: a test split is to stay as it is
_SAME = 0.98  # agreement from which pixels are compared one by one


@dataclass(frozen=True)
class _Link:
    """How much a picture agrees with a copy of it; exact if all bytes or all pixels do."""

    other: int
    score: float
    exact: bool


def copies_in(looked: Looked) -> tuple[list[Issue], np.ndarray]:
    """Leaks, conflicts, every copy but the one of each group that is best kept; and the groups.

    The groups are a number for each picture (N,), equal for copies.
    """
    flat = _flat(looked)
    pairs = near_pairs(flat, looked.thumbs)
    links = _links(looked, pairs.first, pairs.second, pairs.share)
    found: list[Issue] = []
    groups = groups_of(flat, pairs)
    for members in _groups(groups):
        keeper = min(members, key=lambda row: _worse(looked, row))
        for row in members:
            if row != keeper:
                link = _best(links[row], keeper, members)
                kind = "exact-copy" if link.exact else "near-copy"
                found.append(issue_of(looked, row, kind, link.score, other_row=link.other))
        found += _leaks(looked, members, links)
        found += _conflicts(looked, members)
    return found, groups


def _flat(looked: Looked) -> Samples:
    """All splits one after another, for what looks at contents alone."""
    names = tuple(looked.path(row) for row in range(len(looked)))
    return Samples(names, looked.labels, keys=looked.keys)


def _links(
    looked: Looked, first: np.ndarray, second: np.ndarray, share: np.ndarray
) -> dict[int, list[_Link]]:
    """For each picture its copies: near ones, and those of the same bytes."""
    links: dict[int, list[_Link]] = defaultdict(list)
    for one, other, score in zip(first.tolist(), second.tolist(), share.tolist(), strict=True):
        exact = score >= _SAME and _same_pixels(looked, one, other)
        score = 1.0 if exact else min(score, 0.9999)
        links[one].append(_Link(other, score, exact))
        links[other].append(_Link(one, score, exact))
    _, same = np.unique(looked.keys, return_inverse=True)
    for rows in _groups(same):
        # The first of identical files stands for them all among near copies.
        of_first = list(links[rows[0]])
        for row in rows[1:]:
            links[row] += of_first
            for link in of_first:
                links[link.other].append(_Link(row, link.score, link.exact))
        for row in rows:
            links[row] += [_Link(other, 1.0, True) for other in rows if other != row]
    return links


def _groups(numbers: np.ndarray) -> Iterator[list[int]]:
    """The rows of each number that stands more than once."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1:
            yield rows.tolist()


def _worse(looked: Looked, row: int) -> tuple[int, int, int]:
    """Sorts what is best kept first: what is judged by, then the largest picture."""
    look = looked.looks[row]
    area = int(look["width"]) * int(look["height"])
    return _KEPT_FIRST.index(looked.split(row)), -area, row


def _best(links: list[_Link], keeper: int, members: list[int]) -> _Link:
    """The link to tell: to the kept one if there is one, else the strongest."""
    inside = set(members)
    return max(
        (link for link in links if link.other in inside),
        key=lambda link: (link.exact, link.other == keeper, link.score, -link.other),
    )


def _leaks(looked: Looked, members: list[int], links: dict[int, list[_Link]]) -> list[Issue]:
    """Members that are learned from, or chosen by, though a later split holds their copy."""
    found = []
    for row in members:
        later = _KEPT_FIRST[: _KEPT_FIRST.index(looked.split(row))]
        copies = [other for other in members if looked.split(other) in later]
        if copies:
            known = {link.other: link.score for link in links[row]}
            other = max(copies, key=lambda copy: (known.get(copy, 0.0), -copy))
            score = known.get(other, max(known.values()))
            found.append(issue_of(looked, row, "leak", score, other_row=other))
    return found


def _conflicts(looked: Looked, members: list[int]) -> list[Issue]:
    labels = looked.labels[members]
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return []
    most = classes[counts == counts.max()]
    found = []
    for row in members:
        other = next(one for one in members if looked.labels[one] != looked.labels[row])
        clear = len(most) == 1 and looked.labels[row] != most[0]
        suggested = looked.classes[most[0]] if clear else ""
        found.append(
            issue_of(looked, row, "conflicting-copy", 1.0, other_row=other, suggested=suggested)
        )
    return found


def _same_pixels(looked: Looked, one: int, other: int) -> bool:
    sides = looked.looks[["width", "height"]]
    if sides[one] != sides[other]:
        return False
    difference = looked.thumbs[one].int() - looked.thumbs[other].int()
    if float(difference.abs().float().mean()) > 3:  # levels; a large JPEG is decoded smaller
        return False
    try:
        first, second = (
            read_picture(samples, row, 3) for _, samples, row in map(looked.place, (one, other))
        )
    except InputError:  # gone meanwhile
        return False
    return torch.equal(first, second)
