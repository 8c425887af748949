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
from reslab.learning.pieces import Pieces
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
from reslab.networks.folding import folded_in_each_pass
from reslab.networks.inference import as_input
from reslab.pictures import draws
from reslab.pictures.batches import Batch, Batches
from reslab.processes import team
from reslab.recipes.recipe import Recipe


def train_epochs(
    state: TrainingState,
    recipe: Recipe,
    batches: Batches,
    judged: Evaluations,
    device: str,
    pace: Pace | None = None,
    choose: bool = True,
) -> Iterator[Step | Milestone]:
    """Train from where the state stands to the recipe's last epoch, or until its patience ends.

    judged: what to score after each epoch; "validation" decides which weights are best (the
        last ones, where it is not to `choose`), "test" is only watched.
    pace: where to end in the place of the last epoch, perhaps within one; it may be given another
        turn at any yield.
    Raises InputError when a loss or a weight is not finite.
    """
    progress = state.progress
    steps = len(batches)
    pace = pace or Pace([(0, recipe.epochs * steps)])
    step_of = _Stepper(state, recipe, batches, device)
    while _goes_on(progress, recipe, steps, pace):
        epoch = progress.epoch
        state.network.train(recipe.norms_learn)
        started = time.perf_counter()
        # Where the network computes on the CPU too, making a batch ahead takes its cores: small
        # networks were a tenth slower. Waiting for files leaves them free.
        ahead = device != "cpu" or batches.waits
        coming = batches.from_step(epoch, progress.step, ahead=ahead, of=step_of.batch)
        for step, batch in enumerate(coming, progress.step):
            moment = Moment(recipe.seed, epoch, step, steps)
            if moment.count >= pace.end:
                break
            factor = rate_factor(recipe.schedule, pace.place(moment.count), pace.length, steps)
            loss, right = step_of(batch, moment, factor)
            count = len(batches.rows(epoch, step))
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
        scores = judge_all(step_of.judged, judged, device)
        evaluate_seconds = time.perf_counter() - started
        made = epoch * steps + progress.step
        factor = rate_factor(recipe.schedule, pace.place(made - 1), pace.length, steps)
        called = {"epoch": epoch, "learning_rate": recipe.optimizer.lr * factor}
        yield reach_milestone(progress, scores, called, evaluate_seconds, made, choose=choose)


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
    step_of = _Stepper(state, recipe, batches, device)
    state.network.train(recipe.norms_learn)
    for count, rate in enumerate(rates):
        epoch, step = divmod(count, len(batches))
        moment = Moment(recipe.seed, epoch, step, len(batches))
        try:
            loss, _ = step_of(step_of.batch(epoch, step), moment, rate / recipe.optimizer.lr)
        except DivergedError:
            return
        yield loss


class _Stepper:
    """One optimiser step on a batch, with all parts that the recipe asks for in their places.

    Where the recipe cuts batches into pieces, these are computed each on its own, by as many
    processes as there are.
    """

    def __init__(self, state: TrainingState, recipe: Recipe, batches: Batches, device: str) -> None:
        self._state = state
        self._recipe = recipe
        self._batches = batches
        self._loss = Loss.of(recipe, batches.labels)
        self._device = device
        self._autocast = torch.autocast(
            device.split(":")[0], torch.bfloat16, enabled=recipe.precision == "bf16"
        )
        self._network = state.network
        self.judged = state.judged  # or what computes as it
        if recipe.folds_norms:
            example = as_input(batches.inputs(torch.arange(1), 0), device)
            self._network = folded_in_each_pass(state.network.eval(), example)
            self.judged = self._network
            if state.judged is not state.network:
                self.judged = folded_in_each_pass(state.judged.eval(), example)
        self._pieces: Pieces | None = None
        if recipe.parts is not None:
            self._pieces = Pieces(recipe.parts, team(), state.network, state.parts, device)

    def batch(self, epoch: int, step: int) -> list[Batch]:
        """What this process needs of a batch: the whole, or its pieces."""
        if self._pieces is None:
            return [self._batches.batch(epoch, step)]
        return self._pieces.batch(self._batches, epoch, step)

    def __call__(self, made: list[Batch], moment: Moment, factor: float) -> tuple[float, int]:
        """(mean loss, hits) of a step at `factor` times the peak rate."""
        state = self._state
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        state.optimizer.zero_grad()
        if self._pieces is None:
            loss, right = self._on_whole(made[0], moment)
        else:
            count = len(self._batches.rows(moment.epoch, moment.step))
            loss, right = self._pieces.step(made, count, moment, self._on_piece)
        if not math.isfinite(loss):
            raise diverged("loss", loss, state.progress)
        for part in state.parts:
            part.gradients(state.network, moment)
        state.optimizer.step()
        for part in state.parts:
            part.weights(state.network, moment)
        return loss, right

    def _on_whole(self, batch: Batch, moment: Moment) -> tuple[float, int]:
        state, device = self._state, self._device
        x, targets = as_input(batch[0], device), batch[1].to(device)
        for part in state.parts:
            x, targets = part.batch(x, targets, moment)
        for part in state.parts:
            part.passing(moment)
        return self._gradients(x, targets, moment, len(targets), len(targets))

    def _on_piece(
        self, x: torch.Tensor, targets: torch.Tensor, moment: Moment, count: int
    ) -> tuple[float, int]:
        """Of a piece of a batch of `count` pictures; all its pieces take as many passes."""
        largest = -(-count // (self._recipe.parts or 1))
        return self._gradients(x, targets, moment, largest, count)

    def _gradients(
        self, x: torch.Tensor, targets: torch.Tensor, moment: Moment, largest: int, count: int
    ) -> tuple[float, int]:
        passes = -(-largest // (self._recipe.micro_batch or largest))
        with draws.torch_stream(*moment.address("step"), device=self._device):
            return gradients_of(
                self._network, x, targets, self._loss, passes, count, self._autocast
            )


def gradients_of(
    network: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    loss: Loss,
    passes: int,
    count: int,
    autocast: torch.autocast,
) -> tuple[float, int]:
    """(mean loss, hits) of a batch in so many passes, its gradients added to the parameters'.

    count: how many pictures the mean is over, if these are a piece of a batch.
    """
    loss_sum, right = 0.0, 0
    # Even parts, as the batches are: see TrainingBatches.bounds.
    for part, wanted in zip(x.tensor_split(passes), targets.tensor_split(passes), strict=True):
        with autocast:
            logits = network(part).float()
        mean = loss(logits, wanted)
        share = len(wanted) / count
        torch.autograd.backward(mean * share)
        loss_sum += mean.item() * share
        right += hits(logits, wanted)
    return loss_sum, right
