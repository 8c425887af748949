"""The story of a run: `train` begins one, `resume` goes on with one; both tell it to its end.

Prepare, announce, learn, judge, publish. What a step needs stands in its own module; `Session`
carries it from one to the next.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from reslab.disk import user_path
from reslab.errors import InterruptedRunError
from reslab.judging.scoring import Evaluations
from reslab.learning.device import choose_device, computing_exactly, set_up
from reslab.learning.loop import train_epochs
from reslab.learning.state import Milestone, Step, TrainingState
from reslab.options import refuse_unknown, taken, taking
from reslab.pictures.data_source import DataSource
from reslab.pictures.table import Pictures
from reslab.process import began_at, refuse_several, training_alone
from reslab.processes import team, together
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe, changes_of
from reslab.reporting.words import choose_language
from reslab.run.display import Display
from reslab.run.folder import Run, new_run_folder, open_run, refuse_inside_data
from reslab.run.interruption import catching_signals
from reslab.run.lock import holding
from reslab.training.anytime.plan import Plan
from reslab.training.anytime.story import (
    by_plan,
    decided,
    minutes_left,
    plan_of,
    staged_plan,
    start_clock,
    whole_recipe,
    work_by_plan,
)
from reslab.training.continuing import differences, refuse_changed, refuse_extension
from reslab.training.description import announce, description, digest_of, say_what_has_no_part
from reslab.training.event_files import refuse_without_tensorboard
from reslab.training.following import draw_preview, followed
from reslab.training.inputs import default_recipe, with_whole_paths
from reslab.training.launching import earlier_run, in_parts, launch_name, refuse_whole
from reslab.training.preparation import Prepared, prepare, with_precision
from reslab.training.publishing import publish
from reslab.training.run_files import RUN_FILES
from reslab.training.session import Session
from reslab.training.transfer import solved_path, start_from_solved_head, with_features


@taking(DataSource, Recipe)
@training_alone()
@together()
def train(
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    watch_test: bool = False,
    overwrite: bool = False,
    language: str | None = None,
    tensorboard: bool = False,
    minutes: float | None = None,
    plan: str | Path | None = None,
    quiet: bool = False,
    fields: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Train a network on labelled pictures and score it once on the test split.

    data: a built-in name, a folder, a list file, a CSV or a zip.
    recipe: a name, a TOML file or a Recipe; by the pictures' size if None.
    out: the run folder; runs/<recipe>-<data>-<number> if None.
    device: auto, cpu, cuda, cuda:N or mps.
    watch_test: score the test split after each epoch too; it chooses nothing.
    overwrite: replace the run that `out` holds.
    language: of the report, en or zh; the system's if None. The page has both.
    tensorboard: write event files too, live, into the run's folder tensorboard/.
    minutes: train by the clock: the best model in this time, from the command's start to its end.
    plan: repeat the plan of a run that was trained so: its plan.toml.
    quiet: show no progress.
    fields: any recipe field by dotted name, such as {"optimizer.momentum": 0.9}.
    Returns the finished run. Raises InputError for anything the user can mend, InterruptedRunError
    after a signal, with the state saved.
    """
    refuse_unknown(options, DataSource, Recipe)
    began = time.perf_counter() if minutes is None else began_at()
    display = Display(quiet=quiet, silent=not team().leads)
    changes = changes_of(taken(options, Recipe), fields)
    staged = staged_plan(plan, minutes, recipe, changes, watch_test=watch_test)
    chosen = _named(recipe, changes | decided(staged))
    launch = launch_name(str(data), options, changes, chosen)
    asked = _asked(watch_test, language, tensorboard) | by_plan(staged) | {"launch": launch}
    device = _device(device)
    start_clock(minutes, began, str(changes.get("network") or (chosen or Recipe()).network))
    if earlier := team().led(lambda: earlier_run(launch, out, overwrite=overwrite)):
        return _go_on(earlier, None, None, device, display, began)
    pictures = _read(source := DataSource.named(data, taken(options, DataSource)), display)
    chosen = whole_recipe(staged, chosen or default_recipe(pictures), changes)
    refuse_inside_data(user_path(out or "runs"), user_path(str(data)))
    chosen = with_whole_paths(in_parts(chosen) if staged is None else chosen)
    with computing_exactly(chosen.parts is not None, device):
        prepared, reason = _settled(pictures, chosen, changes, staged, device, display)
        with _held(run := _run_in(out, chosen, data)):
            info = description(prepared, source, device, **asked) | {"precision_reason": reason}
            _create(run, prepared.recipe, staged, info, began, overwrite=overwrite)
            if staged is not None:
                return work_by_plan(run, prepared, device, display, staged, began, minutes)
            return _to_the_end(Session.open(run, prepared, device, display, began), fresh=True)


