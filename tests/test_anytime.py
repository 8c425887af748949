"""Training by the clock: the time is kept, the best is chosen by validation, a plan repeats."""

import contextlib
import copy
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakValueDictionary

import pytest
import torch
from torch import nn

import reslab
from reslab.errors import InputError, InterruptedRunError
from reslab.features import extraction
from reslab.features.extraction import Features, NoRoomError
from reslab.features.store import FeatureStore
from reslab.learning import loop
from reslab.learning.pace import Pace
from reslab.learning.state import Milestone
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.networks.model_file import load_model, read_tensors
from reslab.pictures.data_source import DataSource
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe
from reslab.reporting import content
from reslab.run.folder import Run
from reslab.run.looks import looks_of
from reslab.training.anytime import clock, ending, judges, ladder, steering, story, working
from reslab.training.anytime import work as work_
from reslab.training.anytime.outlook import outlook
from reslab.training.anytime.plan import Plan, Stage
from reslab.training.anytime.work import EnoughError

pytestmark = pytest.mark.usefixtures("undrawn")

LONG = os.environ.get("RESLAB_LONG") == "1"
MINUTES = 1.5
TICK = 0.3  # seconds
SMALL = {"network": "mnist-cnn", "batch_size": 16, "quiet": True}
FIELDS = {"preprocess.channels": 1, "preprocess.size": 28}


class Ticking:
    """A clock that goes on at each look too, so that a minute is over after some tens of steps
    on any machine."""

    def __init__(self):
        self.passed = 0.0
        self.after_a_step = SimpleNamespace(perf_counter=partial(self.perf_counter, 1.0))

    def pass_by(self, seconds):
        self.passed += seconds

    def perf_counter(self, tick=TICK):
        self.pass_by(tick)
        return time.perf_counter() + self.passed


@pytest.fixture(autouse=True)
def few_choose(monkeypatch):
    """The sets drawn here are small, and no test has what another could not save."""
    monkeypatch.setattr(story, "FEW", 1)
    monkeypatch.setattr(extraction, "_UNSAVED", WeakValueDictionary())


@pytest.fixture
def ticking(monkeypatch):
    found = Ticking()
    for module in (clock, work_, working, judges):
        monkeypatch.setattr(module, "time", found)
    monkeypatch.setattr(steering, "time", found.after_a_step)
    monkeypatch.setattr(ladder, "LEAST_STEPS", 1)  # a step takes as long, however few its pictures
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small-resnet.pth"
    network = build_network(NetworkSpec("small-resnet", 7, 3, (32, 32)), 0)
    torch.save(network.state_dict(), path)
    return path


def sha(run):
    return hashlib.sha256(run.model.read_bytes()).hexdigest()


def train(data, out, **more):
    fields = FIELDS | more.pop("fields", {})
    return reslab.train(data, out=out, fields=fields, **(SMALL | {"minutes": MINUTES} | more))


def go_on(run, ticking):
    ticking.passed = 0.0
    return reslab.resume(run, minutes=MINUTES, quiet=True)


def interrupted(followed, at, *given):
    """What `followed` gives, with a signal before the event of this number."""
    for number, event in enumerate(followed(*given)):
        if number == at:
            os.kill(os.getpid(), signal.SIGINT)
        yield event


def repeat(data, run, out):
    return reslab.train(data, plan=run.path / "plan.toml", out=out, quiet=True)


# The pace


def test_a_pace_without_turns_is_the_schedule_itself():
    pace = Pace([(0, 12)])
    assert [pace.place(step) for step in range(12)] == list(range(12))
    assert pace.length == pace.end == 12


def test_a_turn_spreads_what_is_left_of_the_schedule_evenly():
    pace = Pace([(40, 140)])
    pace.turn(90, 100)
    assert [pace.place(step) for step in (40, 90, 91, 99)] == [0, 50, 55, 95]
    pace.turn(95, 105)
    assert [pace.place(step) for step in (94, 95, 100)] == [70, 75, 87.5]
    assert [Pace(pace.turns).place(step) for step in range(40, 105)] == [
        pace.place(step) for step in range(40, 105)
    ]


def test_a_pace_that_is_stopped_keeps_the_places_before():
    pace = Pace([(0, 100), (10, 50), (30, 80)])
    before = [pace.place(step) for step in range(20)]
    pace.stop_at(20)
    assert pace.end == 20
    assert [pace.place(step) for step in range(20)] == before


# A run by the clock


@pytest.mark.usefixtures("ticking")
def test_the_plan_repeats_bit_for_bit_and_no_stage_sees_the_test_split(
    split_photos, tmp_path, monkeypatch
):
    original, seen = working.train_epochs, []

    def watching(state, recipe, batches, judged, *others):
        seen.append(set(judged))
        return original(state, recipe, batches, judged, *others)

    monkeypatch.setattr(working, "train_epochs", watching)
    run = train(split_photos, tmp_path / "timed", seed=3)
    assert seen
    assert all(names == {"validation"} for names in seen)
    assert not any("test_accuracy" in record for record in run.history)
    assert run.finished
    assert len(looks_of(run.path)) == 1
    stages = tomllib.loads((run.path / "plan.toml").read_text("utf-8"))["stages"]
    assert [stage["name"] for stage in stages][:2] == ["first", "longer"]
    assert all(stage["done"] for stage in stages)
    best = max(record["validation_accuracy"] for record in run.history)
    assert run.validation["accuracy"] == pytest.approx(best)
    again = repeat(split_photos, run, tmp_path / "again")
    assert sha(again) == sha(run)
    assert again.test == run.test


def test_slow_steps_and_slow_judging_do_not_make_it_late(
    split_photos, tmp_path, monkeypatch, ticking
):
    """A step takes half a second, and judging after the second epoch would take a minute."""
    original, judging, passes = working.train_epochs, loop.judge_all, itertools.count()

    def slow(state, recipe, batches, evaluation, *others):
        for event in original(state, recipe, batches, evaluation, *others):
            ticking.pass_by(0.5)
            yield event

    def slow_judging(network, judged, device):
        number = next(passes)

        def late(batches):
            for _ in range(600 if number > 1 else 1):
                ticking.pass_by(0.1)
                yield from batches()

        return judging(network, {name: partial(late, of) for name, of in judged.items()}, device)

    monkeypatch.setattr(working, "train_epochs", slow)
    monkeypatch.setattr(loop, "judge_all", slow_judging)
    monkeypatch.setattr(clock, "MARGIN", 15)  # so much that a slow machine's seconds do not count
    began = time.perf_counter()
    run = train(split_photos, tmp_path / "slow", minutes=1.5)
    assert ticking.perf_counter() - began < 90
    assert next(passes) > 2
    assert run.finished


def test_a_signal_ends_it_with_the_best_so_far_scored_once(
    split_photos, tmp_path, monkeypatch, ticking
):
    original = working.followed
    monkeypatch.setattr(working, "followed", partial(interrupted, original, 6))
    began = time.perf_counter()
    with pytest.raises(InterruptedRunError, match="best model so far, scored"):
        train(split_photos, tmp_path / "run", minutes=60.0)
    assert time.perf_counter() - began < 60
    monkeypatch.setattr(working, "followed", original)
    assert len(looks_of(tmp_path / "run")) == 1
    assert reslab.Classifier.load(tmp_path / "run")
    before = (tmp_path / "run" / "history.jsonl").read_bytes()
    run = go_on(tmp_path / "run", ticking)
    assert (run.path / "history.jsonl").read_bytes().startswith(before)
    assert len(run.history) > before.count(b"\n")
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)


