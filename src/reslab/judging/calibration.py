"""Confidence that can be acted on: a temperature for probabilities, and sets that hold the truth.

Both are fitted on the validation split and travel in the model file.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from reslab.errors import InputError
from reslab.judging.metrics import probabilities
from reslab.pictures import draws

MOST_KEPT = 10_000  # validation pictures whose probabilities are kept for sets
_RANGE = math.log(1 / 20), math.log(20)  # of log temperature
_SPREAD = 0.5  # of log temperature, before any picture has been seen
_HALVINGS = 32
_ROUNDING = 1e-5  # of a probability: by how much other ways of computing it may differ
_CLEARLY = 3.84 / 2  # nats: what chance alone gains in one case of twenty (S. Wilks, 1938)


@dataclass(frozen=True)
class Calibration:
    """What was learned of a network's confidence on pictures it did not train on.

    temperature: what logits are divided by before the softmax.
    held: the probability that each validation picture's own class was given, at that temperature,
        in rising order; empty where there was none.
    """

    temperature: float = 1.0
    held: tuple[float, ...] = ()


def calibrate(logits: torch.Tensor, labels: torch.Tensor) -> Calibration:
    """The calibration of logits (N, classes) on labels (N,), N > 0."""
    temperature = fit_temperature(logits, labels)
    own = probabilities(logits, temperature)[np.arange(len(labels)), labels.numpy()]
    if len(own) > MOST_KEPT:  # drawn, not thinned by rank: what sets promise holds for a draw
        rows = torch.randperm(len(own), generator=draws.generator(0, "calibration"))
        own = own[rows[:MOST_KEPT].numpy()]
    return Calibration(temperature, tuple(float(f"{value:.7g}") for value in np.sort(own)))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature that makes the labels likeliest; 1 unless they clearly call for another.

    C. Guo and others: On Calibration of Modern Neural Networks, arXiv 1706.04599. Alone it would
    send the temperature of a network that errs nowhere on validation to 0; so log T is given a
    normal prior of mean 0 and standard deviation 0.5, which a few hundred pictures outweigh. And
    where few pictures say little, following them would make probabilities worse as often as better:
    by a likelihood ratio test at 95 % they stay as they are.
    """
    wide = logits.double()
    rows = torch.arange(len(labels))

    def cost(log_t: float) -> float:
        """Negative log posterior."""
        loss = F.cross_entropy(wide * math.exp(-log_t), labels, reduction="sum")
        return float(loss) + (log_t / _SPREAD) ** 2 / 2

    def slope(log_t: float) -> float:
        """Derivative of the negative log posterior by log T."""
        scaled = wide * math.exp(-log_t)
        excess = scaled[rows, labels] - (scaled.softmax(1) * scaled).sum(1)
        return float(excess.sum()) + log_t / _SPREAD**2

    low, high = _RANGE
    for _ in range(_HALVINGS):  # an end of the range too is come near enough
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    best = (low + high) / 2
    return math.exp(best) if cost(0) - cost(best) > _CLEARLY else 1.0


def least_in_set(held: tuple[float, ...], coverage: float, whose: str) -> float:
    """The least probability of a class that belongs to a set of this coverage.

    Split conformal prediction: if a new picture and the validation pictures come from one source
    and in any order alike, the set of all classes with this probability or more holds the picture's
    own class with a chance of at least `coverage`, on average over pictures and validation splits;
    not for each class or each kind of picture by itself.
    V. Vovk and others: Algorithmic Learning in a Random World, 2005; score of M. Sadinle and
    others: Least Ambiguous Set-Valued Classifiers, arXiv 1609.00451.

    whose: names the model in a message. Raises InputError where the pictures are too few.
    """
    if not (isinstance(coverage, int | float) and 0 < coverage < 1):
        raise InputError(f"coverage {coverage}: between 0 and 1, such as 0.95")
    if not held:
        raise InputError(
            f"{whose}: has no validation pictures to calibrate sets on (an old model, a run that"
            " was stopped, --folds, or --split.validation 0); train with a validation split"
        )
    # The small term keeps (n + 1) * (1 - coverage) from falling below a whole number by rounding.
    rank = math.floor((len(held) + 1) * (1 - coverage) + 1e-9)
    if rank < 1:
        needed = math.ceil(1 / (1 - coverage) - 1 - 1e-9)
        raise InputError(
            f"{whose}: {len(held)} validation pictures are too few for sets of coverage"
            f" {coverage:g}: {needed} are needed; carve more with --split.validation, or ask for"
            " less"
        )
    return held[min(rank, len(held)) - 1] * (1 - _ROUNDING)