def _settled(
    pictures: Pictures,
    recipe: Recipe,
    changes: Mapping[str, Any],
    staged: Plan | None,
    device: str,
    display: Display,
) -> tuple[Prepared, str]:
    """All that is settled before the first step, and why in which precision."""
    prepared = prepare(pictures, recipe, display.track, fill=staged is None)
    say_what_has_no_part(prepared.recipe, changes, display)
    return with_precision(prepared, device)


def _named(recipe: str | Path | Recipe | None, changes: Mapping[str, Any]) -> Recipe | None:
    """The recipe that is named, if any; what is wrong with it is found before the data is read."""
    chosen = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    (chosen or Recipe()).with_fields(changes)
    return chosen


def _device(asked: str) -> str:
    """The device of this process, set up."""
    device = choose_device(asked)
    set_up(device)
    return device


def _read(source: DataSource, display: Display) -> Pictures:
    """The pictures; what the leader of several processes has read, the others have from the cache,
    as far as it is kept."""
    with team().leader_first():
        return source.read(display.track)


def _held(run: Run) -> AbstractContextManager[None]:
    """Hold the run's folder, for all processes that train together."""
    return holding(run.path, run.holder) if run.writes else nullcontext()


def _run_in(out: str | Path | None, recipe: Recipe, data: str | Path) -> Run:
    """A run that is to be, in `out` or in the next free folder."""
    path = team().led(lambda: new_run_folder(recipe.name, str(data)) if out is None else out)
    return Run(path, writes=team().leads)


def _create(
    run: Run,
    recipe: Recipe,
    staged: Plan | None,
    info: dict[str, Any],
    began: float,
    *,
    overwrite: bool,
) -> None:
    """Make the run's folder, with all that is known before the first step."""
    run.create([file.name for file in RUN_FILES], overwrite=overwrite)
    run.write_recipe(recipe)
    if staged is not None:  # before run.json, which says that there is one
        staged.begin(run.path, recipe)
    seconds = {"data": time.perf_counter() - began, "features": 0.0}
    run.write_info(**info, seconds=seconds, processes=team().count)


def _asked(watch_test: bool, language: str | None, tensorboard: bool) -> dict[str, Any]:
    """How the run is to go about it, as run.json has it for a resume."""
    if tensorboard:
        refuse_without_tensorboard()
    return {
        "watch_test": watch_test,
        "language": choose_language(language),
        "tensorboard": tensorboard,
    }


@training_alone()
@together()
def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Run:
    """Go on with a run where it stopped, or, with `epochs`, further than it was to go.

    minutes: of a run by the clock, how long to go on from now; the time it had left if None.
    device: auto, cpu, cuda, cuda:N or mps.
    quiet: show no progress.
    Raises InputError if the data has changed or the schedule does not allow more epochs.
    """
    began = began_at()
    display = Display(quiet=quiet, silent=not team().leads)
    return _go_on(run, epochs, minutes, _device(device), display, began)


def _go_on(
    path: str | Path,
    epochs: int | None,
    minutes: float | None,
    device: str,
    display: Display,
    began: float,
) -> Run:
    """Go on with a run, as `resume` says."""
    opened = open_run(path, writes=team().leads)
    if opened.info.get("by_plan"):
        start_clock(minutes or minutes_left(opened), began, str(opened.info.get("network")))
    with _held(opened):
        team().wait()
        opened = open_run(path, writes=team().leads)  # again, now that no other process writes it
        fresh = not team().led(lambda: opened.begun)
        recipe, plan = opened.recipe(), plan_of(opened, minutes, epochs)
        if plan is not None:
            refuse_several("a run by the clock")
        if epochs is not None and epochs != recipe.epochs:
            refuse_extension(opened, recipe, epochs)
            recipe = recipe.with_fields({"epochs": epochs})
        elif opened.finished and minutes is None:
            further = f"; name {'--minutes' if plan else 'more --epochs'} to go further"
            if opened.info.get("stopped_early"):
                further = f": its patience of {recipe.patience} epochs has ended"
            display.say(f"{opened.path} is finished{further}")
            return opened
        refuse_whole(recipe)
        pictures = _read(opened.source, display)
        with computing_exactly(recipe.parts is not None, device):
            prepared = prepare(pictures, recipe, display.track, fill=plan is None)
            refuse_changed(opened, prepared)
            if recipe.epochs != opened.recipe().epochs:
                opened.write_info(extended_to=recipe.epochs)  # before recipe.toml says so
            for difference in differences(opened, device):
                display.warn(f"{difference}: the result may differ in its last digits")
            if plan is not None:
                return work_by_plan(opened, prepared, device, display, plan, began, minutes)
            return _to_the_end(Session.open(opened, prepared, device, display, began), fresh=fresh)