@pytest.mark.usefixtures("ticking")
def test_the_screen_counts_the_epochs_that_there_is_time_for(split_photos, tmp_path, capsys):
    run = train(split_photos, tmp_path / "run", quiet=False)
    told = re.findall(r"^epoch \d+ \((\d+)/(\d+)\)", capsys.readouterr().err, re.MULTILINE)
    assert len(told) == len(run.history)
    assert told[-1][0] == told[-1][1]
    longest = tomllib.loads((run.path / "plan.toml").read_text("utf-8"))["stages"][-1]
    assert int(told[-1][1]) < longest["fields"]["epochs"]


@pytest.mark.parametrize("stop", [3, 9])
def test_a_stopped_run_goes_on_and_its_plan_still_repeats(
    split_photos, tmp_path, monkeypatch, ticking, stop
):
    original = working.train_epochs

    def stopping(*given):
        yield from itertools.islice(original(*given), stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(working, "train_epochs", stopping)
    monkeypatch.setattr(steering, "SAVE_EVERY", 0)  # so that it is stopped within an epoch
    with pytest.raises(KeyboardInterrupt):
        train(split_photos, tmp_path / "run", seed=4)
    monkeypatch.setattr(working, "train_epochs", original)
    run = go_on(tmp_path / "run", ticking)
    assert run.finished
    again = repeat(split_photos, run, tmp_path / "again")
    assert sha(again) == sha(run)
    # A repetition that is stopped goes on to the same weights.
    monkeypatch.setattr(working, "train_epochs", stopping)
    with pytest.raises(KeyboardInterrupt):
        repeat(split_photos, run, tmp_path / "third")
    monkeypatch.setattr(working, "train_epochs", original)
    assert sha(reslab.resume(tmp_path / "third", quiet=True)) == sha(run)


def test_a_signal_stops_a_repetition_as_it_would_any_training(
    split_photos, tmp_path, monkeypatch, ticking
):
    """Its plan stays, no later stage is begun, and nothing is scored before its end."""
    run = train(split_photos, tmp_path / "run", seed=4)
    assert len(run.info["stages"]) > 1
    original = working.followed
    monkeypatch.setattr(working, "followed", partial(interrupted, original, 2))
    with pytest.raises(InterruptedRunError, match="the state is saved"):
        repeat(split_photos, run, tmp_path / "again")
    monkeypatch.setattr(working, "followed", original)
    assert not (tmp_path / "again" / "looks.jsonl").exists()
    stopped = Plan.load(tmp_path / "again" / "plan.toml")
    whole = Plan.load(run.path / "plan.toml")
    assert [one.turns for one in stopped.stages] == [one.turns for one in whole.stages]
    assert not any(one.done for one in stopped.stages)
    again = reslab.resume(tmp_path / "again", quiet=True)
    assert sha(again) == sha(run)
    assert again.test == run.test


def test_a_signal_between_the_stages_of_a_repetition_spoils_none(
    split_photos, tmp_path, monkeypatch, ticking
):
    run = train(split_photos, tmp_path / "run", seed=4)
    original = story.run_stage

    def interrupted(work, number):
        original(work, number)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(story, "run_stage", interrupted)
    with pytest.raises(InterruptedRunError, match="the state is saved"):
        repeat(split_photos, run, tmp_path / "again")
    monkeypatch.setattr(story, "run_stage", original)
    stopped = Plan.load(tmp_path / "again" / "plan.toml")
    assert [one.done for one in stopped.stages] == [True] + [False] * (len(stopped.stages) - 1)
    assert sha(reslab.resume(tmp_path / "again", quiet=True)) == sha(run)


@pytest.mark.usefixtures("ticking")
def test_a_repetition_has_the_same_temperature_however_either_was_stopped(
    split_photos, tmp_path, weights, monkeypatch
):
    """Cached features, maps in half precision, judge not quite as pictures do."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ladder, "_trained", lambda *given: None)
    monkeypatch.setattr(story, "FEW", 1000)  # so that the last weights are the best
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32}
    run = reslab.train(split_photos, out=tmp_path / "run", minutes=2, fields=fields, **options)
    assert run.info["stages"][-1]["name"] == "last layers"
    assert run.info["best_epoch"] >= run.info["stages"][-1]["first"]
    original = story.run_stage

    def interrupted(work, number):
        original(work, number)
        if number == len(work.plan.stages) - 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(story, "run_stage", interrupted)
    with pytest.raises(InterruptedRunError):
        repeat(split_photos, run, tmp_path / "again")
    monkeypatch.setattr(story, "run_stage", original)
    assert sha(reslab.resume(tmp_path / "again", quiet=True)) == sha(run)
    # By pictures, where the run itself had been stopped after that stage.
    monkeypatch.setattr(story, "next_stage", lambda work: None)
    later = reslab.resume(run.path, minutes=2, quiet=True)
    assert Plan.load(later.path / "plan.toml").by_features is False
    assert sha(repeat(split_photos, later, tmp_path / "third")) == sha(later)


def test_a_signal_while_a_repetition_is_scored_changes_nothing(
    split_photos, tmp_path, monkeypatch, ticking
):
    run = train(split_photos, tmp_path / "run", seed=4)
    original = story.publish_in_time

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGINT)
        original(*given)

    monkeypatch.setattr(story, "publish_in_time", interrupted)
    again = repeat(split_photos, run, tmp_path / "again")
    assert again.finished
    assert sha(again) == sha(run)


@pytest.fixture
def from_recipe(split_photos, tmp_path, weights, monkeypatch, ticking):
    """Trains by the clock from small-resnet's own recipe, with an option more."""
    monkeypatch.setattr(ladder, "WHOLE_FROM", 1e9)

    def found(name, value):
        return reslab.train(
            split_photos, out=tmp_path / "run", recipe="small-resnet", weights=weights, minutes=2,
            fields={"preprocess.size": 32, name: value}, quiet=True,
        )  # fmt: skip

    return found


def test_a_recipes_own_optimiser_does_not_stand_in_the_way_of_the_stages(
    from_recipe, split_photos, tmp_path
):
    """small-resnet's has nesterov, of which AdamW knows nothing."""
    run = from_recipe("optimizer.nesterov", True)
    assert run.finished
    assert len(run.info["stages"]) > 1
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)
    assert run.info["stages"][1]["fields"]["optimizer.nesterov"] is False


def test_an_optimiser_of_the_users_own_keeps_what_the_recipe_has_of_it(from_recipe):
    run = from_recipe("optimizer.name", "sgd")
    trained = [stage["fields"] for stage in run.info["stages"] if stage["name"] != "head"]
    assert trained
    assert not any({"optimizer.name", "optimizer.nesterov"} & of.keys() for of in trained)


def test_stages_on_cached_features_skip_no_branches():
    """Of those that the last layers have, perhaps none can be skipped."""
    assert "drop_path" in ladder._needed(ladder.LAST_LAYERS | {"train_from": "7"})
    assert not ladder._needed(ladder.WHOLE)


@pytest.mark.usefixtures("ticking")
def test_without_validation_pictures_nothing_is_said_to_choose(split_photos, tmp_path, capsys):
    fields = {"split.validation": 0.0}
    run = train(split_photos, tmp_path / "run", fields=fields, quiet=False)
    assert run.info["validation_chose"] is False
    assert "nothing can choose: the last weights" in capsys.readouterr().err
    assert run.test


