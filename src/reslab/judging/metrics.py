"""Metrics: pure functions of logits (N, classes) and labels (N,).

`MEASURES` is what is said of a network once it is trained or evaluated; one more is a function here
and its place in that list.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from reslab.pictures.table import Samples


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
    """The pictures that logits and labels belong to, row by row, and the names of the classes."""

    samples: Samples
    classes: tuple[str, ...]


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
    return max(0.0, middle - half), min(1.0, middle + half)


def probabilities(logits: torch.Tensor) -> np.ndarray:
    """Softmax in double precision, so that rounding is the forward pass's alone: (N, classes)."""
    return np.asarray(logits.double().softmax(1).numpy())


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


Measure = Callable[[torch.Tensor, torch.Tensor, Judged], dict[str, Any]]
MEASURES: tuple[Measure, ...] = (overall, class_accuracy)


def measured(logits: torch.Tensor, labels: torch.Tensor, judged: Judged) -> dict[str, Any]:
    """All that `MEASURES` say of N > 0 predictions, as run.json and `evaluate` have it."""
    found: dict[str, Any] = {}
    for measure in MEASURES:
        found |= measure(logits, labels, judged)
    return found
