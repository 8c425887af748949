"""Learning on top of a frozen part: its features first, then the head or the last layers."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from reslab.errors import InputError
from reslab.features.extraction import (
    EVALUATION,
    FeatureBatches,
    Features,
    Lacking,
    ViewSettings,
    Wanted,
    evaluation_features,
    training_views,
)
from reslab.features.freezing import cut_head, only_linear
from reslab.features.solving import HeadProblem, Stop, best_head
from reslab.judging.scoring import Evaluations
from reslab.learning.loss import class_weights
from reslab.learning.solved import CrossValidation, fold_heads, solve_strengths
from reslab.learning.state import Milestone, TrainingState
from reslab.networks.cutting import Cut
from reslab.pictures.batches import Batch
from reslab.pictures.table import Samples
from reslab.processes import team
from reslab.run.display import Display
from reslab.training.inputs import training_target
from reslab.training.preparation import Prepared

_TRIES = 3  # another process may prune the cache meanwhile


def with_features(
    prepared: Prepared, device: str, display: Display, stop: Stop, order: np.ndarray | None = None
) -> tuple[Prepared, dict[str, Any]]:
    """The preparation with cached features in the place of pictures, and a report of them.

    order: in which training pictures are computed, if not their own: their rows.
    Every view that is not in the cache is computed, and safe there once `stop` is called after it.
    What is held out is computed in float32 whatever training computes in, as `evaluate` does.
    """
    assert prepared.cut is not None
    recipe, splits = prepared.recipe, prepared.pictures.splits
    features = _features(prepared, prepared.cut, device, recipe.precision)
    trained = {"train": training_views(recipe.views)}
    # Folds judge training pictures too, as evaluation sees them.
    judged = [name for name in splits if name != "train" or prepared.folds]
    held_out: dict[str, tuple[int, ...]] = dict.fromkeys(judged, (EVALUATION,))
    exact = _exact(features, prepared, prepared.cut, device)
    report = _compute_each(features, exact, prepared, trained, held_out, display, stop, order)
    batches = FeatureBatches(
        features,
        splits["train"],
        recipe.views,
        batch_size=recipe.batch_size,
        shuffle=recipe.shuffle,
        seed=recipe.seed,
    )
    evaluation: dict[str, Callable[[], Iterable[Batch]]] = {
        name: partial(evaluation_features, exact, splits[name], recipe.eval_batch_size)
        for name in judged
    }
    return replace(prepared, batches=batches, evaluation=evaluation), report


def _features(prepared: Prepared, parts: Cut, device: str, precision: str) -> Features:
    recipe = prepared.recipe
    settings = ViewSettings(
        prepared.preprocessing,
        training_target(prepared.preprocessing, recipe.augment),
        recipe.augment,
        recipe.augmentation_seed,
    )
    return Features(parts.before, settings, precision, device)


def _in_order(lacking: list[Lacking], train: Samples, order: np.ndarray | None) -> list[Lacking]:
    """What must be computed, held-out pictures first, where training pictures have an order."""
    if order is None:
        return lacking
    place = np.argsort(order)
    return sorted(lacking, key=lambda one: place[one[1]] if one[0] is train else -1)


def known_from_first(prepared: Prepared, device: str, order: np.ndarray) -> int:
    """How many training pictures, from the first in an order, have features to solve a head on."""
    assert prepared.cut is not None
    features = _features(prepared, prepared.cut, device, prepared.recipe.precision)
    samples = prepared.pictures.splits["train"]
    place = np.argsort(order)
    missing = features.missing([(samples, (EVALUATION,))])
    return min((int(place[row]) for _, row, _ in missing), default=len(samples))


def _exact(features: Features, prepared: Prepared, parts: Cut, device: str) -> Features:
    """The features in float32, in which what is held out is judged."""
    fp32 = prepared.recipe.precision == "fp32"
    return features if fp32 else _features(prepared, parts, device, "fp32")


def _compute_each(
    features: Features,
    exact: Features,
    prepared: Prepared,
    trained: dict[str, tuple[int, ...]],
    held_out: dict[str, tuple[int, ...]],
    display: Display,
    stop: Stop,
    order: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute the views that train and those that are held out, the latter in float32."""
    if exact is features:  # in one go
        both = {name: (*of, *held_out.get(name, ())) for name, of in trained.items()}
        wanted = held_out | {name: tuple(dict.fromkeys(of)) for name, of in both.items()}
        return _compute(features, prepared, wanted, display, stop, order)
    # First: without what judges them, those that train are of no use where the time is up.
    before = _compute(exact, prepared, held_out, display, stop) if held_out else {}
    report = _compute(features, prepared, trained, display, stop, order)
    for name in ("computed", "known", "damaged", "seconds"):
        report[name] += before.get(name, 0)
    return report


