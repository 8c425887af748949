"""Carving a split, or folds: stratified, seeded, copies kept together."""

from dataclasses import dataclass, replace

import numpy as np

from reslab.errors import InputError
from reslab.pictures import draws
from reslab.pictures.content import numbered
from reslab.pictures.reading import Track, untracked
from reslab.pictures.settings import Splitting, Together
from reslab.pictures.table import Pictures, Samples


def complete_splits(
    pictures: Pictures, splitting: Splitting, track: Track = untracked
) -> tuple[Pictures, tuple[str, ...]]:
    """The pictures with every split present, and the names of the splits carved from train.

    A split that the data brings is kept as it is. Which picture goes where depends on its content
    and on the seed, not on its name or place.
    Raises InputError where so much cannot be taken, or a picture can no longer be read.
    """
    carved = []
    splits = {**pictures.splits, "train": pictures.train()}
    wanted = [("test", splitting.test), ("validation", splitting.validation)]
    wanted = [(name, amount) for name, amount in wanted if amount and name not in splits]
    numbers = kept_together(splits["train"], splitting.together, track) if wanted else np.zeros(0)
    for name, amount in wanted:
        train = splits["train"]
        count = max(1, round(amount * len(train)) if amount < 1 else int(amount))
        rows = _carve(train, numbers, count, draws.address(splitting.seed, "split", name))
        if rows is None:
            raise InputError(
                f"{pictures.name}: cannot take {count:,} of {len(train):,} training pictures for"
                f" {name} and leave some of each class, copies kept together; set --split.{name}"
                " to a smaller count or a fraction such as 0.1"
                + ("" if splitting.together == "identical" else ", or --split.together identical")
            )
        chosen = np.zeros(len(train), dtype=bool)
        chosen[rows] = True
        splits[name] = train.take(np.flatnonzero(chosen))
        splits["train"] = train.take(np.flatnonzero(~chosen))
        numbers = numbers[~chosen]
        carved.append(name)
    return replace(pictures, splits=splits), tuple(carved)


def kept_together(samples: Samples, together: Together, track: Track = untracked) -> np.ndarray:
    """A number for each sample (N,), equal for copies that stay in one split or fold.

    Raises InputError where a picture can no longer be read.
    """
    if together == "near":
        from reslab.pictures.copies.pairs import groups_of, near_pairs

        return groups_of(samples, near_pairs(samples, track=track))
    return numbered(samples.keys)[1]


def _carve(samples: Samples, numbers: np.ndarray, count: int, start: int) -> np.ndarray | None:
    """Rows of `count` samples (near it where copies do not let it be met), or None."""
    group, sizes, first = _groups(numbers)
    labels = samples.labels[first]
    rank = draws.uniform(start, samples.draw_keys[first], 1)[:, 0]
    totals = np.bincount(labels, weights=sizes).astype(np.int64)
    if count >= len(samples) - int((totals > 0).sum()) + 1:
        return None
    quota = _shares(totals, count)
    taken = np.zeros(len(sizes), dtype=bool)
    ordered, ends = _by_label(labels, rank)
    for label in np.flatnonzero(quota).tolist():
        left = int(quota[label])
        # The last group of a class stays in train, whatever its quota.
        for member in ordered[ends[label] : ends[label + 1] - 1].tolist():
            if not left:
                break
            if sizes[member] <= left:
                taken[member] = True
                left -= int(sizes[member])
    return np.asarray(np.flatnonzero(taken[group])) if taken.any() else None


def _by_label(labels: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N,) by label, then rank, and where each label's begin and end: (classes + 1,)."""
    ends = np.concatenate([[0], np.cumsum(np.bincount(labels))])
    return np.lexsort((rank, labels)), ends


