"""What a training by the clock works with, and how it looks at the clock meanwhile."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from reslab.errors import InputError
from reslab.features.extraction import TOGETHER
from reslab.learning.state import Progress
from reslab.networks.inference import logits_of
from reslab.networks.model_file import read_tensors
from reslab.pictures import draws
from reslab.pictures.batches import Batch
from reslab.recipes.recipe import Recipe
from reslab.run.display import Display
from reslab.run.folder import Run
from reslab.training.anytime.clock import Clock, StepTimes
from reslab.training.anytime.halving import features_precision
from reslab.training.anytime.plan import Plan, Stage
from reslab.training.preparation import Prepared
from reslab.training.session import Session

SETTLED_PASSES = 6  # forward passes before their rate is believed
NOTABLY = 1.2  # times as slow as before, from which on it is no chance
PART = 16 * 224 * 224  # pixels of a forward pass between two looks at the clock


class Scored(NamedTuple):
    """Logits (n, classes) and classes (n,) of rows of a split, in rising order.

    plain: the logits without averaging over views, where there was any.
    """

    rows: np.ndarray
    logits: torch.Tensor
    labels: torch.Tensor
    plain: torch.Tensor | None = None


class EnoughError(Exception):
    """The time is up, or a signal asks to end: the best so far is to be scored."""


@dataclass
class Work:
    """A training by a plan: with a clock that makes the plan, or without one, repeating it.

    best: the stage with the best weights so far, if its features say quickly what they do.
    """

    run: Run
    base: Prepared
    device: str
    display: Display
    began: float
    plan: Plan
    clock: Clock | None
    caught: list[int] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    best: Session | None = None

    def judge_by(self, count: int) -> None:
        """Let so many of the validation pictures choose, drawn by the seed."""
        splits = self.base.pictures.splits
        if "validation" not in splits:
            raise InputError(
                f"the plan chose by {count:,} validation pictures, and"
                f" {self.base.pictures.name} has none"
            )
        whole = splits["validation"]
        count = min(count, len(whole))
        rows = np.sort(drawn(len(whole), self.base.recipe.seed, "judged")[:count])
        judged = replace(self.base.pictures, splits=splits | {"validation": whole.take(rows)})
        self.base = replace(self.base, pictures=judged)
        self.plan.judged = count
        self.display.say(
            f"judging    by {count:,} of the {len(whole):,} validation pictures, drawn by the seed:"
            " there is no time for all"
        )
        if self.clock is not None:
            self.clock.validation = count

    @property
    def interrupted(self) -> bool:
        """Whether a signal stops what is to go on bit for bit; by the clock it ends a run."""
        return bool(self.caught) and self.clock is None

    @property
    def over(self) -> bool:
        return bool(self.caught) or self.short_of(lambda clock: clock.ending)

    def short_of(
        self, ending: Callable[[Clock], float], before: Callable[[Clock], float] = lambda _: 0.0
    ) -> bool:
        """Whether no more time is left than the end takes, and what is to come before it."""
        if self.clock is None:
            return False
        # A model without a score is better than none.
        begun = self.run.best_checkpoint.exists()
        needed = ending(self.clock) if begun else self.clock.leaving
        return self.clock.left <= needed + before(self.clock)

    def stop(self) -> None:
        """Raise EnoughError if nothing more is to be learned."""
        if self.over:
            raise EnoughError

    def stop_late(self) -> None:
        """As `stop`, within what is worth nothing before it is done: some of what is kept for the
        end may be used."""
        if self.caught or self.short_of(lambda clock: clock.least_ending):
            raise EnoughError

    def stop_solving(self) -> None:
        """As `stop_late`, in time for what was solved to be judged and kept."""
        if self.caught or self.short_of(
            lambda clock: clock.least_ending, lambda clock: clock.leaving
        ):
            raise EnoughError

    def stop_to_solve(self) -> None:
        """As `stop_late`, in time for a head to be solved on what there is, judged and kept."""
        if self.caught or self.short_of(
            lambda clock: clock.least_ending, lambda clock: clock.solving
        ):
            raise EnoughError

    @cached_property
    def features_precision(self) -> tuple[str, float]:
        """What features are computed in, and how many times as fast as in float32 that is."""
        if "precision" in self.plan.pinned:
            return self.base.recipe.precision, 1.0
        return features_precision(self.base, self.device)

    def stopping(self, recipe: Recipe) -> Callable[[], None]:
        """What ends the computing of features in time, called after each forward pass.

        The clock learns the rate of passes meanwhile, if they are as the end computes.
        """
        telling = recipe.precision == "fp32" and recipe.train_from == "head"
        # A head can be solved on some of the features; other layers need them all.
        enough = self.stop_to_solve if recipe.solves else self.stop_late
        ended: list[float] = []
        times = StepTimes()

        def stop() -> None:
            ended.append(time.perf_counter())
            times.step()
            # The first passes also set things up; a rate of them alone would be far too low.
            settled = len(ended) > SETTLED_PASSES
            if self.clock is not None and settled and telling:
                self.clock.note_rate(TOGETHER * (len(ended) - 1), ended[-1] - ended[0])
            if self.clock is not None:
                self.clock.slower = times.slower if times.slower > NOTABLY else 1.0
            enough()

        return stop

    def watched(self, batches: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
        """The batches, as long as there is time: some of what is kept for the end may be used."""
        for batch in in_parts(batches()):
            if self.short_of(lambda clock: clock.least_ending):
                raise EnoughError
            yield batch

    @property
    def averages(self) -> bool:
        """Whether the model will average over views, which no features are cached of."""
        return self.base.recipe.averaging != "none"

    @property
    def lacks_features(self) -> bool:
        """Whether a repetition was stopped after the stage by whose features it is judged."""
        wanted = self.clock is None and self.plan.by_features and self.best is None
        return bool(wanted) and self.best_stage is not None and not self.best_stage.together

    @property
    def best_stage(self) -> Stage | None:
        """The stage that the best weights come from."""
        before = (one for one in self.plan.stages if one.done)
        found = [one for one in before if one.first <= self.progress.best_epoch]
        return found[-1] if found else None

    def on_validation(self) -> Scored | None:
        """The best weights on the validation split, if that is known, or has cached features.

        Of weights that have learned from it, those that it chose before.
        """
        if self.best_stage is not None and self.best_stage.together:
            tensors, _ = read_tensors(self.run.chosen_checkpoint)
            labels = tensors["validation.labels"]
            return Scored(np.arange(len(labels)), tensors["validation.logits"], labels)
        session = self.best
        by_pictures = self.clock is None and self.plan.by_features is False
        if session is None or by_pictures:
            return None
        prepared = session.prepared
        prepared.network.load_state_dict(session.best_weights())
        batches = prepared.evaluation["validation"]()
        logits, labels = logits_of(prepared.trained, batches, self.device)
        return Scored(np.arange(len(labels)), logits, labels)

    def chosen_weights(self) -> dict[str, torch.Tensor]:
        """The best weights among those that learned from train alone."""
        if self.best_stage is None or not self.best_stage.together:
            return read_tensors(self.run.best_checkpoint)[0]
        tensors, _ = read_tensors(self.run.chosen_checkpoint)
        return {name: of for name, of in tensors.items() if not name.startswith("validation.")}

    def save_plan(self) -> None:
        if self.clock is not None:
            self.plan.used = self.clock.used
        self.plan.save(self.run.path)


def drawn(count: int, seed: int, what: str) -> np.ndarray:
    """The order in which so many pictures are drawn for something."""
    order: np.ndarray = torch.randperm(count, generator=draws.generator(seed, what)).numpy()
    return order


def in_parts(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of pictures in parts that take no longer than a look at the clock may wait."""
    for x, labels in batches:
        count = pictures_at_once(tuple(x.shape[-2:])) if x.ndim == 4 else PART
        yield from zip(torch.split(x, count), torch.split(labels, count), strict=True)


def pictures_at_once(size: tuple[int, ...]) -> int:
    """How many pictures of a height and width pass between two looks at the clock."""
    return max(1, PART // (size[0] * size[1]))
