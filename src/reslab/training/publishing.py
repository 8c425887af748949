"""The end of a run: its model is calibrated and written, and each held-out split is scored once."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from reslab.errors import InputError
from reslab.judging.calibration import Calibration, calibrate, fit_temperature
from reslab.judging.metrics import Judged, measured, overall
from reslab.judging.scoring import logits_in_shares
from reslab.learning.solved import fold_heads
from reslab.pictures.settings import Averaging
from reslab.pictures.splitting import Folds
from reslab.run.looks import note_look
from reslab.training.description import digest_of
from reslab.training.preparation import unjudged_classes
from reslab.training.run_files import Outcome, write_files
from reslab.training.session import Session


def publish(session: Session) -> None:
    """Write the model, score it once on each held-out split, and write what the run is for.

    Whatever moment the process is killed at, all of it is done again by a resume.
    """
    prepared, run = session.prepared, session.run
    prepared.trained.load_state_dict(session.best_weights())
    started = time.perf_counter()
    results: dict[str, Any] = {"test": None, "validation": None}
    outcome = Outcome(run, prepared.pictures)
    network = prepared.trained
    if prepared.folds is not None:
        results["validation"] = _judge_out_of_fold(session, prepared.folds, outcome)
    elif "validation" in prepared.evaluation:
        results["validation"] = _judge(session, network, "validation", outcome)
    session.publish_best(outcome.calibration)
    if "test" in prepared.evaluation:
        weights = digest_of(prepared.network, tuple(prepared.network.state_dict()))
        if run.writes:
            note_look(run.path, "train", len(prepared.pictures.splits["test"]), weights)
        results["test"] = _judge(session, network, "test", outcome)
    session.state.progress.evaluate_seconds += time.perf_counter() - started
    standing = session.standing()
    # The report is made of these, and tells no times.
    run.info |= results | {name: standing[name] for name in standing if name != "seconds"}
    if run.writes:
        write_files(outcome, finished=True)
    for problem in outcome.problems:
        session.display.warn(problem)
    run.write_info(status="finished", **session.standing())


def _judge(session: Session, network: nn.Module, split: str, outcome: Outcome) -> dict[str, Any]:
    """All that is measured of the best weights on a split."""
    prepared = session.prepared
    views = prepared.recipe.averaging
    batches: Callable[[], Any] = prepared.evaluation[split]
    logits, labels = logits_in_shares(network, batches(), session.device, views)
    plain = None
    if views != "none":
        plain, _ = logits_in_shares(network, batches(), session.device, "none")
    return note_scores(outcome, split, views, logits, labels, plain)


def note_scores(
    outcome: Outcome,
    split: str,
    averaging: Averaging,
    logits: torch.Tensor,
    labels: torch.Tensor,
    plain: torch.Tensor | None = None,
) -> dict[str, Any]:
    """All that is measured of logits of a split, which are left in the outcome.

    plain: the same without averaging over views, where there was any. The validation split says
    first how far probabilities can be believed. Raises InputError where training diverged.
    """
    samples, classes = outcome.pictures.splits[split], outcome.pictures.classes
    for each in (logits,) if plain is None else (logits, plain):
        _refuse_diverged(overall(each, labels, Judged(samples, classes))["loss"], split)
    if split == "validation":
        outcome.calibration = calibrate(logits, labels)
    judged = Judged(samples, classes, outcome.calibration.temperature)
    outcome.judged[split], outcome.logits[split] = judged, logits
    found = measured(logits, labels, judged)
    if plain is not None:
        found |= {"averaging": averaging, "without_averaging": overall(plain, labels, judged)}
    return found


def _judge_out_of_fold(session: Session, folds: Folds, outcome: Outcome) -> dict[str, Any]:
    """What is measured of heads solved without a fold each, on the pictures left out of each.

    They fit the temperature too. They are no sets: what those promise is of one model's own
    probabilities of pictures it never saw, and the head that is kept has seen all of these.
    """
    pictures = session.prepared.pictures
    logits = fold_heads(session.state).best_logits
    samples = pictures.splits["train"].take(folds.judged)
    labels = torch.from_numpy(samples.labels)
    outcome.calibration = Calibration(fit_temperature(logits, labels))
    judged = Judged(samples, pictures.classes, outcome.calibration.temperature)
    outcome.judged["validation"], outcome.logits["validation"] = judged, logits
    return measured(logits, labels, judged) | {
        "folds": folds.count,
        "not_judged": unjudged_classes(folds, pictures),
    }


def _refuse_diverged(loss: float, split: str) -> None:
    if not math.isfinite(loss):
        raise InputError(
            f"the best weights give a {split} loss of {loss}: training diverged. Try a smaller --lr"
        )
