"""A solved head's path: one strength of regularisation after another, each judged."""

import time
from collections.abc import Callable, Iterator

from torch import nn

from reslab.features.solving import HeadProblem, strengths
from reslab.judging.scoring import Evaluations, judge_all
from reslab.learning.state import Milestone, TrainingState, reach_milestone
from reslab.recipes.recipe import Recipe


def solve_strengths(
    state: TrainingState,
    recipe: Recipe,
    problem: Callable[[], HeadProblem],
    head: nn.Linear,
    judged: Evaluations,
    device: str,
) -> Iterator[Milestone]:
    """Solve the head for one strength after another; each starts from the last.

    judged: what to score after each; "validation" decides which strength is best.
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
        called = {"strength": strength}
        yield reach_milestone(progress, scores, called, time.perf_counter() - started)
        started = time.perf_counter()
