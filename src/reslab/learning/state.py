"""Where a training stands, and what it tells its caller."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from reslab.errors import InputError
from reslab.judging.metrics import Score
from reslab.learning.parts.part import Part


@dataclass
class Progress:
    """Everything of a training that is no tensor. It is saved as JSON.

    epoch: also which strength of regularisation comes next, where a head is solved.
    judged: after how many steps it was judged last, where there are steps; best: whether it was
    the best so far then.
    stage: of a training by the clock; its epochs count on over the stages.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    hits: int = 0
    seen: int = 0
    history_lines: int = 0
    best_epoch: int = -1
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    epoch_seconds: float = 0.0
    judged: int = 0
    best: bool = False
    stage: int = -1

    def waited_out(self, patience: int | None) -> bool:
        """Whether so many epochs have passed since the best one."""
        return patience is not None and self.epoch - 1 - self.best_epoch >= patience


@dataclass
class TrainingState:
    """What training changes: the network, or its part that trains, the optimiser, the progress."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    parts: tuple[Part, ...] = ()
    progress: Progress = field(default_factory=Progress)

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept: an average of it, if a part makes one."""
        network = self.network
        for part in self.parts:
            network = part.judged(network)
        return network

    def refuse_diverged(self) -> None:
        """Raise InputError if a weight is not finite, before such a state is judged or saved."""
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise diverged(f"weight {name}", math.nan, self.progress)


@dataclass(frozen=True)
class Step:
    """A finished optimiser step; loss and accuracy are means over the epoch so far.

    The loss is what is minimised, label smoothing and augmentation included.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float
    pictures: int
    learning_rate: float


@dataclass(frozen=True)
class Milestone:
    """An epoch, or a strength of a solved head's regularisation, that is finished and judged.

    record: its line of the history. best: whether to keep these weights.
    """

    record: dict[str, float | int | None]
    best: bool


def reach_milestone(
    progress: Progress,
    scores: Mapping[str, Score],
    called: Mapping[str, float],
    evaluate_seconds: float,
    made: int = 0,
    *,
    choose: bool = True,
) -> Milestone:
    """Close an epoch or a strength: its record, which begins with what it is `called`, and whether
    it is the best. made: steps of the run, if it is one of steps. choose: whether validation says
    which is the best; it is the last one if not."""
    for name, found in scores.items():
        if not math.isfinite(found.loss):
            raise diverged(f"{name} loss", found.loss, progress)
    record: dict[str, float | int | None] = {
        **called,
        "train_loss": progress.loss_sum / progress.seen,
        "train_accuracy": progress.hits / progress.seen,
    }
    for name, found in scores.items():
        record[f"{name}_loss"] = found.loss
        record[f"{name}_accuracy"] = found.accuracy
    record["seconds"] = progress.epoch_seconds
    record["evaluate_seconds"] = evaluate_seconds
    chosen = scores.get("validation")
    # Without a validation split nothing may choose, so the last weights are kept.
    before = progress.best_accuracy, -progress.best_loss
    best = chosen is None or not choose or (chosen.accuracy, -chosen.loss) > before
    progress.judged, progress.best = made, best
    if best:
        progress.best_epoch = progress.epoch
        if chosen:
            progress.best_accuracy, progress.best_loss = chosen.accuracy, chosen.loss
    progress.evaluate_seconds += evaluate_seconds
    progress.epoch += 1
    progress.step = progress.hits = progress.seen = 0
    progress.loss_sum = progress.epoch_seconds = 0.0
    progress.history_lines += 1
    return Milestone(record, best)


class DivergedError(InputError):
    """A loss or a weight is no longer finite: the steps were too large."""


def diverged(what: str, value: float, progress: Progress) -> DivergedError:
    where = f" in epoch {progress.epoch}, step {progress.step}"
    return DivergedError(
        f"the {what} became {value}{where}: training diverged and stopped; the last good state is"
        " kept. Try a smaller --lr"
    )