def _groups(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each sample's group of equal numbers (N,); each group's size and first row."""
    _, group = np.unique(numbers, return_inverse=True)
    sizes = np.bincount(group)
    first = np.full(len(sizes), len(numbers))
    np.minimum.at(first, group, np.arange(len(numbers)))
    return group, sizes, first


def _shares(totals: np.ndarray, count: int) -> np.ndarray:
    """`count` shared out in proportion to `totals`, by largest remainder."""
    exact = totals * (count / totals.sum())
    share = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - share), kind="stable")
    share[order[: count - int(share.sum())]] += 1
    return np.asarray(share)


@dataclass(frozen=True)
class Folds:
    """Samples dealt out for cross-validation.

    of: each sample's fold (N,). judged: the rows, in rising order, of samples whose class stands in
    more than one fold, so that what is trained without theirs knows it.
    """

    of: np.ndarray
    judged: np.ndarray

    @property
    def count(self) -> int:
        """How many folds hold samples: no more than the groups of copies."""
        return len(np.unique(self.of))


def folds_of(samples: Samples, count: int, seed: int, numbers: np.ndarray | None = None) -> Folds:
    """Deal samples into at most `count` folds, each class as evenly as copies let it.

    numbers: equal for samples that stay in one fold, as `kept_together` gives them; identical
        files if None.
    Which fold a picture comes to depends on the pictures' contents and on `seed`, not on their
    names or places. M. Stone: Cross-Validatory Choice and Assessment of Statistical Predictions,
    1974.
    """
    if numbers is None:
        numbers = kept_together(samples, "identical")
    of = dealt(samples.labels, numbers, samples.draw_keys, count, seed)
    labels, folds = samples.labels, int(of.max()) + 1
    held = np.bincount(labels * folds + of, minlength=(labels.max() + 1) * folds)
    spread = (held.reshape(-1, folds) > 0).sum(1) > 1
    return Folds(of, np.flatnonzero(spread[labels]))


def dealt(
    labels: np.ndarray, numbers: np.ndarray, keys: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """A fold for each of labels (N,), by draws from keys (N,); equal numbers stay together."""
    group, sizes, first = _groups(numbers)
    labels = labels[first]
    rank = draws.uniform(draws.address(seed, "folds"), keys[first], 1)[:, 0]
    held = np.zeros(min(count, len(sizes)), dtype=np.int64)
    fold = np.empty(len(sizes), dtype=np.int64)
    ordered, ends = _by_label(labels, rank)
    for label in range(len(ends) - 1):
        own = np.zeros_like(held)
        for member in ordered[ends[label] : ends[label + 1]].tolist():
            # Where fewest of the class are; of those, where fewest are at all.
            place = np.lexsort((held, own))[0]
            fold[member] = place
            own[place] += sizes[member]
            held[place] += sizes[member]
    return np.asarray(fold[group])


def split_notes(pictures: Pictures) -> list[str]:
    """What the user should hear of the final splits: missing classes, and leaks between them."""
    notes = []
    for split, samples in pictures:
        counts = np.bincount(samples.labels, minlength=len(pictures.classes))
        absent = [pictures.classes[label] for label in np.flatnonzero(counts == 0).tolist()]
        if absent:
            shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            notes.append(f"{split} has no picture of {len(absent)} of the classes: {shown}")
    notes += _conflict_notes(pictures)
    names = [name for name, _ in pictures]
    for row, one in enumerate(names):
        for other in names[row + 1 :]:
            shared = _standing_in(pictures.splits[one], pictures.splits[other])
            if shared:
                notes.append(f"{shared:,} picture(s) of {other} stand in {one} too, byte for byte")
    return notes


def _standing_in(samples: Samples, others: Samples) -> int:
    """How many of `others` have the content of one of `samples`."""
    _, number = numbered(np.concatenate([samples.keys, others.keys]))
    return int(np.isin(number[len(samples.keys) :], number[: len(samples.keys)]).sum())


def _conflict_notes(pictures: Pictures) -> list[str]:
    """How many pictures stand under more than one class, byte for byte."""
    keys = np.concatenate([samples.keys for _, samples in pictures])
    if not len(keys):  # not read yet
        return []
    labels = np.concatenate([samples.labels for _, samples in pictures])
    _, same = numbered(keys)
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
