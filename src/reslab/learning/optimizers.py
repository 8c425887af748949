"""Optimisers from torch, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from reslab.learning.recipe import Optimizer, Schedule


def build_optimizer(
    settings: Optimizer, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser over the parameters that train."""
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def learning_rate(peak: float, schedule: Schedule, step: int, steps: int) -> float:
    """The rate of a step (from 0) of a run of `steps` steps.

    "one-cycle" rises and falls along cosines (L. N. Smith, arXiv 1708.07120), over a third of
    the run unless `warmup` says otherwise; "cosine" falls along one (arXiv 1608.03983).
    """
    warmup = schedule.warmup or (0.3 if schedule.name == "one-cycle" else 0.0)
    rising = warmup * steps
    if step < rising:
        share = (step + 1) / (rising + 1)
        return peak * (0.5 - 0.5 * math.cos(math.pi * share))
    if schedule.name == "constant":
        return peak
    share = (step - rising) / max(1.0, steps - rising)
    return peak * (0.5 + 0.5 * math.cos(math.pi * share))