def _compute(
    features: Features,
    prepared: Prepared,
    wanted: dict[str, tuple[int, ...]],
    display: Display,
    stop: Stop,
    order: np.ndarray | None = None,
) -> dict[str, Any]:
    started = time.perf_counter()
    splits = prepared.pictures.splits
    everything = [(splits[name], of) for name, of in wanted.items()]
    lacking = _in_order(_lacking(features, everything), splits["train"], order)
    count = sum(len(of) for _, _, of in lacking)
    whole = sum(len(splits[name]) * len(of) for name, of in wanted.items())
    needed = _make_room(features, count)
    if features.damaged:
        display.warn(f"{features.damaged:,} damaged feature(s) in the cache are computed again")
    if count:
        display.say(
            f"features   {count:,} of {whole:,} views to compute, {needed / 1e6:,.0f} MB to keep"
        )
    for _ in range(_TRIES):
        own = [lacking[index] for index in team().share(len(lacking))]
        total = sum(len(of) for _, _, of in own)
        for _done in display.counted(features.compute(own), "features", total):
            stop()
        _refuse_unsaved(features)
        team().wait()
        features.look_again()
        lacking = _lacking(features, everything) if lacking else []
        if not lacking:
            break
    else:
        raise InputError(
            "the features are deleted from the cache as soon as they are computed"
            if team().count == 1
            else "a process does not find the features that another has computed: let RESLAB_CACHE"
            " name one folder for all"
        )
    if features.cannot_save:
        display.warn(f"features are kept in memory, for this run alone: {features.cannot_save}")
    return {
        "shape": list(features.shape),
        "precision": prepared.recipe.precision,
        "relative_error": features.relative_error,
        "computed": sum(team().numbers(features.computed)),
        "known": whole - count,
        "damaged": features.damaged,
        "seconds": time.perf_counter() - started,
    }


def _lacking(features: Features, everything: list[Wanted]) -> list[Lacking]:
    """What must be computed, as the leader of several processes finds it."""
    places = {id(samples): place for place, (samples, _) in enumerate(everything)}

    def find() -> list[tuple[int, int, tuple[int, ...]]]:
        missing = features.missing(everything)
        return [(places[id(samples)], row, of) for samples, row, of in missing]

    return [(everything[place][0], row, of) for place, row, of in team().led(find)]


def _make_room(features: Features, count: int) -> int:
    """As `Features.make_room`, by the leader of several processes."""
    needed = team().led(lambda: features.make_room(count))
    _refuse_unsaved(features)
    return needed


def _refuse_unsaved(features: Features) -> None:
    """Raise InputError where what this process computes cannot reach the others."""
    if team().count > 1 and features.cannot_save:
        raise InputError(
            f"features cannot be kept ({features.cannot_save}), and several processes have them"
            " from the cache: make room, or name another folder by RESLAB_CACHE"
        )


def solved_path(
    prepared: Prepared, state: TrainingState, judged: Evaluations, device: str
) -> Iterator[Milestone]:
    """Solve the head on the features of all views, for one strength after another."""
    batches = prepared.batches
    assert isinstance(batches, FeatureBatches)
    head = only_linear(state.network)

    def problem(rows: torch.Tensor | None = None) -> HeadProblem:
        return _problem(batches.features, prepared, batches.views, rows)

    crossed = None
    if prepared.folds is not None:
        crossed = CrossValidation(
            fold_heads(state),
            torch.from_numpy(prepared.folds.of),
            torch.from_numpy(prepared.folds.judged),
            batches.labels,
            problem,
            torch.cat([x for x, _ in prepared.evaluation["train"]()]).flatten(1),
        )
    return solve_strengths(state, prepared.recipe, problem, head, judged, device, crossed)


def start_from_solved_head(
    prepared: Prepared, device: str, display: Display, stop: Stop, solving: Stop | None = None
) -> dict[str, Any]:
    """Give the network the head that logistic regression finds, before more of it trains.

    `stop` may raise while features are computed; `solving` while the head is solved, if not `stop`.
    Returns a report of the features, and of the strength that was chosen.
    """
    splits = prepared.pictures.splits
    parts = cut_head(prepared.network, prepared.recipe)
    features = _features(prepared, parts, device, prepared.recipe.precision)
    exact = _exact(features, prepared, parts, device)
    held_out = ["validation"] if "validation" in splits else []
    judging: dict[str, tuple[int, ...]] = dict.fromkeys(held_out, (EVALUATION,))
    report = _compute_each(
        features, exact, prepared, {"train": (EVALUATION,)}, judging, display, stop
    )
    problem = _problem(features, prepared, (EVALUATION,))
    validation = None
    if judging:
        samples = splits["validation"]
        rows = torch.arange(len(samples))
        validation = exact.take(samples, EVALUATION, rows), torch.from_numpy(samples.labels)
    report["strength"] = best_head(only_linear(parts.after), problem, validation, solving or stop)
    return report


def solve_together(prepared: Prepared, strength: float, stop: Stop) -> None:
    """Solve the head on the pictures of train and validation together.

    prepared: with cached features of both, as evaluation sees them.
    """
    batches, labels = prepared.batches, [prepared.batches.labels]
    assert isinstance(batches, FeatureBatches)
    x = [batches.inputs(torch.arange(len(labels[0])), 0)]
    for more, of in prepared.evaluation["validation"]():
        x.append(more)
        labels.append(of)
    every = torch.cat(labels)
    weights = None
    if prepared.recipe.class_weights == "balanced":
        weights = class_weights(every)[every]
    problem = HeadProblem(torch.cat(x).flatten(1), every, weights)
    problem.solve(only_linear(prepared.trained), strength, stop)


def _problem(
    features: Features,
    prepared: Prepared,
    views: tuple[int, ...],
    rows: torch.Tensor | None = None,
) -> HeadProblem:
    """The head's problem on these training pictures in all views, on all of them if None."""
    samples = prepared.pictures.splits["train"]
    rows = torch.arange(len(samples)) if rows is None else rows
    labels = torch.from_numpy(samples.labels)[rows]
    weights = None
    if prepared.recipe.class_weights == "balanced":
        weights = class_weights(labels)[labels].repeat(len(views))
    x = torch.cat([features.take(samples, view, rows) for view in views])
    return HeadProblem(x.flatten(1), labels.repeat(len(views)), weights)
