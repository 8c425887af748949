"""Metrics: pure functions of logits (N, classes) and labels (N,).

`MEASURES` is what is said of a network once it is trained or evaluated; one more is a function here
and its place in that list.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from reslab.pictures.table import Samples

MOST_IN_TABLE = 100  # classes
BINS = 15  # of probability, as is usual for the calibration error


@dataclass(frozen=True)
class Score:
    """How well a network did on n labelled pictures.

    loss: mean cross-entropy in nats, without label smoothing.
    interval: 95 % confidence interval of the accuracy.
    """

    n: int
    correct: int
    accuracy: float
    loss: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """The pictures that logits and labels belong to, row by row, and the names of the classes.

    temperature: what logits are divided by before they become probabilities.
    """

    samples: Samples
    classes: tuple[str, ...]
    temperature: float = 1.0


def score(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """The score of N > 0 predictions; the predicted class is the one with the largest logit."""
    correct, n = int((logits.argmax(1) == labels).sum()), len(labels)
    return Score(
        n=n,
        correct=correct,
        accuracy=correct / n,
        loss=float(F.cross_entropy(logits.double(), labels)),
        interval=wilson_interval(correct, n),
    )


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion.

    E. B. Wilson: Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    z = 1.959963984540054
    p = correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not leave the proportion itself outside.
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def probabilities(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits over a temperature: (N, classes).

    In double precision, so that rounding is the forward pass's alone.
    """
    return np.asarray((logits.double() / temperature).softmax(1).numpy())


def overall(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """n, correct, accuracy with its 95 % interval, loss."""
    found = score(logits, labels)
    return {
        "n": found.n,
        "correct": found.correct,
        "accuracy": found.accuracy,
        "loss": found.loss,
        "accuracy_interval": list(found.interval),
    }


def class_accuracy(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """The accuracy on the pictures of each class by name, None where it has none."""
    classes = logits.shape[1]
    totals = torch.bincount(labels, minlength=classes).tolist()
    right = torch.bincount(labels[logits.argmax(1) == labels], minlength=classes).tolist()
    return {
        "class_accuracy": {
            name: hits / total if total else None
            for name, hits, total in zip(judged.classes, right, totals, strict=True)
        }
    }


def top5(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """How often the picture's class is among the five likeliest, where there are more than five."""
    if logits.shape[1] <= 5:
        return {}
    from sklearn.metrics import top_k_accuracy_score

    every = np.arange(logits.shape[1])
    hits = int(top_k_accuracy_score(labels, logits, k=5, labels=every, normalize=False))
    return {
        "top5_accuracy": hits / len(labels),
        "top5_accuracy_interval": list(wilson_interval(hits, len(labels))),
    }


def by_class(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """Each class's count, precision, recall and F1 by name, their means, the confusion matrix.

    confusion_matrix: counts; a row for each true class, a column for each predicted one. Of more
    than 100 classes it would be mostly zeros, so `confusion_counts` has (true, predicted, count) of
    the others, the classes by index.
    A class that was never predicted has no precision, one without pictures no recall.
    """
    from sklearn.metrics import confusion_matrix, f1_score

    predicted = logits.argmax(1)
    table = confusion_matrix(labels, predicted, labels=np.arange(logits.shape[1]))
    right, true, named = table.diagonal(), table.sum(1), table.sum(0)
    found = {}
    for name, hits, wanted, said in zip(
        judged.classes, right.tolist(), true.tolist(), named.tolist(), strict=True
    ):
        found[name] = {
            "n": wanted,
            "precision": hits / said if said else None,
            "precision_interval": list(wilson_interval(hits, said)) if said else None,
            "recall": hits / wanted if wanted else None,
            "recall_interval": list(wilson_interval(hits, wanted)) if wanted else None,
            "f1": 2 * hits / (wanted + said) if wanted + said else None,
        }
    held = true > 0
    if len(table) <= MOST_IN_TABLE:
        confusion = {"confusion_matrix": table.tolist()}
    else:
        rows, columns = np.nonzero(table)
        counts = np.stack([rows, columns, table[rows, columns]], axis=1)
        confusion = {"confusion_counts": counts.tolist()}
    return confusion | {
        "balanced_accuracy": float((right[held] / true[held]).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "per_class": found,
    }


def confusion_of(scores: Mapping[str, Any]) -> np.ndarray:
    """The confusion matrix (classes, classes) of what `by_class` gave."""
    if "confusion_matrix" in scores:
        return np.array(scores["confusion_matrix"])
    classes = len(scores["per_class"])
    table = np.zeros((classes, classes), dtype=np.int64)
    for true, said, count in scores["confusion_counts"]:
        table[true, said] = count
    return table


def confidence(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """How far probabilities can be believed, as they are shown, and `raw`, without temperature.

    brier_score: mean over pictures of the squared distance of the probabilities to the truth, from
        0 to 2.
    expected_calibration_error: mean distance of probability and accuracy of the likeliest class, in
        15 bins of equal width (M. Naeini and others, AAAI 2015); `reliability` has the bins.
    """
    shown = _believed(probabilities(logits, judged.temperature), labels)
    raw = _believed(probabilities(logits), labels)
    return shown | {"temperature": judged.temperature, "raw": raw}


def _believed(table: np.ndarray, labels: torch.Tensor) -> dict[str, Any]:
    from sklearn.metrics import brier_score_loss

    every = np.arange(table.shape[1])
    truth = labels.numpy()
    likeliest, right = table.max(1), table.argmax(1) == truth
    places = np.minimum((likeliest * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for place in np.unique(places).tolist():
        members = places == place
        said, was = float(likeliest[members].mean()), float(right[members].mean())
        error += float(members.mean()) * abs(said - was)
        bins.append(
            {
                "from": place / BINS,
                "to": (place + 1) / BINS,
                "n": int(members.sum()),
                "confidence": said,
                "accuracy": was,
            }
        )
    given = table if table.shape[1] > 2 else table[:, 1]
    brier = float(brier_score_loss(truth, given, labels=every, scale_by_half=False))
    return {"expected_calibration_error": error, "brier_score": brier, "reliability": bins}


Measure = Callable[[torch.Tensor, torch.Tensor, Judged], dict[str, Any]]
MEASURES: tuple[Measure, ...] = (overall, top5, class_accuracy, by_class, confidence)


def measured(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """All that `MEASURES` say of N > 0 predictions, as run.json and `evaluate` have it."""
    found: dict[str, Any] = {}
    for measure in MEASURES:
        found |= measure(logits, labels, judged)
    return found