def _to_the_end(session: Session, *, fresh: bool) -> Run:
    """Learn from where the run stands, judge, publish; every exit leaves the state saved."""
    prepared = session.prepared
    frozen = digest_of(prepared.network, prepared.frozen)
    session.start(fresh=fresh)
    announce(session.run, prepared, session.display)
    with catching_signals() as caught, session.failing_safely():
        team().asked = caught
        _compute_features(session, caught)
        _learn(session)
    if digest_of(prepared.network, prepared.frozen) != frozen:
        raise AssertionError("the frozen part changed")
    with session.failing_safely():
        publish(session)
    return session.run


def _compute_features(session: Session, caught: list[int]) -> None:
    """What a frozen part makes of the pictures, and the head that is solved on it to start from."""
    prepared, device, display = session.prepared, session.device, session.display

    def stop() -> None:
        _stop_if_asked(session, caught)

    if prepared.cut is not None:
        draw_preview(session)
        session.prepared, report = with_features(prepared, device, display, stop)
        session.note_features("features", report)
    progress = session.state.progress
    if prepared.recipe.frozen_start and progress.epoch == progress.step == 0:
        report = start_from_solved_head(session.prepared, device, display, stop)
        session.note_features("head_features", report)


def _learn(session: Session) -> None:
    """Train or solve to the last epoch or strength, keeping the best weights and the state."""
    events, steps = _events(session)
    with closing(followed(session, events, steps)) as seen:  # shown no more once it has stopped
        for event in seen:
            if number := _asked_to_stop(event):
                session.state.refuse_diverged()
                session.save()
                stopped = session.interrupted(number)
                team().wait()  # who ends before the others are done might be taken for lost
                raise stopped
    session.save()
    if number := team().most(max(team().asked, default=0)):
        raise session.interrupted(number)
    progress, recipe = session.state.progress, session.prepared.recipe
    if progress.epoch < recipe.epochs:
        session.display.say(
            f"stopped    after {progress.epoch} of {recipe.epochs} epochs: none of the last"
            f" {recipe.patience} was better than epoch {progress.best_epoch}"
        )


def _events(session: Session) -> tuple[Iterator[Step | Milestone], int]:
    """What happens while the run learns, and how many steps an epoch has."""
    judged = {
        name: batches
        for name, batches in session.prepared.evaluation.items()
        if name == "validation" or (name == "test" and session.run.info["watch_test"])
    }
    events = events_of(session.prepared, session.state, judged, session.device)
    return events, 0 if session.prepared.recipe.solves else len(session.prepared.batches)


def events_of(
    prepared: Prepared, state: TrainingState, judged: Evaluations, device: str
) -> Iterator[Step | Milestone]:
    """A training from where its state stands to its end."""
    if prepared.recipe.solves:
        return solved_path(prepared, state, judged, device)
    return train_epochs(state, prepared.recipe, prepared.batches, judged, device)


def _asked_to_stop(event: Step | Milestone) -> int:
    """The signal at which all processes are to stop, having come to the same event; 0 for none.

    With a step's gradients they have told each other of those that came before.
    """
    own = team()
    if own.count > 1 and isinstance(event, Step):
        return own.agreed
    return own.most(max(own.asked, default=0))


def _stop_if_asked(session: Session, caught: list[int]) -> None:
    try:
        team().heed()
    except InterruptedRunError as told:  # another process was asked first
        raise session.interrupted(told.signal_number) from None
    if caught:
        raise session.interrupted(caught[0])