@pytest.mark.usefixtures("ticking")
def test_a_head_that_was_cut_off_replaces_none_unseen(split_photos, tmp_path, weights, monkeypatch):
    """Without validation pictures nothing tells whether it is better than the one before."""
    for module in (ladder, working):
        monkeypatch.setattr(module, "GLANCE", 16)
    monkeypatch.setattr(ladder, "_last_layers", lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    original, looks = work_.Work.stop_solving, []

    def late(work):
        looks.append(len(work.plan.stages))
        if looks.count(2) == 2:
            raise EnoughError
        original(work)

    monkeypatch.setattr(work_.Work, "stop_solving", late)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "split.validation": 0.0}
    run = reslab.train(split_photos, out=tmp_path / "run", minutes=2, fields=fields, **options)
    first, second = run.info["stages"][:2]
    assert (first["done"], second["done"]) == (True, False)
    assert run.info["best_epoch"] == 0
    assert len(run.history) == 1


def test_minutes_that_a_run_is_given_later_count_from_then(split_photos, tmp_path, ticking):
    run = train(split_photos, tmp_path / "run", seed=4)
    used = Plan.load(run.path / "plan.toml").used
    again = go_on(run.path, ticking)
    assert again.info["minutes"] == pytest.approx(used / 60 + MINUTES)
    plan = Plan(minutes=1.0, pinned=["optimizer.lr"], stages=[Stage(name="a", done=True)])
    assert plan.to_repeat().pinned == ["optimizer.lr"]


@pytest.mark.parametrize("together", [False, True])
def test_a_run_that_goes_on_keeps_time_to_judge_again(tmp_path, monkeypatch, together):
    """No features of before are at hand; but what they said of the head on all was kept."""
    for name in ("measure_rate", "rehearse", "next_stage"):
        monkeypatch.setattr(story, name, lambda *given: None)
    best = Stage(name="head", fields={}, done=True, together=together)
    counting = clock.Clock(time.perf_counter(), 60.0)
    run = SimpleNamespace(best_checkpoint=tmp_path)
    work = SimpleNamespace(
        clock=counting, plan=Plan(stages=[best]), run=run, best_stage=best, lacks_features=False
    )
    story._learn(work, SimpleNamespace())
    assert counting.validated == together


@pytest.fixture
def full(monkeypatch):
    """There is room for the features of a head alone, while there is something in it."""
    original, disk = Features.make_room, []

    def make_room(features, count):
        if disk and len(features.shape) > 1:
            raise NoRoomError("a gigabyte")
        return original(features, count)

    monkeypatch.setattr(Features, "make_room", make_room)
    return disk


@pytest.mark.usefixtures("ticking")
def test_pretrained_it_begins_with_a_solved_head_and_trains_on_from_it(
    split_photos, tmp_path, weights, monkeypatch, full
):
    monkeypatch.setattr(ladder, "WHOLE_FROM", 1e9)  # photos as small as these pass many times
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "mix.mixup": 0.2, "augment.policy": "trivial-wide"}
    run = reslab.train(  # each look takes some of it, and a head looks often
        split_photos, out=tmp_path / "run", minutes=2, fields=fields, **options
    )
    stages = run.info["stages"]
    assert [stage["name"] for stage in stages][:3] == ["head", "last layers", "later layers"]
    assert [stage["fields"]["train_from"] for stage in stages][:3] == ["head", "7", "4"]
    assert load_model(run.path).network
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)
    # Where there is no room, what repeats a plan waits for some.
    full.append("of other things")
    with pytest.raises(InputError, match="a gigabyte"):
        repeat(split_photos, run, tmp_path / "later")
    full.clear()
    later = reslab.resume(tmp_path / "later", quiet=True)
    assert all(stage["done"] for stage in later.info["stages"])
    assert sha(later) == sha(run)


@pytest.mark.usefixtures("ticking")
def test_layers_without_room_for_their_features_are_left_out(
    split_photos, tmp_path, weights, monkeypatch, full
):
    """Else a full disk takes the score away too."""
    monkeypatch.setattr(ladder, "WHOLE_FROM", 1e9)
    full.append("of other things")
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32}
    run = reslab.train(split_photos, out=tmp_path / "run", minutes=2, fields=fields, **options)
    stages = run.info["stages"]
    assert [stage["name"] for stage in stages][:3] == ["head", "last layers", "later layers"]
    assert [stage["done"] for stage in stages][:3] == [True, False, True]
    assert run.test
    page = reslab.report(run.path, language="en", quiet=True).read_text()
    assert "no room for its features" in page
    # As an earlier reslab left it.
    info = json.loads((run.path / "run.json").read_text())
    del info["validation_chose"]
    info["stages"] = [{k: v for k, v in one.items() if k != "no_room"} for one in info["stages"]]
    (run.path / "run.json").write_text(json.dumps(info))
    assert reslab.report(run.path, language="en", quiet=True).exists()


@pytest.mark.usefixtures("ticking")
def test_few_pictures_are_seen_in_more_views_and_the_plan_repeats(
    split_photos, tmp_path, weights, monkeypatch
):
    monkeypatch.setattr(ladder, "LEAST_STEPS", 18)  # six epochs of three
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    run = reslab.train(
        split_photos, out=tmp_path / "run", minutes=4, fields={"preprocess.size": 32}, **options
    )
    stage = run.info["stages"][1]
    first = sum(line.get("stage") == 0 for line in run.history)
    made = sum(line.get("stage") == 1 for line in run.history)
    assert (stage["name"], stage["fields"]["views"]) == ("last layers", 3)
    assert (made, stage["fields"]["epochs"]) == (6, first + 6)
    assert stage["fields"]["optimizer.lr"] == pytest.approx(5e-4 * 18 / 200)
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)


@pytest.fixture
def ever_worse(monkeypatch):
    """What is judged scores less each time."""
    original, seen = loop.judge_all, itertools.count(2)

    def judged(*given):
        return {name: replace(of, accuracy=1 / next(seen)) for name, of in original(*given).items()}

    for module in (loop, working):
        monkeypatch.setattr(module, "judge_all", judged)


@pytest.mark.usefixtures("ticking", "ever_worse")
@pytest.mark.parametrize("few", [1, 30])
def test_few_validation_pictures_do_not_choose(split_photos, tmp_path, monkeypatch, capsys, few):
    """Five of them favoured weights that lost a fifth of the accuracy of the last ones."""
    monkeypatch.setattr(story, "FEW", few)
    run = train(split_photos, tmp_path / "run", quiet=False)
    assert len(run.history) > 1
    assert run.info["best_epoch"] == (0 if few == 1 else len(run.history) - 1)
    told = "7 validation pictures would choose by luck"
    assert (told in capsys.readouterr().err) == (few == 30)
    page = reslab.report(run.path, language="en", quiet=True).read_text()
    assert page.count("would have chosen by luck") == (2 if few == 30 else 0)
    if few == 30:
        monkeypatch.setattr(story, "FEW", 1)  # the plan says it
        assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)


