"""A stage of a plan: prepared, carried out by the one training loop, and kept to its time."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from reslab.errors import InputError
from reslab.features.extraction import FeatureBatches, NoRoomError
from reslab.features.solving import CutOffError
from reslab.judging.scoring import Evaluations, judge, judge_all
from reslab.learning.loop import train_epochs
from reslab.learning.pace import Pace
from reslab.learning.state import DivergedError, Milestone, Progress, reach_milestone
from reslab.networks.inference import logits_of
from reslab.networks.model_file import read_tensors, save_model
from reslab.pictures.table import Pictures
from reslab.run.folder import Run
from reslab.training.anytime.ladder import GLANCE, MORE
from reslab.training.anytime.plan import Stage
from reslab.training.anytime.steering import Steering
from reslab.training.anytime.work import EnoughError, Work, drawn
from reslab.training.following import followed
from reslab.training.preparation import Prepared, prepare
from reslab.training.session import Session
from reslab.training.transfer import (
    known_from_first,
    solve_together,
    start_from_solved_head,
    with_features,
)


def run_stage(work: Work, number: int) -> None:
    """Carry out a stage of the plan, or what is left of it.

    Raises EnoughError; DivergedError or NoRoomError where it has to be given up.
    """
    stage = work.plan.stages[number]
    started = time.perf_counter()
    before = work.progress.best_accuracy
    session = None
    try:
        session = _opened(work, stage, number)
        if stage.together:
            _solve_together(work, session, stage)
        elif session.prepared.recipe.solves:
            _solve(work, session, stage)
        else:
            _train(work, session, stage)
    except (EnoughError, DivergedError, NoRoomError) as error:
        if work.interrupted:
            raise  # a repetition leaves its plan as it is
        stage.diverged = isinstance(error, DivergedError)
        # What came after the last milestone has no part in the result.
        if stage.turns and _judged(work, number):
            pace = Pace(stage.turns)
            pace.stop_at(work.progress.judged)
            stage.turns = pace.turns
        _close(work, session, number, started, before)
        raise
    _close(work, session, number, started, before)


def _judged(work: Work, number: int) -> bool:
    """Whether a stage has come to be judged."""
    return work.progress.stage == number and work.progress.epoch > work.plan.stages[number].first


def _close(work: Work, session: Session | None, number: int, started: float, before: float) -> None:
    """Record what a stage has cost and given; it is done if it came to be judged."""
    stage, progress = work.plan.stages[number], work.progress
    stage.seconds += time.perf_counter() - started
    stage.done = _judged(work, number)
    if stage.done and session is not None and progress.best_epoch >= stage.first:
        # A stage that was done before the run was stopped has no features at hand.
        features = isinstance(session.prepared.batches, FeatureBatches)
        quick = features and "validation" in session.prepared.evaluation and not work.averages
        work.best = session if quick else None
        if work.clock is not None:
            work.clock.validated = quick
    if stage.done and progress.best_accuracy >= 0:
        stage.validation_accuracy = progress.best_accuracy
        stage.validation_loss = progress.best_loss
        stage.gain = (stage.gain or 0.0) + progress.best_accuracy - max(before, 0.0)
    work.save_plan()


def reopen_best(work: Work) -> None:
    """Have the features at hand by which the best stage was judged, in a process that did not
    carry it out."""
    stage = work.best_stage
    assert stage is not None
    session = Session.open(work.run, _prepared(work, stage), work.device, work.display, work.began)
    _with_features(work, session)
    work.best = session


def _prepared(work: Work, stage: Stage) -> Prepared:
    """What a stage works with, with the best weights so far."""
    recipe = work.plan.recipe.with_fields(stage.fields)
    prepared = prepare(
        work.base.pictures, recipe, work.display.track, held_back=("test",), fill=False
    )
    prepared = replace(prepared, fingerprint=work.base.fingerprint)
    if stage.pictures:
        count = len(prepared.pictures.splits["train"])
        rows = np.sort(drawn(count, recipe.seed, "some")[: stage.pictures])
        prepared = replace(prepared, pictures=_some(prepared.pictures, rows))
    if work.run.best_checkpoint.exists():
        prepared.network.load_state_dict(work.chosen_weights())
    return prepared


def _opened(work: Work, stage: Stage, number: int) -> Session:
    """The stage where it begins, or where it was stopped."""
    prepared = _prepared(work, stage)
    session = Session.open(work.run, prepared, work.device, work.display, work.began)
    session.stage, session.save_plan = number, work.save_plan
    if work.progress.stage == number:
        session.restore()
        work.progress = session.state.progress
    else:
        _forget_epoch(work.progress)
        work.progress.stage, work.progress.best = number, False
        stage.first = work.progress.epoch
        if work.clock is not None:
            stage.turns = []
        session.state.progress = work.progress
        session.save()
    return session


def _forget_epoch(progress: Progress) -> None:
    """Let an epoch that was not judged be as if it had not begun."""
    progress.step = progress.hits = progress.seen = 0
    progress.loss_sum = progress.epoch_seconds = 0.0


def _some(pictures: Pictures, rows: np.ndarray) -> Pictures:
    """The pictures with these rows of train alone."""
    train = pictures.splits["train"]
    return replace(pictures, splits=pictures.splits | {"train": train.take(rows)})


def _with_features(work: Work, session: Session, order: np.ndarray | None = None) -> Prepared:
    """Compute what the frozen part makes of the pictures, as long as there is time.

    order: of the training pictures, those of the session.
    """
    prepared = session.prepared
    stop = work.stopping(prepared.recipe)
    session.prepared, report = with_features(prepared, session.device, session.display, stop, order)
    session.note_features("features", report)
    return session.prepared


def _features_in_time(work: Work, session: Session, stage: Stage) -> Prepared:
    """The features of all pictures of a head's stage, or of as many as there was time for.

    Raises EnoughError where these are not all, and hardly more than those of the head before.
    """
    whole, seed = work.base.pictures.splits["train"], session.prepared.recipe.seed
    seen = [one.pictures or len(whole) for one in work.plan.stages if one.done]
    # Where the session has some of the pictures, these have rows of their own.
    order = np.argsort(np.argsort(drawn(len(whole), seed, "some")[: stage.pictures]))
    # A few at a time as they lie, so that each packed file is not opened for each picture; the
    # very first are few, and any number of them makes a model.
    at_once = GLANCE if seen else 1
    order = np.concatenate(
        [np.sort(order[at : at + at_once]) for at in range(0, len(order), at_once)]
    )
    try:
        return _with_features(work, session, order)
    except EnoughError:
        if work.caught:
            raise
        count = known_from_first(session.prepared, session.device, order)
        if count < len(order):
            count -= count % at_once
        if count < len(order) and count <= (MORE * max(seen) if seen else 0):
            raise
    if count < len(order):
        stage.pictures = count
        work.save_plan()
        some = _some(session.prepared.pictures, np.sort(order[:count]))
        session.prepared = replace(session.prepared, pictures=some)
        work.display.say(f"features   of {count:,} pictures, which is what there was time for")
    return _with_features(work, session)


def _solve(work: Work, session: Session, stage: Stage) -> None:
    """Solve the head on plain features of the frozen network."""
    if work.progress.epoch > stage.first:  # it had been solved before the run was stopped
        return
    started = time.perf_counter()
    prepared, display = _features_in_time(work, session, stage), session.display
    passes = _Passes(work, stage)
    found = start_from_solved_head(
        prepared, session.device, display, work.stop_late, solving=passes.stop
    )
    stage.strength, stage.passes = found["strength"], passes.cut_after
    if stage.passes is not None:
        unseen = "validation" not in prepared.evaluation and work.run.best_checkpoint.exists()
        if unseen and work.clock is not None:
            raise EnoughError  # nothing can tell whether it is better than the one before
        display.say(f"head       cut off after {stage.passes:,} passes: taken as it was then")
    # One that was cut off may be worse than the one before, of fewer pictures.
    choose = work.plan.chooses or stage.passes is not None
    _follow_solved(session, _solved(session, started, choose=choose))


class _Passes:
    """Counts the passes over the features that solving a head takes, and cuts it off: where the
    time is up, or the time was when the plan was made that is repeated.

    cut_after: how many there were before that, None if there was time for all.
    """

    def __init__(self, work: Work, stage: Stage) -> None:
        self.cut_after: int | None = None
        self._work = work
        self._most = stage.passes if work.clock is None else None
        self._count = 0

    def stop(self) -> None:
        """Raise CutOffError if no more passes are to be; EnoughError if there was none yet."""
        try:
            self._work.stop_solving()
        except EnoughError:
            if self._work.clock is None or not self._count:
                raise
            self._cut_off()
        if self._count == self._most:
            self._cut_off()
        self._count += 1

    def _cut_off(self) -> None:
        self.cut_after = self._count
        raise CutOffError


def _solve_together(work: Work, session: Session, stage: Stage) -> None:
    """Solve the chosen head on the validation pictures too; what they said of it before is kept."""
    if work.progress.epoch > stage.first:
        return
    started = time.perf_counter()
    prepared = _with_features(work, session)
    logits, labels = logits_of(
        prepared.trained, prepared.evaluation["validation"](), session.device
    )
    before = {"validation.logits": logits, "validation.labels": labels}
    # As the stage began.
    chosen = prepared.network.state_dict() | before
    save_model(session.run.chosen_checkpoint, chosen, session.model())
    assert stage.strength is not None
    solve_together(prepared, stage.strength, work.stop_late)
    _follow_solved(session, _solved(session, started, together=True))


def _follow_solved(session: Session, milestones: Iterator[Milestone]) -> None:
    """Show and keep a solved head as an epoch of one step."""
    first = session.state.progress.epoch
    for _ in followed(session, milestones, 1, Pace([(first, first + 1)])):
        pass


def _solved(
    session: Session, started: float, *, together: bool = False, choose: bool = True
) -> Iterator[Milestone]:
    """The solved head, judged, if the validation pictures are not learned from together."""
    prepared, progress = session.prepared, session.state.progress
    batches = prepared.batches
    assert isinstance(batches, FeatureBatches)
    rows = torch.arange(len(batches.labels))
    found, _ = judge(prepared.trained, [(batches.inputs(rows, 0), batches.labels)], session.device)
    progress.seen = len(batches.labels)
    progress.loss_sum = found.loss * progress.seen
    progress.hits = round(found.accuracy * progress.seen)
    progress.epoch_seconds = time.perf_counter() - started
    progress.train_seconds += progress.epoch_seconds
    judging = {} if together else _judging(prepared)
    scores = judge_all(prepared.trained, judging, session.device)
    yield reach_milestone(progress, scores, {"epoch": progress.epoch}, 0.0, choose=choose)


def _judging(prepared: Prepared) -> Evaluations:
    """What decides which weights are best."""
    return {name: of for name, of in prepared.evaluation.items() if name == "validation"}


def _train(work: Work, session: Session, stage: Stage) -> None:
    """Train to the end of the stage's pace, which the clock decides if there is one."""
    prepared, progress = session.prepared, work.progress
    if prepared.cut is not None:
        prepared = _with_features(work, session)
    steps = len(prepared.batches)
    first = progress.epoch * steps + progress.step
    if stage.turns:
        pace = Pace(stage.turns)
        if work.clock is not None:
            pace.cut(first)
    else:
        pace = Pace([(first, prepared.recipe.epochs * steps)])
    judged = {name: partial(work.watched, of) for name, of in _judging(prepared).items()}
    events = train_epochs(
        session.state,
        prepared.recipe,
        prepared.batches,
        judged,
        session.device,
        pace,
        work.plan.chooses,
    )
    steering = Steering(work, session, pace, prepared.recipe.epochs * steps, steps)
    stage.turns = pace.turns
    with closing(followed(session, events, steps, pace)) as seen:
        for event in seen:
            steering.after(event)


def read_progress(run: Run) -> Progress | None:
    """Where the newest sound checkpoint of a run stands, if it has one."""
    for path in (run.last_checkpoint, run.previous_checkpoint):
        try:
            return Progress(**read_tensors(path)[1]["progress"])
        except (InputError, OSError, KeyError, TypeError):
            continue
    return None
