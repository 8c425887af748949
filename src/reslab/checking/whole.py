"""The set as a whole: classes, splits, and what a network could learn in place of the subject."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2_contingency

from reslab.checking.findings import told
from reslab.checking.issues import Issue
from reslab.checking.looks import Looked
from reslab.checking.oddities import GREY, USUAL

_FEW = 20  # pictures of a class in train
_UNEQUAL = 10.0  # the largest class by the smallest
_ENOUGH = 10  # pictures of a class from which its habits are judged
_HABIT, _OTHERS = 0.8, 0.2  # shares of a class and of all others that have something in common
_APART = 0.1  # half the sum of the differences between two splits' shares
_LUCK = 1e-3


def set_issues(looked: Looked) -> list[Issue]:
    """Findings about classes and splits; they name no picture."""
    return [*_classes(looked), *_shortcuts(looked), *_splits(looked), *_turned(looked)]


def _issue(split: str, label: str, score: float, finding: str, **values: object) -> Issue:
    return Issue(
        "set", split, "", label, float(np.clip(score, 0, 1)), told(finding, **values),
        finding=finding, values=values,
    )  # fmt: skip


def _classes(looked: Looked) -> list[Issue]:
    found = []
    for split, samples in looked.pictures:
        counts = np.bincount(samples.labels, minlength=len(looked.classes))
        for name, count in zip(looked.classes, counts.tolist(), strict=True):
            if count == 0:
                found.append(_issue(split, name, 1.0, "none"))
            elif count < _FEW and split == "train":
                found.append(_issue(split, name, 1 - count / _FEW, "few", count=count))
        smallest = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
        most, least = int(counts.max()), int(counts[smallest])
        if most >= _UNEQUAL * least:
            large, small = looked.classes[counts.argmax()], looked.classes[smallest]
            found.append(
                _issue(
                    split, small, 1 - least / most, "unequal",
                    most=f"{most:,}", large=large, least=f"{least:,}", small=small,
                )
            )  # fmt: skip
    return found


def _shortcuts(looked: Looked) -> list[Issue]:
    """What nearly all pictures of a class have in common, and hardly any other has."""
    rows = [row for row in range(len(looked)) if looked.split(row) == "train"]
    split = "train" if rows else looked.split(0)
    rows = rows or list(range(len(looked)))
    labels = looked.labels[rows]
    found = []
    for habit in (_size, _scale, _shape, _colour, _format, _camera, _folder):
        seen = [habit(looked, row) for row in rows]
        for label, (finding, value), own, others in _habits(seen, labels):
            shares = {"own": f"{own:.0%}", "others": f"{others:.0%}", "value": value}
            name = looked.classes[label]
            found.append(_issue(split, name, own - others, f"habit_{finding}", **shares))
    return found


Seen = tuple[str, str]  # a finding and its value; ("", "") where there is nothing to see


def _habits(seen: Sequence[Seen], labels: np.ndarray) -> list[tuple[int, Seen, float, float]]:
    """(class, what, share of the class, share of the others) where that tells the class."""
    names = sorted(set(seen))
    place = {name: number for number, name in enumerate(names)}
    sizes = np.bincount(labels)
    if len(names) < 2 or np.count_nonzero(sizes) < 2:
        return []
    table = np.zeros((len(sizes), len(names)), np.int64)
    np.add.at(table, (labels, np.array([place[one] for one in seen])), 1)
    total = table.sum(0)
    found = []
    for label in np.flatnonzero(sizes >= _ENOUGH).tolist():
        column = int(table[label].argmax())
        own = table[label, column] / sizes[label]
        others = (total[column] - table[label, column]) / max(1, len(labels) - sizes[label])
        if names[column][0] and own >= _HABIT and others <= _OTHERS:
            found.append((label, names[column], float(own), float(others)))
    return found


def _size(looked: Looked, row: int) -> Seen:
    look = looked.looks[row]
    return "size", f"{look['width']}x{look['height']}"


def _scale(looked: Looked, row: int) -> Seen:
    look = looked.looks[row]
    return "scale", str(2 ** round(math.log2(min(look["width"], look["height"]))))


def _shape(looked: Looked, row: int) -> Seen:
    width, height = int(looked.looks[row]["width"]), int(looked.looks[row]["height"])
    if abs(width - height) <= 0.02 * max(width, height):
        return "square", ""
    return ("wide", "") if width > height else ("high", "")


def _colour(looked: Looked, row: int) -> Seen:
    return ("grey", "") if looked.looks[row]["colour"] < GREY else ("colour", "")


def _format(looked: Looked, row: int) -> Seen:
    return ("format", looked.formats[row]) if looked.formats[row] else ("", "")


def _camera(looked: Looked, row: int) -> Seen:
    return ("camera", looked.cameras[row]) if looked.cameras[row] else ("", "")


def _folder(looked: Looked, row: int) -> Seen:
    """The folder above that of its class, or of the file where none is called as that."""
    folders = looked.path(row).replace("\\", "/").split("/")[:-1]
    own = looked.classes[looked.labels[row]]
    above = "/".join(folders[: folders.index(own) if own in folders else -1])
    return ("folder", above) if above else ("", "")


def _splits(looked: Looked) -> list[Issue]:
    """Splits whose classes are drawn otherwise than those of train, by more than luck."""
    counts = {
        split: np.bincount(samples.labels, minlength=len(looked.classes))
        for split, samples in looked.pictures
    }
    found = []
    for split in [name for name in counts if name != "train" and "train" in counts]:
        table = np.stack([counts["train"], counts[split]])
        shares = table / table.sum(1, keepdims=True)
        apart = float(np.abs(shares[0] - shares[1]).sum() / 2)
        held = table[:, table.sum(0) > 0]
        if held.shape[1] < 2 or apart <= _APART or chi2_contingency(held).pvalue > _LUCK:
            continue
        farthest = int(np.abs(shares[0] - shares[1]).argmax())
        values = {"share": f"{shares[1][farthest]:.0%}", "of_train": f"{shares[0][farthest]:.0%}"}
        name = looked.classes[farthest]
        found.append(_issue(split, name, apart, "drawn", **values))
    return found


def _turned(looked: Looked) -> list[Issue]:
    """EXIF's marks where they are too many to name each picture."""
    share = float((looked.looks["orientation"] != 1).mean())
    if share <= USUAL:
        return []
    return [_issue(looked.split(0), "", share, "turned_many", share=f"{share:.0%}")]