@pytest.mark.usefixtures("ticking", "ever_worse")
@pytest.mark.parametrize("few", [1, 30])
def test_few_validation_pictures_do_not_choose_between_heads(
    split_photos, tmp_path, weights, monkeypatch, few
):
    for name in ("_last_layers", "_together"):
        monkeypatch.setattr(ladder, name, lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    monkeypatch.setattr(ladder, "GLANCE", 16)
    monkeypatch.setattr(story, "FEW", few)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32}
    run = reslab.train(split_photos, out=tmp_path / "run", minutes=5, fields=fields, **options)
    assert [stage["pictures"] for stage in run.info["stages"]] == [16, None]
    assert run.info["best_epoch"] == (0 if few == 1 else 1)


@pytest.mark.parametrize("averaging", ["none", "flip"])
def test_what_cached_features_cannot_have_waits_for_pictures(
    split_photos, tmp_path, weights, monkeypatch, ticking, averaging
):
    """An average over views is the finished model's; CutMix is of stages on pictures."""
    monkeypatch.setattr(ladder, "WHOLE_FROM", 1e9)  # photos as small as these pass many times
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "mix.cutmix": 1.0, "averaging": averaging}
    views = set()

    def watching(work):
        views.add(work.clock.views)
        return ladder.next_stage(work)

    monkeypatch.setattr(story, "next_stage", watching)
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, minutes=2, fields=fields, **options)
    stages = run.info["stages"]
    assert [stage["name"] for stage in stages][:3] == ["head", "last layers", "later layers"]
    plan = tomllib.loads((out / "plan.toml").read_text("utf-8"))
    recipe = Recipe.model_validate(plan["recipe"])
    mixed = [recipe.with_fields(stage["fields"]).mix.cutmix for stage in stages[:3]]
    assert mixed == [0, 0, 1]
    assert load_model(out).averaging == run.test.get("averaging", "none") == averaging
    assert views == {3 if averaging == "flip" else 1}  # the mirror image, and the score without it
    if averaging != "none":
        assert run.validation["without_averaging"]["loss"] != run.validation["loss"]
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)


@pytest.mark.usefixtures("ticking")
def test_a_recipes_own_early_stop_folds_and_growing_pictures_give_way_to_the_clock(
    split_photos, tmp_path, weights
):
    fields = {"network": "small-resnet", "weights": str(weights), "preprocess.size": 32}
    ends = {"patience": 3, "folds": 5, "progressive.start": 0.5, "progressive.multiple": 8}
    asked = {"head": "trained", "features": "online"} | ends
    recipe = load_recipe("photos").with_fields(fields | asked)
    run = reslab.train(split_photos, recipe=recipe, out=tmp_path / "run", minutes=2, quiet=True)
    assert run.finished
    assert [stage["name"] for stage in run.info["stages"]][:2] == ["head", "last layers"]


def test_a_head_that_is_to_average_is_judged_so_and_learns_from_train_alone(
    split_photos, tmp_path, weights, monkeypatch, ticking
):
    monkeypatch.setattr(ladder, "LEAST_EPOCHS", 1e9)  # there is time for little else
    monkeypatch.setattr(ladder, "_last_layers", lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "averaging": "flip"}
    run = reslab.train(
        split_photos, out=tmp_path / "run", minutes=MINUTES, fields=fields, **options
    )
    assert [stage["name"] for stage in run.info["stages"]][:1] == ["head"]
    assert not any(stage["together"] for stage in run.info["stages"])
    best = run.history[run.info["best_epoch"]]
    plain = run.validation["without_averaging"]["loss"]
    assert plain == pytest.approx(best["validation_loss"], rel=1e-3)
    assert run.validation["loss"] != plain


def test_a_head_is_solved_on_the_features_there_was_time_for(
    split_photos, tmp_path, weights, monkeypatch
):
    """Else a machine that slows down would throw away most of a minute."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    for module in (ladder, working):
        monkeypatch.setattr(module, "GLANCE", 16)
    monkeypatch.setattr(ladder, "_last_layers", lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    made = []

    def slow(work):
        made.append(len(work.plan.stages))
        if made.count(2) == 2:  # after two passes of 16
            raise EnoughError

    monkeypatch.setattr(work_.Work, "stop_to_solve", slow)
    original, seen = working.with_features, []

    def watching(prepared, *others):
        seen.append(set(prepared.pictures.splits))
        return original(prepared, *others)

    monkeypatch.setattr(working, "with_features", watching)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "precision": "fp32"}
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, minutes=MINUTES, fields=fields, **options)
    first, more = run.info["stages"][:2]
    assert (first["pictures"], more["pictures"]) == (16, 48)
    assert all(splits == {"train", "validation"} for splits in seen)
    assert more["done"]
    monkeypatch.undo()
    again = repeat(split_photos, run, tmp_path / "again")
    assert sha(again) == sha(run)


@pytest.mark.usefixtures("ticking")
def test_features_that_the_cache_cannot_take_are_computed_once(
    split_photos, tmp_path, weights, monkeypatch
):
    """Else a full disk costs a head by the clock twice its time."""

    def full(store, keys, values):
        raise OSError(28, "No space left on device", "/cache")

    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FeatureStore, "put", full)
    monkeypatch.setattr(ladder, "_last_layers", lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    original, kept = Features._keep, []

    def keep(features, names, values):
        kept.extend(names.tolist())
        original(features, names, values)

    monkeypatch.setattr(Features, "_keep", keep)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "precision": "fp32"}
    run = reslab.train(split_photos, out=tmp_path / "run", minutes=2, fields=fields, **options)
    assert run.info["stages"][0]["done"]
    assert len(kept) == len(set(kept)) > 0


def test_features_that_are_all_there_when_the_time_is_up_make_a_head_of_all(
    split_photos, tmp_path, weights, monkeypatch
):
    """However few the pictures are that the head before had not seen."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    for module in (ladder, working):
        monkeypatch.setattr(module, "GLANCE", 16)
    monkeypatch.setattr(working, "MORE", 1e9)
    monkeypatch.setattr(ladder, "_last_layers", lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    passes, raised = itertools.count(1), []

    def at_the_last(work):
        if len(work.plan.stages) == 2:
            count = work.base.pictures.counts()["train"]
            if 16 * (1 + next(passes)) >= count:
                raised.append(count)
                raise EnoughError

    monkeypatch.setattr(work_.Work, "stop_to_solve", at_the_last)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "precision": "fp32"}
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, minutes=MINUTES, fields=fields, **options)
    assert len(raised) == 1
    first, more = run.info["stages"][:2]
    assert (first["pictures"], more["pictures"]) == (16, None)
    assert more["done"]


def test_a_head_that_is_cut_off_while_it_is_solved_is_taken_as_it_is(
    split_photos, tmp_path, weights, monkeypatch, ticking
):
    """Else all that its features took is lost. A run that goes on solves it to its end."""
    training, looks = ladder._trained, []
    monkeypatch.setattr(ladder, "_last_layers", lambda *given: None)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    original = work_.Work.stop_solving

    def late(work):
        looks.append(work.clock)
        if len(looks) == 30:
            raise EnoughError
        original(work)

    monkeypatch.setattr(work_.Work, "stop_solving", late)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32}
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, minutes=2, fields=fields, **options)
    first, *_ = run.info["stages"]
    assert first["done"]
    assert first["passes"] == 29
    assert first["validation_accuracy"] > 1 / 7
    monkeypatch.setattr(work_.Work, "stop_solving", original)
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)
    monkeypatch.setattr(ladder, "_trained", training)
    ticking.passed = 0.0
    stages = reslab.resume(out, minutes=1, quiet=True).info["stages"]
    whole = next(one for one in stages[1:] if one["name"] == "head")
    assert whole["passes"] is None
    assert whole["validation_loss"] <= first["validation_loss"]


