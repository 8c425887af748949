"""Metrics: pure functions of logits (N, classes) and labels (N,)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Score:
    """How well a network did on n labelled pictures.

    loss: mean cross-entropy in nats, without label smoothing.
    interval: 95 % confidence interval of the accuracy.
    class_accuracy: accuracy for each class by index, NaN where a class has no picture.
    """

    n: int
    correct: int
    accuracy: float
    loss: float
    interval: tuple[float, float]
    class_accuracy: tuple[float, ...]

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, object]:
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "accuracy_interval": list(self.interval),
            "class_accuracy": {
                name: None if math.isnan(value) else value
                for name, value in zip(classes, self.class_accuracy, strict=True)
            },
        }


def score(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """The score of N > 0 predictions; the predicted class is the one with the largest logit."""
    hits = logits.argmax(1) == labels
    classes = logits.shape[1]
    totals = torch.bincount(labels, minlength=classes).double()
    right = torch.bincount(labels[hits], minlength=classes).double()
    correct, n = int(hits.sum()), len(labels)
    return Score(
        n=n,
        correct=correct,
        accuracy=correct / n,
        loss=float(F.cross_entropy(logits.double(), labels)),
        interval=wilson_interval(correct, n),
        class_accuracy=tuple((right / totals).tolist()),
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
