"""Likely wrong labels, by what a head says of pictures that it was not solved on.

C. Northcutt, L. Jiang, I. Chuang: Confident Learning, JAIR 70 (2021), for probabilities out of
fold; the ranking here, by the likeliest other class against the given one, finds more (LOG.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from reslab.features.solving import HeadProblem, strengths
from reslab.pictures.splitting import dealt

FOLDS = 5
_PATH = 6  # strengths that are tried


@dataclass(frozen=True)
class Doubts:
    """Of each label: probabilities (N, classes) out of fold, and how much it is to be doubted.

    score: (N,), from 0 to 1: the likeliest other class against the given one. judged: False where
    no picture of the class was left to learn from.
    """

    probabilities: np.ndarray
    score: np.ndarray
    suggested: np.ndarray
    judged: np.ndarray


def doubts(features: torch.Tensor, labels: np.ndarray, groups: np.ndarray, classes: int) -> Doubts:
    """Of labels (N,) by features (N, D); copies, of equal number in `groups`, stay in one fold."""
    table = out_of_fold(features, labels, groups, classes)
    own = np.arange(len(labels)), labels
    sizes = np.array([len(np.unique(groups[labels == label])) for label in range(classes)])
    others = table.copy()
    others[own] = -1.0
    suggested = others.argmax(1)
    best = others[np.arange(len(labels)), suggested]
    score = best / np.maximum(best + table[own], 1e-12)
    return Doubts(table, score, suggested, sizes[labels] > 1)


def out_of_fold(
    features: torch.Tensor, labels: np.ndarray, groups: np.ndarray, classes: int
) -> np.ndarray:
    """Probabilities (N, classes) of each picture by a head solved on the other folds."""
    fold = dealt(labels, groups, np.arange(len(labels), dtype=np.uint64), FOLDS, 0)
    head = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    targets = torch.from_numpy(labels)
    table = np.zeros((len(labels), classes))
    strength = None
    for number in range(FOLDS):
        out = torch.from_numpy(fold == number)
        if not out.any() or out.all():
            continue
        problem = HeadProblem(features[~out], targets[~out], None)
        if strength is None:
            strength = _best_strength(head, problem, features[out], targets[out])
        problem.solve(head, strength)
        with torch.no_grad():
            table[out.numpy()] = head(features[out]).double().softmax(1).numpy()
    return table


def _best_strength(
    head: nn.Linear, problem: HeadProblem, features: torch.Tensor, labels: torch.Tensor
) -> float:
    """The strength whose loss on a fold that it is not solved on is least; the head is at it."""
    best, found, kept = float("inf"), strengths(_PATH)[0], None
    for strength in strengths(_PATH):
        problem.solve(head, strength)
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(head(features), labels))
        if loss > best:  # the loss falls and rises once along the path
            break
        best, found = loss, strength
        kept = {key: value.clone() for key, value in head.state_dict().items()}
    if kept is not None:
        head.load_state_dict(kept)
    return found