@pytest.mark.usefixtures("ticking")
def test_the_first_model_is_of_the_features_there_was_time_for(
    split_photos, tmp_path, weights, monkeypatch
):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    looks = []

    def late(work):
        looks.append(work)
        if len(looks) == 2:  # after two passes of 16, which also were of validation pictures
            raise EnoughError

    monkeypatch.setattr(work_.Work, "stop_to_solve", late)
    monkeypatch.setattr(
        story, "next_stage", lambda work: None if work.plan.stages else ladder.next_stage(work)
    )
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32, "precision": "fp32"}
    run = reslab.train(
        split_photos, out=tmp_path / "run", minutes=MINUTES, fields=fields, **options
    )
    (only,) = run.info["stages"]
    assert only["done"]
    assert 7 < only["pictures"] <= 32
    monkeypatch.undo()
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)


def test_at_the_end_the_chosen_head_learns_from_the_validation_pictures_too(
    split_photos, tmp_path, weights, monkeypatch, ticking
):
    training = ladder._trained
    monkeypatch.setattr(ladder, "LEAST_EPOCHS", 1e9)  # there is time for little else
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    fields = {"preprocess.size": 32}
    out = tmp_path / "run"
    run = reslab.train(split_photos, out=out, minutes=MINUTES, fields=fields, **options)
    assert [stage["name"] for stage in run.info["stages"]][:2] == ["head", "head on all"]
    first, last, *_ = run.history
    assert "validation_accuracy" not in last
    # What is told of validation is what it said before it was learned from.
    assert run.validation["loss"] == pytest.approx(first["validation_loss"], rel=1e-3)
    chosen, _ = read_tensors(run.chosen_checkpoint)
    kept = load_model(out).network.state_dict()
    head = [name for name, value in kept.items() if not torch.equal(value, chosen[name])]
    assert head
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)
    # What comes later is judged by these pictures again, so it begins with the chosen weights.
    original, opened = working.Session.open, []

    def watching(run, prepared, *others):
        opened.append(copy.deepcopy(prepared.network.state_dict()))
        return original(run, prepared, *others)

    monkeypatch.setattr(working.Session, "open", watching)
    monkeypatch.setattr(ladder, "LEAST_EPOCHS", 1e-9)
    monkeypatch.setattr(ladder, "_trained", training)
    run = go_on(out, ticking)
    assert len(run.info["stages"]) > 2
    assert any(all(torch.equal(at[name], chosen[name]) for name in head) for at in opened)
    assert not any(all(torch.equal(at[name], kept[name]) for name in head) for at in opened)


@pytest.fixture
def copied(monkeypatch):
    """Gives copies of a run as kills would leave it, one after each file put in its place, and the
    names of these files."""

    def of(train, out):
        names, replace = [], Path.replace

        def replaced(path, target):
            found = replace(path, target)
            if out in Path(target).parents:
                shutil.copytree(out, out.with_name(f"copy-{len(names)}"))
                names.append(Path(target).name)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replaced)
            train()
        return [out.with_name(f"copy-{number}") for number in range(len(names))], names

    return of


def goes_on_as_its_plan_says(data, copy, ticking, minutes):
    ticking.passed = 0.0
    run = reslab.resume(copy, minutes=minutes, quiet=True)
    assert sha(repeat(data, run, copy.with_name(f"{copy.name}-again"))) == sha(run), copy.name


def test_whatever_write_a_kill_follows_the_plan_says_what_is_published(
    split_photos, tmp_path, ticking, copied
):
    seldom = Recipe(checkpoint_every="50min")
    copies, names = copied(
        lambda: train(split_photos, tmp_path / "run", seed=4, recipe=seldom), tmp_path / "run"
    )
    best = [at for at, name in enumerate(names) if name == "best.safetensors"]
    assert all(names[at - 1] == "last.safetensors" for at in best)
    for at in range(3, len(copies)) if LONG else (best[1] - 1, best[1]):
        # So little that the best may be what it was.
        goes_on_as_its_plan_says(split_photos, copies[at], ticking, 0.2)


def test_a_kill_in_the_head_on_all_leaves_no_word_of_validation_in_what_is_chosen(
    split_photos, tmp_path, weights, monkeypatch, ticking, copied
):
    monkeypatch.setattr(ladder, "LEAST_EPOCHS", 1e9)
    monkeypatch.setattr(ladder, "_trained", lambda *given: (_ for _ in ()).throw(EnoughError))
    copies, names = copied(
        lambda: reslab.train(
            split_photos, out=tmp_path / "run", minutes=MINUTES, fields={"preprocess.size": 32},
            recipe="photos", network="small-resnet", weights=weights, quiet=True,
        ),
        tmp_path / "run",
    )  # fmt: skip
    assert names.count("best.safetensors") == 2
    together = len(names) - 1 - names[::-1].index("best.safetensors")
    assert names[together - 1] == "last.safetensors"
    before, _ = read_tensors(Run(copies[together - 1]).best_checkpoint)
    for at in (names.index("chosen.safetensors"), together - 1, together):
        goes_on_as_its_plan_says(split_photos, copies[at], ticking, 0.4)
        run = Run(copies[at])
        chosen, _ = read_tensors(run.chosen_checkpoint)
        assert all(torch.equal(chosen[name], value) for name, value in before.items())
        # The stage that was killed is carried out.
        kept = load_model(run.path).network.state_dict()
        assert any(not torch.equal(kept[name], value) for name, value in before.items())


@pytest.mark.usefixtures("ticking")
def test_a_training_that_diverges_is_given_up_for_a_slower_one(split_photos, tmp_path):
    run = train(split_photos, tmp_path / "run", lr=1e4)
    stages = run.info["stages"]
    assert stages[0]["diverged"]
    rates = [stage["fields"].get("optimizer.lr", 1e4) for stage in stages]
    assert all(after < before for before, after in itertools.pairwise(rates[:2]))
    assert sha(repeat(split_photos, run, tmp_path / "again")) == sha(run)


def test_a_killed_run_is_sound_and_ends_in_time(split_photos, tmp_path):
    """SIGKILL at random moments; what is on the disk then is a model, or none yet."""
    script = (
        "import sys, reslab\nfrom reslab.training.anytime import clock\nclock.SHOWN = 0.9\n"
        "how, data, out = sys.argv[1:]\n"
        f"fields = {FIELDS}\n"
        "if how == 'train': reslab.train(data, out=out, minutes=5, network='mnist-cnn',"
        " batch_size=16, fields=fields, overwrite=True)\n"
        "else: reslab.resume(out, minutes=0.12 if how == 'end' else 5)\n"
    )
    out, draw = tmp_path / "run", random.Random()

    def start(how):
        return subprocess.Popen(
            [sys.executable, "-c", script, how, str(split_photos), str(out)],
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    for number in range(100 if LONG else 1):
        child = start("resume" if (out / "run.json").exists() else "train")
        give_up = time.monotonic() + 120
        while number == 0 and not (out / "model.safetensors").exists():
            assert child.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 9 if number else 2))
        child.kill()
        child.communicate()
        load_model(out)
    assert reslab.Classifier.load(out).predict(next(split_photos.rglob("*.png")))
    child = start("end")
    _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said.decode()
    assert reslab.Classifier.load(out)
    info = json.loads((out / "run.json").read_text("utf-8"))
    # On a machine that is busy beyond measure there is no score.
    assert info["status"] in ("finished", "interrupted")


