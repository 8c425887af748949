"""The story of a training by the clock: stage after stage, then the end in time."""

import os
import platform
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from reslab.errors import InputError, InterruptedRunError
from reslab.features.extraction import NoRoomError
from reslab.learning.state import DivergedError, Progress
from reslab.networks.catalogue import OURS
from reslab.networks.inference import VIEWS
from reslab.process import leave_at, refuse_several, tell
from reslab.recipes.recipe import Recipe, dotted_name
from reslab.run.display import Display
from reslab.run.folder import Run
from reslab.run.interruption import catching_signals
from reslab.training.anytime.clock import HARD, Clock, before_the_end
from reslab.training.anytime.ending import publish_in_time, rehearse
from reslab.training.anytime.judges import choose_judges, measure_rate
from reslab.training.anytime.ladder import WHOLE, next_stage
from reslab.training.anytime.outlook import outlook
from reslab.training.anytime.plan import PLAN_FILE, Plan
from reslab.training.anytime.work import EnoughError, Work
from reslab.training.anytime.working import read_progress, reopen_best, run_stage
from reslab.training.description import FEW, announce
from reslab.training.preparation import Prepared
from reslab.training.session import Session

SHORTEST = 0.05  # minutes
TRIES = 8  # trainings that may diverge, each slower than the one before
MEASURED_FROM = 5.0  # minutes, from which on it pays to measure which precision is faster
_DECIDED = (
    "epochs", "train_from", "head", "views", "features", "checkpoint_every", "patience", "folds",
    "progressive.start",
)  # fmt: skip
# A recipe's own of these would not go with each stage of a plan.
_SETTLED = {"train_from": "all", "patience": None, "folds": 0, "progressive.start": 1.0}


def staged_plan(
    file: str | Path | None,
    minutes: float | None,
    recipe: object,
    changes: Mapping[str, Any],
    *,
    watch_test: bool = False,
) -> Plan | None:
    """The plan that a training is asked to make in `minutes`, or to repeat; None for neither.

    Raises InputError for minutes that are none, and for options that a plan decides.
    """
    if file is None and minutes is None:
        return None
    refuse_several("--minutes and --plan: training by the clock")
    if watch_test:
        raise InputError("--watch-test: a plan sees the test split at its end alone; leave it out")
    if file is not None and minutes is not None:
        raise InputError("--minutes goes without --plan, which has its steps already")
    if minutes is not None:
        refuse_no_minutes(minutes)
        named = [name for name in map(dotted_name, changes) if name in _DECIDED]
        if named:
            raise InputError(f"{', '.join(named)}: the clock decides it; leave it out")
        return Plan(minutes=minutes, pinned=sorted(map(dotted_name, changes)))
    others = [name for name in changes if name != "weights"]
    if recipe is not None or others:
        raise InputError(
            f"{', '.join(others) or '--recipe'}: the plan says it already; leave it out"
        )
    assert file is not None
    return Plan.load(file).to_repeat()


def refuse_no_minutes(minutes: float) -> None:
    """Raise InputError unless something can be done in so many minutes."""
    if not SHORTEST <= minutes < 1e6:
        raise InputError(f"--minutes {minutes:g}: name how long it may take, {SHORTEST} or more")


def start_clock(minutes: float | None, began: float, network: str) -> None:
    """Where time counts, be sure to leave in time; import a network's library while files are read.

    began: by time.perf_counter.
    """
    if minutes is None:
        return
    leave_at(began + 60 * minutes - before_the_end(HARD, 60 * minutes), _no_run)
    if network not in OURS:
        threading.Thread(target=import_module, args=("timm",), daemon=True).start()


def by_plan(plan: Plan | None) -> dict[str, Any]:
    """What run.json says for a resume."""
    return {} if plan is None else {"by_plan": True}


def decided(plan: Plan | None) -> dict[str, Any]:
    """What the clock has decided of a recipe before it is known."""
    return {} if plan is None or plan.minutes is None else dict(_SETTLED)


