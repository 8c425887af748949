"""The one training loop: a generator over steps and epochs.

At every yield the state is complete: the caller may show it, save it, or stop there and go on
later from the saved state, bit for bit. Printing, checkpoints and stopping are the caller's.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from reslab.errors import InputError
from reslab.judging.metrics import Score, score
from reslab.learning.optimizers import rate_factor
from reslab.learning.recipe import Recipe
from reslab.networks.inference import as_input, logits_of
from reslab.pictures import draws
from reslab.pictures.batches import Batch, Batches
from reslab.pictures.settings import Averaging

Evaluations = Mapping[str, Callable[[], Iterable[Batch]]]


@dataclass
class Progress:
    """Where a run stands: everything that is no tensor. It is saved as JSON."""

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


@dataclass
class TrainingState:
    """What training changes: the network, or its part that trains, the optimiser, the progress."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)


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
class EpochEnd:
    """A finished epoch; `record` is its line of the history, `best` whether to keep its weights."""

    record: dict[str, float | int | None]
    best: bool


def train_epochs(
    state: TrainingState,
    recipe: Recipe,
    batches: Batches,
    judged: Evaluations,
    device: str,
) -> Iterator[Step | EpochEnd]:
    """Train from where the state stands to the recipe's last epoch.

    judged: what to score after each epoch; "validation" decides which weights are best, "test" is
        only watched. Raises InputError when a loss or a weight is not finite.
    """
    progress = state.progress
    steps = len(batches)
    weights = class_weights(batches.labels) if recipe.class_weights == "balanced" else None
    autocast = torch.autocast(
        device.split(":")[0], torch.bfloat16, enabled=recipe.precision == "bf16"
    )
    while progress.epoch < recipe.epochs:
        epoch = progress.epoch
        state.network.train(recipe.norms_learn)

        def factor_of(step: int, epoch: int = epoch) -> float:
            return rate_factor(recipe.schedule, epoch * steps + step, recipe.epochs * steps)

        started = time.perf_counter()
        # Where the network computes on the CPU too, making a batch ahead takes its cores: small
        # networks were a tenth slower. Waiting for files leaves them free.
        ahead = device != "cpu" or batches.waits
        coming = batches.from_step(epoch, progress.step, ahead=ahead)
        for step, (x, labels) in enumerate(coming, progress.step):
            factor = factor_of(step)
            for group in state.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            x, labels = as_input(x, device), labels.to(device)
            state.optimizer.zero_grad()
            with draws.torch_stream(recipe.seed, "step", epoch, step, device=device):
                loss, hits = _pass(state.network, x, labels, recipe, autocast, weights)
            if not math.isfinite(loss):
                raise _diverged("loss", loss, epoch, step)
            state.optimizer.step()
            progress.step = step + 1
            progress.loss_sum += loss * len(labels)
            progress.hits += hits
            progress.seen += len(labels)
            progress.train_seconds += time.perf_counter() - started
            progress.epoch_seconds += time.perf_counter() - started
            yield Step(
                epoch=epoch,
                step=step,
                steps=steps,
                loss=progress.loss_sum / progress.seen,
                accuracy=progress.hits / progress.seen,
                pictures=len(labels),
                learning_rate=recipe.optimizer.lr * factor,
            )
            started = time.perf_counter()
        refuse_diverged(state)
        started = time.perf_counter()
        scores = {name: judge(state.network, of(), device)[0] for name, of in judged.items()}
        evaluate_seconds = time.perf_counter() - started
        rate = recipe.optimizer.lr * factor_of(steps - 1)
        yield end_epoch(progress, scores, {"learning_rate": rate}, evaluate_seconds)


def _pass(
    network: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    autocast: torch.autocast,
    weights: torch.Tensor | None,
) -> tuple[float, int]:
    """(mean loss, hits) of a batch, its gradients added to the parameters'.

    weights: of each class in the loss, if they are not to count by their pictures.
    """
    size = recipe.micro_batch or len(labels)
    parts = -(-len(labels) // size)
    loss_sum, hits = 0.0, 0
    # Even parts, as the batches are: see TrainingBatches.bounds.
    for part, wanted in zip(x.tensor_split(parts), labels.tensor_split(parts), strict=True):
        with autocast:
            logits = network(part).float()
        if weights is None:
            loss = F.cross_entropy(logits, wanted, label_smoothing=recipe.label_smoothing)
        else:
            each = F.cross_entropy(
                logits, wanted, label_smoothing=recipe.label_smoothing, reduction="none"
            )
            loss = (each * weights.to(each.device)[wanted]).mean()
        share = len(wanted) / len(labels)
        torch.autograd.backward(loss * share)
        loss_sum += loss.item() * share
        hits += int((logits.argmax(1) == wanted).sum())
    return loss_sum, hits


def class_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weights of classes (C,) that let each count as much as another; 1 in the mean over labels."""
    counts = torch.bincount(labels)
    return len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1)).float()


def end_epoch(
    progress: Progress,
    scores: Mapping[str, Score],
    settings: Mapping[str, float],
    evaluate_seconds: float,
) -> EpochEnd:
    """Close an epoch: its record, with the settings it ran by, and whether it is the best."""
    for name, found in scores.items():
        if not math.isfinite(found.loss):
            raise _diverged(f"{name} loss", found.loss, progress.epoch, progress.step)
    record: dict[str, float | int | None] = {
        "epoch": progress.epoch,
        **settings,
        "train_loss": progress.loss_sum / progress.seen,
        "train_accuracy": progress.hits / progress.seen,
    }
    for name, found in scores.items():
        record[f"{name}_loss"] = found.loss
        record[f"{name}_accuracy"] = found.accuracy
    record["seconds"] = progress.epoch_seconds
    record["evaluate_seconds"] = evaluate_seconds
    chosen = scores.get("validation")
    # Without a validation split nothing may choose, so the last epoch's weights are kept.
    best = chosen is None or (chosen.accuracy, -chosen.loss) > (
        progress.best_accuracy,
        -progress.best_loss,
    )
    if best:
        progress.best_epoch = progress.epoch
        if chosen:
            progress.best_accuracy, progress.best_loss = chosen.accuracy, chosen.loss
    progress.evaluate_seconds += evaluate_seconds
    progress.epoch += 1
    progress.step = progress.hits = progress.seen = 0
    progress.loss_sum = progress.epoch_seconds = 0.0
    progress.history_lines += 1
    return EpochEnd(record, best)


def judge(
    network: nn.Module, batches: Iterable[Batch], device: str, averaging: Averaging = "none"
) -> tuple[Score, torch.Tensor]:
    """The score of a network on these batches, and its logits (N, classes)."""
    logits, labels = logits_of(network, batches, device, averaging)
    return score(logits, labels), logits


def refuse_diverged(state: TrainingState) -> None:
    """Raise InputError if a weight is not finite, before such a state is judged or saved."""
    for name, value in state.network.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise _diverged(f"weight {name}", math.nan, state.progress.epoch, state.progress.step)


def _diverged(what: str, value: float, epoch: int, step: int) -> InputError:
    return InputError(
        f"the {what} became {value} in epoch {epoch}, step {step}: training diverged and stopped;"
        " the last good state is kept. Try a smaller --lr"
    )
