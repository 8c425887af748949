"""The learning rate as a function of the step: a curve for each name that a schedule may have."""

import math
from collections.abc import Callable

from reslab.recipes.groups import Schedule


def _constant(schedule: Schedule, share: float, epoch: int) -> float:
    return 1.0


def _cosine(schedule: Schedule, share: float, epoch: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * share)


def _linear(schedule: Schedule, share: float, epoch: int) -> float:
    return 1 - share


def _step(schedule: Schedule, share: float, epoch: int) -> float:
    return schedule.gamma ** (epoch // schedule.every)


# (schedule, share of the run after the warm-up, epoch) to a share of the peak.
CURVES: dict[str, Callable[[Schedule, float, int], float]] = {
    "constant": _constant,
    "one-cycle": _cosine,  # L. N. Smith, arXiv 1708.07120: up along a cosine, down along another
    "cosine": _cosine,  # I. Loshchilov, F. Hutter, arXiv 1608.03983
    "linear": _linear,
    "step": _step,  # torch.optim.lr_scheduler.StepLR
}
_REACHES_FURTHER = ("constant", "step")  # what comes is the same, however long the run is


def spans_the_run(schedule: Schedule) -> bool:
    """Whether another number of epochs would have changed the rates of those already made."""
    return schedule.name not in _REACHES_FURTHER or schedule.warmup > 0


def rate_factor(schedule: Schedule, step: float, steps: int, steps_an_epoch: int = 1) -> float:
    """Which share of its peak the learning rate has in a step (from 0) of a run of `steps` steps.

    It rises along a cosine over the share `warmup` of the run, a third for "one-cycle" if that is
    not set, and then follows its curve.
    """
    warmup = schedule.warmup or (0.3 if schedule.name == "one-cycle" else 0.0)
    rising = warmup * steps
    if step < rising:
        share = (step + 1) / (rising + 1)
        return 0.5 - 0.5 * math.cos(math.pi * share)
    share = (step - rising) / max(1.0, steps - rising)
    return CURVES[schedule.name](schedule, share, int(step // steps_an_epoch))