def whole_recipe(plan: Plan | None, chosen: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of a run, which the stages of its plan will change if it has one."""
    if plan is None:
        return chosen.with_fields(changes)
    if plan.minutes is None:
        return plan.recipe.with_fields(changes)
    fields = decided(plan)
    if chosen.weights != "none" and "batch_size" not in changes:
        fields["batch_size"] = WHOLE["batch_size"]  # twice as many took 7.6 GB to measure precision
    auto = changes.get("precision", chosen.precision) == "auto"
    if auto and plan.minutes < MEASURED_FROM:
        fields["precision"] = "fp32"
    return chosen.with_fields({**changes, **fields})


def minutes_left(run: Run) -> float | None:
    """How long a run by the clock has to go, if it is not at its end."""
    if run.finished:
        return None
    plan = Plan.load(run.path / PLAN_FILE)
    return None if plan.minutes is None else plan.left / 60


def plan_of(run: Run, minutes: float | None, epochs: int | None) -> Plan | None:
    """The plan of a run that goes by one. Raises InputError if it is to go on as it cannot."""
    planned = run.info.get("by_plan", False)
    if planned and epochs is not None:
        raise InputError(f"--epochs {epochs}: the run goes by a plan; name --minutes")
    if not planned and minutes is not None:
        raise InputError(f"--minutes {minutes:g}: the run does not go by the clock; name --epochs")
    if minutes is not None:
        refuse_no_minutes(minutes)
    return Plan.load(run.path / PLAN_FILE) if planned else None


def work_by_plan(
    run: Run,
    prepared: Prepared,
    device: str,
    display: Display,
    plan: Plan,
    began: float,
    minutes: float | None = None,
) -> Run:
    """Carry a plan out to its end, from where the run stands.

    began: when the time began to count, by time.perf_counter. minutes: until the end, if they are
    not to be what the plan had left. A plan that knows no minutes is repeated without a clock.
    """
    clock = None
    if minutes is not None or plan.minutes is not None:
        if minutes is not None:
            plan.minutes = plan.used / 60 + minutes
        clock = Clock(began, 60 * minutes if minutes else plan.left, plan.used)
        counts = prepared.pictures.counts()
        clock.test, clock.validation = counts["test"], counts["validation"]
        averaging = prepared.recipe.averaging
        clock.views = VIEWS[averaging] + (averaging != "none")  # it is scored without it too
    work = Work(run, prepared, device, display, began, plan, clock)
    if plan.judged is not None:
        work.judge_by(plan.judged)
    session = _to_end(work)
    announce(run, prepared, display)
    if clock is not None:
        over = began + clock.seconds - before_the_end(HARD, clock.seconds)
        leave_at(over, partial(_last_words, run))
    with catching_signals() as caught, session.failing_safely():
        work.caught = caught
        _begin(work, session)
        with suppress(EnoughError):
            _learn(work, session)
        if work.interrupted:
            session.state.progress = work.progress
            raise session.interrupted(caught[0])
        _end(work, session)
    if not caught and not run.finished:
        raise InputError(
            "the machine was too slow to score the test split in time. The model is there, without"
            f" a score: reslab resume {run.path} --minutes M"
        )
    if caught and not (clock is None and run.finished):  # else it came while that was scored
        accuracy = (run.info.get("test") or run.info.get("validation") or {}).get("accuracy")
        scored = "" if accuracy is None else f", scored {accuracy:.2%}"
        raise InterruptedRunError(
            f"ended early with the best model so far{scored}. Go on with: reslab resume"
            f" {run.path} --minutes M",
            caught[0],
        )
    return run


def _begin(work: Work, session: Session) -> None:
    """Go to where the run stands."""
    run = work.run
    run.clear_leftovers()
    work.progress = read_progress(run) or Progress()
    if work.progress.history_lines or (run.path / "history.jsonl").exists():
        run.cut_history(work.progress.history_lines)
    run.write_info(status="running", process=f"process {os.getpid()} on {platform.node()}")
    work.save_plan()


def _learn(work: Work, session: Session) -> None:
    """The stages that the plan has, then those that there is time for. Raises EnoughError."""
    stages = work.plan.stages
    if work.clock is not None:
        work.clock.to_learn = work.clock.left
    if work.clock is not None and work.run.best_checkpoint.exists():  # the run goes on
        measure_rate(work, work.clock)
        chosen = work.best_stage  # no features of before the stop are at hand
        work.clock.validated = chosen is not None and chosen.together
    if work.clock is not None and not stages:
        choose_judges(work, work.clock)
        session.prepared = replace(session.prepared, pictures=work.base.pictures)
        count = work.base.pictures.counts()["validation"]
        work.plan.chooses = count >= FEW
        if not work.plan.chooses:
            by = (
                f"{count} validation pictures would choose by luck"
                if count
                else "nothing can choose"
            )
            work.display.say(f"judging    {by}: the last weights of each stage are kept")
    rehearse(work, session)
    for number, stage in enumerate(stages):
        if not (stage.done or stage.diverged or stage.no_room):
            _carry_out(work, number)
    while work.clock is not None and (found := next_stage(work)) is not None:
        work.stop()
        stages.append(found)
        work.save_plan()
        _carry_out(work, len(stages) - 1)
        work.stop()
        rehearse(work, session)
    if work.lacks_features:
        reopen_best(work)


def _carry_out(work: Work, number: int) -> None:
    stage, say = work.plan.stages[number], work.display.say
    left = "" if work.clock is None else f"  ({work.clock.left:.0f} s left)"
    say(f"stage {number}    {stage.name}: {stage.why or 'as planned'}{left}")
    try:
        run_stage(work, number)
    except EnoughError:
        say(f"stage {number}    {stage.name}: ended by the clock")
        raise
    except DivergedError as error:
        given_up = sum(stage.diverged for stage in work.plan.stages)
        if work.clock is None or given_up > TRIES:
            raise
        work.display.warn(f"{error}; again from the best so far, more slowly")
        return
    except NoRoomError as error:
        if work.clock is None or not work.run.best_checkpoint.exists():
            raise
        stage.no_room = True
        work.save_plan()
        work.display.warn(f"stage {number} is left out of this run: {error}")
        return
    if work.clock is not None and work.clock.rate is None:
        measure_rate(work, work.clock)
    gained = ""
    if stage.validation_accuracy is not None and stage.gain is not None:
        gained = f", validation {stage.validation_accuracy:.2%} ({stage.gain:+.2%})"
    say(f"stage {number}    {stage.name}: {stage.seconds:.1f} s{gained}")


def _to_end(work: Work) -> Session:
    """The session that scores the best model: the whole network, on pictures as they are read."""
    whole = replace(work.base, trained=work.base.network, cut=None)
    return Session.open(work.run, whole, work.device, work.display, work.began)


def _no_run() -> int:
    words = "the time was over before the pictures were read; name more --minutes"
    print(f"reslab: error: {words}", file=sys.stderr)
    return 2


def _last_words(run: Run) -> int:
    """What is said where a command is over before all was done, and its exit status."""
    if run.finished:
        tell(run)
        return 0
    print(
        "reslab: error: the machine was too slow to come to an end in time; nothing is lost that"
        f" was saved. Go on with: reslab resume {run.path} --minutes M",
        file=sys.stderr,
    )
    return 2


def _end(work: Work, session: Session) -> None:
    """Score the best model once, and write what the run is for."""
    run = work.run
    work.save_plan()
    if not run.best_checkpoint.exists():
        run.write_info(status="interrupted")
        further = f"go on with: reslab resume {run.path} --minutes M"
        if work.caught:
            raise InterruptedRunError(
                f"stopped before there was a first model; {further}", work.caught[0]
            )
        raise InputError(f"the time was too short for a first model; {further}")
    session.state.network.load_state_dict(session.best_weights())
    session.state.progress = work.progress
    stages = [stage.model_dump(exclude={"turns"}) for stage in work.plan.stages]
    prospect = outlook(run.history, work.base.pictures.counts()["validation"])
    told = {"minutes": work.plan.minutes, "stages": stages, "outlook": prospect}
    run.info |= told | {"validation_chose": work.plan.chooses}
    if prospect is not None:
        gain, sure = prospect["gain_of_twice_the_time"], prospect["sure"]
        doubt = "" if sure else ", which is less than these pictures can tell"
        work.display.say(f"outlook    twice the time would add about {gain:.1%}{doubt}")
    try:
        publish_in_time(work, session)
    except EnoughError:
        session.leave_usable()
        run.write_info(status="interrupted", **session.standing())