def test_where_features_said_nothing_judging_is_timed_as_the_end_computes(monkeypatch):
    def unfolded(x):
        raise AssertionError("the end computes folded")

    monkeypatch.setattr(judges, "folded", lambda network, example: nn.Identity())
    pixels = SimpleNamespace(samples=range(40), inputs=lambda rows, epoch: torch.zeros(len(rows)))
    preprocessing = SimpleNamespace(size=(150, 150))
    base = SimpleNamespace(pixels=pixels, network=unfolded, preprocessing=preprocessing)
    noted = []
    told = SimpleNamespace(note_rate=lambda count, seconds: noted.append(count))
    judges.measure_rate(SimpleNamespace(base=base, device="cpu"), told)
    assert noted[-1] == 35


@pytest.mark.parametrize(
    ("seconds", "chooses", "begun"),
    [(3.0, True, False), (100.0, True, True), (100.0, False, False), (300.0, False, True)],
)
def test_no_stage_is_begun_for_a_few_steps(monkeypatch, seconds, chooses, begun):
    """3 s at 100 passes a second are a tenth of a pass of 3,000 pictures: 0.03 epochs. Less than
    an epoch may do harm, which validation must be able to tell."""
    for name in ("_together", "_last_layers"):
        monkeypatch.setattr(ladder, name, lambda *given: None)
    monkeypatch.setattr(ladder, "later_layers", lambda base: "blocks.2")
    stage = Stage(name="last layers", fields={"train_from": "blocks.5"})
    work = SimpleNamespace(
        clock=SimpleNamespace(rate=100.0, left_to_learn=seconds),
        plan=Plan(stages=[stage], chooses=chooses),
        base=SimpleNamespace(pictures=SimpleNamespace(splits={"train": range(3000)})),
        features_precision=("fp32", 1.0),
        progress=SimpleNamespace(epoch=4),
    )
    assert (ladder._after_head(work) is not None) == begun


@pytest.mark.parametrize(("seconds", "begun"), [(5.0, None), (40.0, "head")])
def test_the_rest_of_the_pictures_is_worth_the_head_again(monkeypatch, seconds, begun):
    """However few they are: then the head may learn from the validation pictures too."""
    for name in ("_together", "_last_layers", "_trained"):
        monkeypatch.setattr(ladder, name, lambda *given: None)
    monkeypatch.setattr(ladder, "later_layers", lambda base: "blocks.2")
    stage = Stage(name="head", fields={"train_from": "head"}, pictures=2750)
    work = SimpleNamespace(
        clock=SimpleNamespace(rate=100.0, left_to_learn=seconds),
        plan=Plan(stages=[stage]),
        base=SimpleNamespace(pictures=SimpleNamespace(splits={"train": range(3375)})),
        features_precision=("fp32", 1.0),
        progress=SimpleNamespace(epoch=1),
    )
    found = ladder._after_head(work)
    assert (found and found.name) == begun
    assert found is None or found.pictures is None


