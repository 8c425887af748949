"""The one training loop: a generator over steps and epochs.

At every yield the state is complete: the caller may show it, save it, or stop there and go on
later from the saved state, bit for bit. Printing, checkpoints and stopping are the caller's.
"""

import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from reslab.judging.scoring import Evaluations, judge_all
from reslab.learning.loss import Loss, hits
from reslab.learning.pace import Pace
from reslab.learning.parts.part import Moment
from reslab.learning.schedules import rate_factor
from reslab.learning.state import (
    DivergedError,
    Milestone,
    Progress,
    Step,
    TrainingState,
    diverged,
    reach_milestone,
)
from reslab.networks.inference import as_input
from reslab.pictures import draws
from reslab.pictures.batches import Batch, Batches
from reslab.recipes.recipe import Recipe


def train_epochs(
    state: TrainingState,
    recipe: Recipe,
    batches: Batches,
    judged: Evaluations,
    device: str,
    pace: Pace | None = None,
) -> Iterator[Step | Milestone]:
    """Train from where the state stands to the recipe's last epoch, or until its patience ends.

    judged: what to score after each epoch; "validation" decides which weights are best, "test" is
        only watched.
    pace: where to end in the place of the last epoch, perhaps within one; it may be given another
        turn at any yield.
    Raises InputError when a loss or a weight is not finite.
    """
    progress = state.progress
    steps = len(batches)
    pace = pace or Pace([(0, recipe.epochs * steps)])
    step_of = _Stepper(state, recipe, Loss.of(recipe, batches.labels), device)
    while _goes_on(progress, recipe, steps, pace):
        epoch = progress.epoch
        state.network.train(recipe.norms_learn)
        started = time.perf_counter()
        # Where the network computes on the CPU too, making a batch ahead takes its cores: small
        # networks were a tenth slower. Waiting for files leaves them free.
        ahead = device != "cpu" or batches.waits
        coming = batches.from_step(epoch, progress.step, ahead=ahead)
        for step, batch in enumerate(coming, progress.step):
            moment = Moment(recipe.seed, epoch, step, steps)
            if moment.count >= pace.end:
                break
            factor = rate_factor(recipe.schedule, pace.place(moment.count), pace.length, steps)
            loss, right = step_of(batch, moment, factor)
            count = len(batch[1])
            progress.step = step + 1
            progress.loss_sum += loss * count
            progress.hits += right
            progress.seen += count
            progress.train_seconds += time.perf_counter() - started
            progress.epoch_seconds += time.perf_counter() - started
            yield Step(
                epoch=epoch,
                step=step,
                steps=steps,
                loss=progress.loss_sum / progress.seen,
                accuracy=progress.hits / progress.seen,
                pictures=count,
                learning_rate=recipe.optimizer.lr * factor,
            )
            started = time.perf_counter()
        state.refuse_diverged()
        started = time.perf_counter()
        scores = judge_all(state.judged, judged, device)
        evaluate_seconds = time.perf_counter() - started
        last = pace.place(epoch * steps + progress.step - 1)
        factor = rate_factor(recipe.schedule, last, pace.length, steps)
        called = {"epoch": epoch, "learning_rate": recipe.optimizer.lr * factor}
        yield reach_milestone(progress, scores, called, evaluate_seconds)


def _goes_on(progress: Progress, recipe: Recipe, steps: int, pace: Pace) -> bool:
    """Whether an epoch is to begin, or to be ended."""
    lacks = progress.step > 0 or progress.epoch * steps < pace.end
    return lacks and not progress.waited_out(recipe.patience)


def ramp(
    state: TrainingState,
    recipe: Recipe,
    batches: Batches,
    rates: Sequence[float],
    device: str,
) -> Iterator[float]:
    """The losses of steps at these rates, one after another, until one is not finite."""
    step_of = _Stepper(state, recipe, Loss.of(recipe, batches.labels), device)
    state.network.train(recipe.norms_learn)
    for count, rate in enumerate(rates):
        epoch, step = divmod(count, len(batches))
        moment = Moment(recipe.seed, epoch, step, len(batches))
        try:
            loss, _ = step_of(batches.batch(epoch, step), moment, rate / recipe.optimizer.lr)
        except DivergedError:
            return
        yield loss


class _Stepper:
    """One optimiser step on a batch, with all parts that the recipe asks for in their places."""

    def __init__(self, state: TrainingState, recipe: Recipe, loss: Loss, device: str) -> None:
        self._state = state
        self._recipe = recipe
        self._loss = loss
        self._device = device
        self._autocast = torch.autocast(
            device.split(":")[0], torch.bfloat16, enabled=recipe.precision == "bf16"
        )

    def __call__(self, batch: Batch, moment: Moment, factor: float) -> tuple[float, int]:
        """(mean loss, hits) of a step at `factor` times the peak rate."""
        state, device = self._state, self._device
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        x, targets = as_input(batch[0], device), batch[1].to(device)
        for part in state.parts:
            x, targets = part.batch(x, targets, moment)
        state.optimizer.zero_grad()
        address = self._recipe.seed, "step", moment.epoch, moment.step
        with draws.torch_stream(*address, device=device):
            loss, right = gradients_of(
                state.network, x, targets, self._loss, self._recipe.micro_batch, self._autocast
            )
        if not math.isfinite(loss):
            raise diverged("loss", loss, state.progress)
        for part in state.parts:
            part.gradients(state.network, moment)
        state.optimizer.step()
        for part in state.parts:
            part.weights(state.network, moment)
        return loss, right


def gradients_of(
    network: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    loss: Loss,
    micro_batch: int | None,
    autocast: torch.autocast,
) -> tuple[float, int]:
    """(mean loss, hits) of a batch, its gradients added to the parameters'."""
    parts = -(-len(targets) // (micro_batch or len(targets)))
    loss_sum, right = 0.0, 0
    # Even parts, as the batches are: see TrainingBatches.bounds.
    for part, wanted in zip(x.tensor_split(parts), targets.tensor_split(parts), strict=True):
        with autocast:
            logits = network(part).float()
        mean = loss(logits, wanted)
        share = len(wanted) / len(targets)
        torch.autograd.backward(mean * share)
        loss_sum += mean.item() * share
        right += hits(logits, wanted)
    return loss_sum, right
