"""Carving a validation or test split: stratified, seeded, copies kept together."""

from dataclasses import replace

import numpy as np

from reslab.errors import InputError
from reslab.pictures import draws
from reslab.pictures.reading import Track, untracked
from reslab.pictures.settings import Together
from reslab.pictures.table import Pictures, Samples


def complete_splits(
    pictures: Pictures,
    *,
    validation: float,
    test: float,
    seed: int,
    together: Together = "identical",
    track: Track = untracked,
) -> tuple[Pictures, tuple[str, ...]]:
    """The pictures with every split present, and the names of the splits carved from train.

    `validation` and `test` are fractions of train below 1, or counts; 0 carves none. A split
    that the data brings is kept as it is. Which picture goes where depends on its content and
    on `seed`, not on its name or place.
    together: which copies stay in one split: identical files, or near copies too.
    Raises InputError where so much cannot be taken, or a picture can no longer be read.
    """
    carved = []
    splits = {**pictures.splits, "train": pictures.train()}
    wanted = [("test", test), ("validation", validation)]
    wanted = [(name, amount) for name, amount in wanted if amount and name not in splits]
    groups = _groups(splits["train"], together, track) if wanted else np.zeros(0)
    for name, amount in wanted:
        train = splits["train"]
        count = max(1, round(amount * len(train)) if amount < 1 else int(amount))
        rows = _carve(train, groups, count, draws.address(seed, "split", name))
        if rows is None:
            raise InputError(
                f"{pictures.name}: cannot take {count:,} of {len(train):,} training pictures for"
                f" {name} and leave some of each class; set --split.{name} to a smaller count or a"
                " fraction such as 0.1"
            )
        chosen = np.zeros(len(train), dtype=bool)
        chosen[rows] = True
        splits[name] = train.take(np.flatnonzero(chosen))
        splits["train"] = train.take(np.flatnonzero(~chosen))
        groups = groups[~chosen]
        carved.append(name)
    return replace(pictures, splits=splits), tuple(carved)


def _groups(samples: Samples, together: Together, track: Track) -> np.ndarray:
    """A number for each sample (N,), equal for those that stay in one split."""
    if together == "near":
        from reslab.pictures.copies.pairs import groups_of, near_pairs

        return groups_of(samples, near_pairs(samples, track=track))
    return np.unique(samples.keys, return_inverse=True)[1]


def _carve(samples: Samples, groups: np.ndarray, count: int, start: int) -> np.ndarray | None:
    """Rows of `count` samples (near it where copies do not let it be met), or None."""
    group = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group)
    first = np.full(len(sizes), len(samples))
    np.minimum.at(first, group, np.arange(len(samples)))
    labels = samples.labels[first]
    rank = draws.uniform(start, samples.draw_keys[first], 1)[:, 0]
    totals = np.bincount(labels, weights=sizes).astype(np.int64)
    if count >= len(samples) - int((totals > 0).sum()) + 1:
        return None
    quota = _shares(totals, count)
    taken = np.zeros(len(sizes), dtype=bool)
    for label in np.flatnonzero(quota):
        groups = np.flatnonzero(labels == label)
        left = quota[label]
        # The last group of a class stays in train, whatever its quota.
        for member in groups[np.argsort(rank[groups], kind="stable")][:-1]:
            if sizes[member] <= left:
                taken[member] = True
                left -= sizes[member]
    return np.asarray(np.flatnonzero(taken[group])) if taken.any() else None


def _shares(totals: np.ndarray, count: int) -> np.ndarray:
    """`count` shared out in proportion to `totals`, by largest remainder."""
    exact = totals * (count / totals.sum())
    share = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - share), kind="stable")
    share[order[: count - int(share.sum())]] += 1
    return np.asarray(share)


def split_notes(pictures: Pictures) -> list[str]:
    """What the user should hear of the final splits: missing classes, and leaks between them."""
    notes = []
    for split, samples in pictures:
        present = set(samples.labels.tolist())
        absent = [name for row, name in enumerate(pictures.classes) if row not in present]
        if absent:
            shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            notes.append(f"{split} has no picture of {len(absent)} of the classes: {shown}")
    notes += _conflict_notes(pictures)
    names = [name for name, _ in pictures]
    for row, one in enumerate(names):
        for other in names[row + 1 :]:
            shared = np.isin(pictures.splits[other].keys, pictures.splits[one].keys).sum()
            if shared:
                notes.append(f"{shared:,} picture(s) of {other} stand in {one} too, byte for byte")
    return notes


def _conflict_notes(pictures: Pictures) -> list[str]:
    """How many pictures stand under more than one class, byte for byte."""
    keys = np.concatenate([samples.keys for _, samples in pictures])
    labels = np.concatenate([samples.labels for _, samples in pictures])
    _, same = np.unique(keys, return_inverse=True)
    lowest = np.full(same.max() + 1, len(pictures.classes))
    highest = np.zeros(same.max() + 1, np.int64)
    np.minimum.at(lowest, same, labels)
    np.maximum.at(highest, same, labels)
    count = int((lowest < highest)[same].sum())
    if not count:
        return []
    return [
        f"{count:,} picture(s) are copies of each other under different labels; `reslab check`"
        " names them"
    ]
