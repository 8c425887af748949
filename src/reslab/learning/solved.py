"""A solved head's path: one strength of regularisation after another, each judged."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from reslab.features.solving import HeadProblem, strengths
from reslab.judging.metrics import score
from reslab.judging.scoring import Evaluations, judge_all
from reslab.learning.parts.fold_heads import FoldHeads
from reslab.learning.state import Milestone, TrainingState, reach_milestone
from reslab.recipes.recipe import Recipe


def fold_heads(state: TrainingState) -> FoldHeads:
    """The heads of a training whose folds judge."""
    return next(part for part in state.parts if isinstance(part, FoldHeads))


@dataclass(frozen=True)
class CrossValidation:
    """Judging by heads that know nothing of what they judge: each solved without one fold.

    of: each training picture's fold (N,). judged: rows of those that can be judged.
    problem: of some training pictures by their rows, in all their views.
    x: features of the training pictures as evaluation sees them (N, D).
    """

    heads: FoldHeads
    of: torch.Tensor
    judged: torch.Tensor
    labels: torch.Tensor
    problem: Callable[[torch.Tensor], HeadProblem]
    x: torch.Tensor

    def logits(self, strength: float) -> torch.Tensor:
        """Out-of-fold logits (n, classes) of the judged pictures, in their order."""
        found = torch.empty(0)
        for fold in sorted(set(self.of.tolist())):
            head = self.heads.without(fold)
            self.problem(torch.nonzero(self.of != fold)[:, 0]).solve(head, strength)
            if not len(found):
                found = torch.empty(len(self.of), head.out_features)
            held = torch.nonzero(self.of == fold)[:, 0]
            with torch.no_grad():
                found[held] = head(self.x[held])
        return found[self.judged]


def solve_strengths(
    state: TrainingState,
    recipe: Recipe,
    problem: Callable[[], HeadProblem],
    head: nn.Linear,
    judged: Evaluations,
    device: str,
    crossed: CrossValidation | None = None,
) -> Iterator[Milestone]:
    """Solve the head for one strength after another; each starts from the last.

    judged: what to score after each; "validation" decides which strength is best. Where folds of
        the training pictures judge, `crossed` says how, and theirs is the validation score.
    """
    progress = state.progress
    path = strengths(recipe.epochs)
    started = time.perf_counter()
    ready = problem()
    for strength in path[progress.epoch :]:
        ready.solve(head, strength)
        state.refuse_diverged()
        logits = ready.logits(head)
        progress.loss_sum = float(ready.loss(logits)) * len(ready.labels)
        progress.hits = int((logits.argmax(1) == ready.labels).sum())
        progress.seen = len(ready.labels)
        progress.epoch_seconds = time.perf_counter() - started
        progress.train_seconds += progress.epoch_seconds
        started = time.perf_counter()
        scores = judge_all(state.network, judged, device)
        if crossed is not None:
            held_out = crossed.logits(strength)
            scores = {"validation": score(held_out, crossed.labels[crossed.judged])} | scores
        called = {"strength": strength}
        milestone = reach_milestone(progress, scores, called, time.perf_counter() - started)
        if crossed is not None and milestone.best:
            crossed.heads.best_logits = held_out
        yield milestone
        started = time.perf_counter()