@pytest.mark.parametrize(("pictures", "begun"), [(900, "head on all"), (3375, "last layers")])
def test_a_training_of_few_steps_does_not_come_before_the_head_on_all(monkeypatch, pictures, begun):
    """A hundred photos a class lost a point and more by two epochs of their last layers."""
    monkeypatch.setattr(ladder, "later_layers", lambda base: "blocks.2")
    monkeypatch.setattr(ladder, "last_layers", lambda base: "blocks.5")
    stage = Stage(name="head", fields={"train_from": "head"}, strength=0.1, done=True)
    counts = {"train": pictures, "validation": pictures // 10}
    splits = {name: range(count) for name, count in counts.items()}
    work = SimpleNamespace(
        clock=SimpleNamespace(rate=100.0, left_to_learn=3.3 * pictures / 100),
        plan=Plan(stages=[stage]),
        best_stage=stage,
        averages=False,
        base=SimpleNamespace(pictures=SimpleNamespace(splits=splits, counts=lambda: counts)),
        features_precision=("fp32", 1.0),
        progress=SimpleNamespace(epoch=1),
    )
    assert ladder._after_head(work).name == begun


@pytest.mark.parametrize(("seconds", "begun"), [(0.3, None), (1.0, "head on all")])
def test_a_second_is_enough_for_the_chosen_head_on_all(seconds, begun):
    stage = Stage(name="head", fields={"train_from": "head"}, strength=0.1, done=True)
    work = SimpleNamespace(
        clock=SimpleNamespace(left_to_learn=seconds),
        plan=SimpleNamespace(stages=[stage], pinned=[]),
        best_stage=stage,
        averages=False,
        base=SimpleNamespace(pictures=SimpleNamespace(splits={"validation": range(10)})),
    )
    found = ladder.next_stage(work)
    assert (found and found.name) == begun


def test_a_slow_first_pass_says_nothing_of_the_rate(tmp_path):
    """The first pass sets things up; a run that took its rate for all ended after a third."""
    counting = clock.Clock(time.perf_counter(), 60.0)
    counting.test = 1000
    work = work_.Work(Run(tmp_path), None, "cpu", None, 0.0, Plan(), counting)
    stop = work.stopping(Recipe(train_from="head", precision="fp32"))
    time.sleep(0.3)
    for _ in range(20):
        stop()
        assert counting.left_to_learn > 50
    assert counting.rate is not None


@pytest.mark.parametrize(("judged", "rate"), [(5, 100.0), (60, 6.0)])
def test_judging_a_few_pictures_says_nothing_of_the_rate(judged, rate):
    """Five photos a class ended 9 s early: scoring was expected to be as slow."""
    counting = clock.Clock(time.perf_counter(), 60.0)
    counting.note_rate(100, 1.0)
    work = SimpleNamespace(
        clock=counting,
        plan=Plan(stages=[Stage(name="later layers", fields={})]),
        progress=SimpleNamespace(epoch=1, step=0),
        caught=[],
        interrupted=False,
    )
    pictures = SimpleNamespace(splits={"validation": range(judged)})
    session = SimpleNamespace(stage=0, prepared=SimpleNamespace(pictures=pictures, cut=None))
    kept = steering.Steering(work, session, Pace([(0, 10)]), 10, 10)
    kept.after(Milestone({"evaluate_seconds": 10.0}, best=False))
    assert counting.rate == rate


@pytest.mark.parametrize("other", [{"train_from": "layer4"}, {"precision": "bf16"}])
def test_passes_that_are_not_the_ends_say_nothing_of_its_rate(tmp_path, other):
    """Passes of the first layers alone are faster: three minutes ended without a score."""
    counting = clock.Clock(time.perf_counter(), 60.0)
    stop = work_.Work(Run(tmp_path), None, "cpu", None, 0.0, Plan(), counting).stopping(
        Recipe().with_fields({"train_from": "head", "precision": "fp32"} | other)
    )
    for _ in range(20):
        stop()
    assert counting.rate is None


@pytest.mark.usefixtures("ticking")
def test_a_machine_too_slow_for_a_score_still_gives_a_model(split_photos, tmp_path, monkeypatch):
    monkeypatch.setattr(clock.Clock, "_scoring", 1e6)
    run = train(split_photos, tmp_path / "run")
    assert len(run.history) == 1
    assert load_model(run.path)
    monkeypatch.setattr(story, "publish_in_time", lambda *given: (_ for _ in ()).throw(EnoughError))
    with pytest.raises(InputError, match=r"too slow to score the test split.*resume"):
        train(split_photos, tmp_path / "second")
    assert load_model(tmp_path / "second")


@pytest.fixture
def scoring_slowly(monkeypatch, ticking):
    """3 s for 3 pictures."""

    def slow(network, x, averaging):
        ticking.pass_by(3)
        return network(x)

    monkeypatch.setattr(ending, "averaged", slow)
    monkeypatch.setattr(ending, "pictures_at_once", lambda size: 3)


@pytest.mark.usefixtures("scoring_slowly")
def test_a_test_split_that_cannot_be_scored_in_time_is_cut(split_photos, tmp_path):
    run = train(split_photos, tmp_path / "run")
    assert run.finished
    whole = run.info["counts"]["test"]
    assert run.test["of"] == whole
    assert 0.1 * whole <= run.test["n"] < whole
    rows = (run.path / "predictions.csv").read_text("utf-8").splitlines()[1:]
    assert len(rows) == run.test["n"]
    # A sample of all, not the first ones, which are of one class.
    assert len({row.split(",")[1] for row in rows}) > 1
    assert [look["pictures"] for look in looks_of(run.path)] == [whole]


@pytest.mark.drawn
@pytest.mark.usefixtures("scoring_slowly")
def test_where_all_of_the_test_split_takes_too_long_a_sample_leaves_time_for_the_report(
    split_photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(clock.Clock, "to_score", 3)
    monkeypatch.setattr(clock.Clock, "_judging_again", 12.0)
    monkeypatch.setattr(clock.Clock, "_scoring", 27.0)  # the test split takes twice the rest of it
    monkeypatch.setattr(clock, "SHOWN", 6.0)
    monkeypatch.setattr(ending, "REHEARSED_FROM", 1e9)
    run = train(split_photos, tmp_path / "run")
    assert 0.1 * run.test["of"] <= run.test["n"] < run.test["of"] == run.info["counts"]["test"]
    assert "a sample of 24, drawn by the seed" in (run.path / "report.html").read_text("utf-8")
    answers = content.answers_of(run)
    shown = content.as_answered(answers, DataSource.named(split_photos).read())
    assert list(shown.splits["test"].paths) == [answer.path for answer in answers]
    with pytest.raises(InputError, match="in their order"):
        content.as_answered(answers[::-1], shown)
    (run.path / "report.html").unlink()
    reslab.report(run.path)
    page = (run.path / "report.html").read_text("utf-8")
    assert "a sample of 24, drawn by the seed" in page
    assert "The pictures are not where they were" not in page


@pytest.mark.parametrize(
    ("test", "scored"), [(1000, 1000), (4000, 4000), (4001, 2000), (1e5, 2000)]
)
def test_a_test_split_that_would_take_most_of_the_time_is_scored_by_a_sample(test, scored):
    counting = clock.Clock(time.perf_counter(), 100.0)
    counting.test = int(test)
    counting.note_rate(100, 1.0)
    assert counting.to_score == scored
    assert counting.after_test < counting.ending < 70


@pytest.mark.parametrize(("views", "judged"), [(1, []), (3, [333])])
def test_an_average_over_views_leaves_time_for_fewer_judges(monkeypatch, views, judged):
    operations = SimpleNamespace(multiply_adds=judges.SLOW / 100)
    monkeypatch.setattr(judges, "measure", lambda *given: operations)
    monkeypatch.setattr(judges, "measure_rate", lambda work, clock: clock.note_rate(100, 1.0))
    monkeypatch.setattr(clock.Clock, "left", 100.0)
    counting = clock.Clock(0.0, 100.0)
    counting.views = views
    pictures = SimpleNamespace(counts=lambda: {"validation": 1000})
    base = SimpleNamespace(pictures=pictures, network=None, spec=None)
    found = []
    plan = SimpleNamespace(judged=None)
    judges.choose_judges(SimpleNamespace(base=base, plan=plan, judge_by=found.append), counting)
    assert found == judged


def test_an_average_over_views_is_timed_as_the_passes_it_takes():
    counting = clock.Clock(time.perf_counter(), 100.0)
    counting.test = 1000
    counting.note_rate(100, 1.0)
    alone = counting.ending - counting.leaving
    counting.views = 3
    assert counting.to_score == 1000
    assert counting.ending - counting.leaving > 2 * alone
    counting.views = 6
    assert counting.to_score < 1000


@pytest.mark.usefixtures("ticking")
def test_time_is_kept_for_the_very_first_head_to_be_solved(
    split_photos, tmp_path, weights, monkeypatch, ticking
):
    """What ends its features must not end its solving too."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    original, passes = working.Work.stopping, []

    def slow(work, recipe):
        stop = original(work, recipe)

        def late():
            passes.append(work)
            if len(passes) == 2:
                ticking.pass_by(work.clock.left - work.clock.leaving - 4)
            stop()

        return late

    monkeypatch.setattr(working.Work, "stopping", slow)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    with contextlib.suppress(InputError):  # there may be no time for a score
        reslab.train(
            split_photos, out=tmp_path / "run", minutes=MINUTES,
            fields={"preprocess.size": 32, "precision": "fp32"}, **options,
        )  # fmt: skip
    (only,) = Plan.load(tmp_path / "run" / "plan.toml").stages
    assert only.done
    assert 0 < only.pictures <= 32
    assert load_model(tmp_path / "run")


@pytest.mark.usefixtures("ticking")
def test_where_judging_takes_too_long_some_of_the_validation_pictures_choose(
    split_photos, tmp_path, weights, monkeypatch, capsys
):
    """Else a large set's validation features alone would take the minute."""
    monkeypatch.setattr(judges, "SLOW", 1.0)
    monkeypatch.setattr(judges, "JUDGING_SHARE", 1e-9)
    monkeypatch.setattr(judges, "SAMPLE_SHARE", 0.0)
    monkeypatch.setattr(judges, "LEAST_JUDGED", 4)
    judged = []
    original = working.prepare

    def watching(pictures, *given, **more):
        judged.append(pictures.splits["validation"].paths[:])
        return original(pictures, *given, **more)

    monkeypatch.setattr(working, "prepare", watching)
    options = {"recipe": "photos", "network": "small-resnet", "weights": weights, "quiet": True}
    run = reslab.train(
        split_photos, out=tmp_path / "run", minutes=2, fields={"preprocess.size": 32}, **options
    )
    assert len(judged) > 1
    assert all(list(names) == list(judged[0]) for names in judged)
    assert run.validation["n"] == 4
    assert run.validation["of"] == run.info["counts"]["validation"] > 4
    monkeypatch.undo()
    again = reslab.train(split_photos, plan=run.path / "plan.toml", out=tmp_path / "again")
    assert sha(again) == sha(run)
    assert again.validation["n"] == 4
    assert "judging    by 4 of the " in "".join(capsys.readouterr())  # a repeat says it too
    # The model still knows the whole split as it was carved.
    whole = reslab.evaluate(run.path, split_photos, split="validation", quiet=True)
    assert whole.n == run.validation["of"]
    early, late = load_model(run.best_checkpoint).origin, load_model(run.path).origin
    assert early.fingerprint == late.fingerprint


@pytest.mark.parametrize(("rate", "count"), [(None, 250), (100.0, 250), (4.0, 60), (0.1, 20)])
def test_the_first_pictures_are_few_where_each_takes_long(rate, count):
    work = SimpleNamespace(
        clock=SimpleNamespace(rate=rate, left=50.0),
        plan=SimpleNamespace(stages=[]),
        base=SimpleNamespace(
            pictures=SimpleNamespace(splits={"train": range(3000)}, classes=["a"] * 10)
        ),
    )
    assert ladder._after_head(work).pictures == count


@pytest.mark.drawn
def test_without_time_the_report_is_left_out_and_a_run_is_whole(
    split_photos, tmp_path, monkeypatch, ticking, capsys
):
    original = ending.note_scores

    def late(outcome, split, *given):
        if split == "test":
            ticking.pass_by(60 * MINUTES)
        return original(outcome, split, *given)

    monkeypatch.setattr(ending, "note_scores", late)
    run = train(split_photos, tmp_path / "run")
    assert run.finished
    assert run.test["n"] == run.info["counts"]["test"]
    assert "no report.html: the time was over" in capsys.readouterr().err
    assert not (run.path / "report.html").exists()
    assert (run.path / "predictions.csv").exists()


def test_a_command_leaves_at_its_moment_whatever_it_is_doing():
    script = (
        "import sys, time\nfrom reslab import process\n"
        "def last_words():\n    print('said'); return 3\n"
        "with process.running_command([]):\n"
        "    process.leave_at(time.perf_counter() + 0.5, last_words)\n"
        "    if sys.argv[1] == 'late': time.sleep(600)\n"
        "    process.say_and_leave(lambda: print('in time') or 4)\n"
    )
    for how, said, status in (("late", "said\n", 3), ("early", "in time\n", 4)):
        words = [sys.executable, "-c", script, how]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.returncode) == (said, status)


def test_the_last_layers_are_those_that_cost_less_than_the_others():
    spec = NetworkSpec("resnet18", 10, 3, (64, 64))
    network, recipe = build_network(spec, 0), SimpleNamespace(network="resnet18")
    base = SimpleNamespace(spec=spec, network=network, recipe=recipe)
    assert ladder.last_layers(base) == "layer4"
    network.layer4 = nn.Identity()
    network.fc = nn.Linear(256, 10)
    assert ladder.last_layers(base) == "layer3"
    assert ladder.later_layers(base) == "layer1"


@pytest.mark.parametrize(
    ("train", "passes", "epochs", "views", "rate"),
    [
        (1800, 2.8, None, 1, None),
        (1800, 3.0, 2, 1, 2.85e-4),  # 114 steps of 57 an epoch
        (1800, 5.6, 4, 1, 5e-4),
        (1800, 5.8, 4, 2, 5e-4),
        (1800, 50, 4, 2, 5e-4),
        (180, 3.2, None, 1, None),  # too few steps, of too few epochs
        (180, 15, 10, 5, 1.5e-4),
        (180, 50, 17, 8, 2.55e-4),  # 102 steps of 6 an epoch
        (45, 52.9, 49, 8, 2.45e-4),
        (45, 99, 50, 8, 2.5e-4),
        (900, 3.2, None, 1, None),
        (900, 50, 4, 2, 2.9e-4),
    ],
)
def test_the_last_layers_see_more_views_where_it_takes_no_epoch(
    monkeypatch, train, passes, epochs, views, rate
):
    """Less time is better spent on epochs of one. Few pictures get more epochs, at a lower rate."""
    monkeypatch.setattr(ladder, "last_layers", lambda base: "layer4")
    counts = {"train": train, "validation": train / 9}
    base = SimpleNamespace(pictures=SimpleNamespace(counts=lambda: counts))
    stage = ladder._last_layers(
        SimpleNamespace(base=base, progress=SimpleNamespace(epoch=0)), passes
    )
    if epochs is None:
        assert stage is None
    else:
        assert stage.fields["views"] == views
        assert stage.fields["epochs"] == (epochs if epochs >= 4 else 2 * epochs)
        assert stage.fields["optimizer.lr"] == pytest.approx(rate)


def test_steps_that_become_slower_make_the_end_longer(monkeypatch):
    seconds = iter([float(number) for number in range(30)] + [30.0 + 3 * n for n in range(60)])
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    times = clock.StepTimes()
    for _ in range(29):
        times.step()
        assert times.slower == 1.0
    for _ in range(30):
        times.step()
        assert times.slower >= 1.0
    assert times.slower == pytest.approx(3.0)
    counting = clock.Clock(0.0, 100.0)
    counting.test = 100
    counting.note_rate(50, 1.0)
    before = counting.ending
    counting.slower = times.slower
    assert counting.ending == pytest.approx(3 * before)


def test_judging_looks_at_the_clock_between_parts_of_a_batch():
    x, labels = torch.arange(70 * 3.0).view(70, 3, 1, 1).expand(-1, -1, 224, 224), torch.arange(70)
    parts = list(work_.in_parts([(x, labels), (torch.zeros(70, 5), labels)]))
    assert [len(of) for _, of in parts] == [16, 16, 16, 16, 6, 70]
    assert all(torch.equal(one[:, 0, 0, 0], 3.0 * of) for one, of in parts[:-1])


# What is refused, and what is foretold


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minutes": 0.001}, "0.05 or more"),
        ({"minutes": float("nan")}, "0.05 or more"),
        ({"minutes": 1.0, "epochs": 3}, "epochs: the clock decides it"),
        ({"minutes": 1.0, "plan": "plan.toml"}, "--minutes goes without --plan"),
        ({"plan": "absent.toml"}, "absent.toml: cannot be read"),
        ({"plan": "absent.toml", "lr": 0.1}, "optimizer.lr: the plan says it already"),
    ],
)
def test_what_does_not_go_together_is_refused(split_photos, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        reslab.train(split_photos, out=tmp_path / "run", quiet=True, **options)
    assert not (tmp_path / "run").exists()


def test_a_damaged_plan_is_refused(split_photos, tmp_path):
    path = tmp_path / "plan.toml"
    for text in ("[[stages]]\nname = 3\n", "nonsense", 'recipe = "x"\n', "\x00"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a plan as reslab wrote it"):
            Plan.load(path)


def test_a_run_without_a_clock_is_not_given_minutes(run):
    with pytest.raises(InputError, match="does not go by the clock"):
        reslab.resume(run.path, minutes=1.0, quiet=True)


def test_the_outlook_follows_the_course_of_validation():
    def history(accuracies):
        return [
            {"seconds": 2.0**number, "evaluate_seconds": 0.0, "validation_accuracy": one}
            for number, one in enumerate(accuracies)
        ]

    found = outlook(history([0.5, 0.55, 0.6, 0.65, 0.7, 0.75]), 10_000)
    assert found["gain_of_twice_the_time"] == pytest.approx(0.05, abs=0.02)
    assert found["sure"]
    assert outlook(history([0.7, 0.7, 0.7, 0.7, 0.7]), 100) == {
        "gain_of_twice_the_time": 0.0,
        "sure": False,
    }
    assert outlook(history([0.7, 0.8]), 100) is None
    # One picture of five more is no course to go by, of 500 a hundred are.
    late = history([0.2] * 11 + [0.4] * 5)
    for record in late:
        record["seconds"] = 1.0
    assert outlook(late, 5)["gain_of_twice_the_time"] > 0.2
    assert [outlook(late, count)["sure"] for count in (5, 500)] == [False, True]
