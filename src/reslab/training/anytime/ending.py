"""The end of a training by the clock: the best model scored, and the run's files, in time.

In the order of what a run is worth without: the model, the test score, run.json and the
predictions; then the curves and the report, if there is time for them. The test split is scored in
an order of its own, drawn by the seed: where the time is too short to score all of it, the
pictures that were are a fair sample of it, and the score says how many they are.
"""

import time
from collections import deque
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.judging.charts import draw_curves
from reslab.networks.folding import folded
from reslab.networks.inference import as_input, averaged
from reslab.pictures import draws
from reslab.pictures.batches import evaluation_batches
from reslab.pictures.store import PixelStore
from reslab.reporting.content import gather
from reslab.reporting.page import report_page
from reslab.run.folder import Run
from reslab.run.looks import note_look
from reslab.training.anytime.clock import CAUTION, Clock, least_scored
from reslab.training.anytime.work import EnoughError, Scored, Work, pictures_at_once
from reslab.training.description import digest_of
from reslab.training.publishing import note_scores
from reslab.training.run_files import RUN_FILES, Outcome
from reslab.training.session import Session

REHEARSED_FROM = 20.0  # seconds of learning, from which on the end is rehearsed


def rehearse(work: Work, session: Session) -> None:
    """Do once what the end will do, so that it is imported, and known what it takes here."""
    clock, run = work.clock, work.run
    if clock is None or clock.rehearsed or not run.best_checkpoint.exists():
        return
    clock.rehearsed = True
    if clock.left_to_learn < REHEARSED_FROM:
        return
    started = time.perf_counter()
    session.publish_best()
    clock.files = 0.1 + time.perf_counter() - started
    for needed in ("sklearn.metrics", "matplotlib.backends.backend_agg"):
        import_module(needed)
    started = time.perf_counter()
    draw_curves(run.history, run.path / "curves.png", f"{run.info['recipe']} on {run.info['data']}")
    clock.curves = time.perf_counter() - started
    unscored = Run(run.path)
    unscored.info = run.info | {"test": None, "validation": None} | session.standing()
    for _ in range(2):  # the first time much is imported
        started = time.perf_counter()
        report_page(gather(unscored, work.base.pictures), "en")
    clock.report = time.perf_counter() - started


def publish_in_time(work: Work, session: Session) -> None:
    """Score the best model, and write what the run is for. Raises EnoughError without a score.

    Whatever moment the process is killed at, a resume does it again.
    """
    prepared, run, clock = session.prepared, session.run, work.clock
    began = time.perf_counter()
    outcome = Outcome(run, prepared.pictures)
    shape = (1, prepared.spec.channels, *prepared.spec.size)
    network = folded(prepared.network, as_input(torch.zeros(shape), session.device))
    results: dict[str, Any] = {"test": None, "validation": None}
    # What cached features say takes a second, and may not be what comes too late.
    validation = work.on_validation() if "validation" in prepared.evaluation else None
    if clock is not None:
        work.plan.by_features = validation is not None
        work.save_plan()
    test = None
    if "test" in prepared.evaluation:
        weights = digest_of(prepared.network, tuple(prepared.network.state_dict()))
        note_look(run.path, "train", len(prepared.pictures.splits["test"]), weights)
        test = _scored(work, session, network, "test")
        if test is None:
            raise EnoughError
    if "validation" in prepared.evaluation:
        validation = validation or _scored(work, session, network, "validation")
        if validation is None:
            outcome.problems.append(
                "the time was too short to judge the best weights by the validation pictures again:"
                " no validation score is kept, and the model's probabilities are not calibrated"
            )
    views = prepared.recipe.averaging
    if validation is not None:
        found = validation.logits, validation.labels, validation.plain
        results["validation"] = note_scores(outcome, "validation", views, *found)
        if work.plan.judged is not None:
            results["validation"] |= {"of": run.info["counts"]["validation"]}
    if test is not None:
        results["test"] = _told(outcome, session, test)
    session.publish_best(outcome.calibration)
    session.state.progress.evaluate_seconds += time.perf_counter() - began
    run.info |= results
    for file in RUN_FILES:
        if file.name == "predictions.csv":
            file.written_by(run.path / file.name, outcome)
    run.write_info(status="finished", **session.standing())
    told = time.perf_counter()
    _show(outcome, clock)
    for problem in outcome.problems:
        session.display.warn(problem)
    seconds = run.info["seconds"]
    run.write_info(seconds=seconds | {"total": seconds["total"] + time.perf_counter() - told})


def _scored(work: Work, session: Session, network: nn.Module, split: str) -> Scored | None:
    """Score a split, as far as the clock allows; None if that is too little to tell of."""
    prepared, clock = session.prepared, work.clock
    whole, views = prepared.pictures.splits[split], prepared.recipe.averaging
    drawn = draws.generator(prepared.recipe.seed, "scored", split)
    order = torch.randperm(len(whole), generator=drawn).numpy()
    store = PixelStore(whole.take(order), prepared.preprocessing)
    count = pictures_at_once(prepared.preprocessing.size)
    # Where not all can be scored anyway, there is to be time for the curves and the report.
    least = len(whole)
    if clock is not None and split == "test" and clock.to_score < len(whole):
        least = least_scored(len(whole))
    parts: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    passed: deque[float] = deque(maxlen=4)
    last = time.perf_counter()
    with torch.inference_mode():
        for x, _ in evaluation_batches(store, prepared.preprocessing, count):
            x = as_input(x, session.device)
            parts.append(averaged(network, x, views).cpu())
            if views != "none":
                plain.append(averaged(network, x, "none").cpu())
            passed.append(time.perf_counter() - last)
            last += passed[-1]
            if clock is None:
                continue
            later = clock.leaving if count * len(parts) < least else clock.after_test
            if clock.left < later + max(passed):
                break
    logits = torch.cat(parts)
    # Few classes may be held by the first pictures of the validation split alone.
    if len(logits) < (len(whole) if split == "validation" else least_scored(len(whole))):
        return None
    by = np.argsort(order[: len(logits)])
    rows = order[by]
    labels = torch.from_numpy(whole.labels[rows])
    return Scored(rows, logits[by], labels, torch.cat(plain)[by] if plain else None)


def _told(outcome: Outcome, session: Session, test: Scored) -> dict[str, Any]:
    """The test score; where not all of the split was scored, of the pictures that were."""
    pictures, views = session.prepared.pictures, session.prepared.recipe.averaging
    whole = pictures.splits["test"]
    cut: dict[str, Any] = {}
    if len(test.rows) < len(whole):
        cut = {"of": len(whole)}
        scored = pictures.splits | {"test": whole.take(test.rows)}
        outcome.pictures = replace(pictures, splits=scored)
        session.display.warn(
            f"the time was too short to score all {len(whole):,} test pictures:"
            f" {len(test.rows):,} of them, drawn by the seed, were"
        )
    return note_scores(outcome, "test", views, test.logits, test.labels, test.plain) | cut


def _show(outcome: Outcome, clock: Clock | None) -> None:
    """Draw the curves and write the report, if there is time."""
    for name in ("curves.png", "report.html"):
        if clock is not None:
            takes = clock.slower * (clock.curves if name == "curves.png" else clock.report)
            if clock.left < CAUTION * takes:
                outcome.problems.append(
                    f"no {name}: the time was over; `reslab report {outcome.run.path}` writes the"
                    " report"
                )
                continue
            outcome.maps = clock.left > CAUTION * (takes + clock.slower * clock.maps)
        file = next(file for file in RUN_FILES if file.name == name)
        file.written_by(outcome.run.path / name, outcome)
