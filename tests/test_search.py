"""Searches: what is tried, that a kill changes nothing, that the test split is not looked at."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import reslab
from drawn_pictures import fill
from reslab.cli import run_command
from reslab.errors import InputError, InterruptedRunError
from reslab.features.extraction import NoRoomError
from reslab.features.store import FeatureStore
from reslab.pictures.store import PixelStore
from reslab.recipes.files import load_recipe, recipe_names
from reslab.recipes.recipe import Recipe
from reslab.searching import proposals, work
from reslab.searching.proposals import Proposal
from reslab.searching.record import Trial, Validation, read_record
from reslab.searching.space import Choices, Range, described, space_of

pytestmark = pytest.mark.usefixtures("undrawn")

pytest.importorskip("optuna")
OVER = ("lr=0.0001..0.1", "optimizer.name=sgd,adamw", "batch_size=8..24")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def settings(weights):
    """A head on a frozen ResNet-18, trained on cached features."""
    return {
        "recipe": "photos", "network": "resnet18", "weights": str(weights), "head": "trained",
        "views": 2, "epochs": 4, "precision": "fp32", "quiet": True,
        "fields": {
            "preprocess.size": 32, "split.validation": 0.25, "split.together": "identical",
        },
    }  # fmt: skip


@pytest.fixture
def look_for(split_photos, tmp_path, settings):
    def search(name="found", data=split_photos, **more):
        asked = {"trials": 3, "over": OVER, **settings, **more}
        return reslab.search(data, out=tmp_path / name, **asked)

    return search


def told(found):
    """All of the trials but their times."""
    return [trial.model_dump(exclude={"seconds"}) for trial in found.trials]


# What is tried


def test_a_range_is_by_logarithm_from_ten_times_on():
    base = Recipe()
    space = space_of(
        ["lr=0.001..0.1", "momentum=0..0.9", "epochs=5..20", "batch_size=8..256"], base
    )
    assert space == {
        "batch_size": Range(8, 256, whole=True, log=True),
        "epochs": Range(5, 20, whole=True, log=False),
        "optimizer.lr": Range(0.001, 0.1, whole=False, log=True),
        "optimizer.momentum": Range(0, 0.9, whole=False, log=False),
    }
    space = space_of({"optimizer.name": ["sgd", "adamw"], "shuffle": "true,false",
                      "batch_size": "16,64", "preprocess.size": "32,48"}, base)  # fmt: skip
    assert space["optimizer.name"] == Choices(("sgd", "adamw"))
    assert space["shuffle"] == Choices((True, False))
    assert space["batch_size"] == Choices((16, 64))
    assert space["preprocess.size"] == Choices(([32, 32], [48, 48]))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("lr", "should be NAME=LOW..HIGH"),
        ("lr=", "should be NAME=LOW..HIGH"),
        ("learning=1..2", "--over learning is no field of a recipe"),
        ("lr=0..0.1", r"--over optimizer\.lr = '0': should be greater than 0"),
        ("lr=0.1..0.01", "from a smaller number to a larger"),
        ("lr=a..b", "should be number"),
        ("lr=0.1", "needs two choices or more"),
        ("optimizer.name=sgd,sgd", "each once"),
        ("optimizer.name=sgd,adan", "not a choice; did you mean 'adam'"),
        ("optimizer.name=sgd..adamw", "--over optimizer.name"),
        ("epochs=2.5..4", "should be integer"),
        ("split.validation=0.1..0.3", "decides which pictures judge"),
        ("folds=2..5", "decides which pictures judge"),
        ("seed=0..9", "would choose luck"),
    ],
)
def test_what_cannot_be_searched_is_said(over, message):
    with pytest.raises(InputError, match=message):
        space_of([over], Recipe())
    with pytest.raises(InputError, match="named twice"):
        space_of(["lr=0.1..1", "optimizer.lr=0.1..1"], Recipe())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_a_usual_space(name):
    base = load_recipe(name)
    space = space_of(None, base)
    assert described(space)
    proposal = Proposal(space, [], 0, 0, 10)
    base.with_fields(proposal.fields)


def finished(number, lr, accuracy):
    curve = [accuracy / 2, accuracy, accuracy, accuracy]
    judged = Validation(n=100, accuracy=accuracy, loss=1.0)
    fields = {"optimizer.lr": lr}
    return Trial(number=number, fields=fields, state="finished", validation=judged, curve=curve)


def test_a_proposal_goes_by_what_was_found_and_by_its_number_alone():
    space = space_of(["lr=0.0001..1"], Recipe())
    good = [finished(n, 0.01 * (1 + n / 100), 0.9) for n in range(6)]
    bad = [finished(n, 10 ** (-4 + n / 20), 0.2) for n in range(6, 15)]
    one, again = (Proposal(space, [*good, *bad], 3, 15, 4).fields for _ in range(2))
    assert one == again
    assert one != Proposal(space, [*good, *bad], 4, 15, 4).fields
    assert one != Proposal(space, [*good, *bad], 3, 16, 4).fields
    drawn = [Proposal(space, good + bad, 0, n, 4).fields["optimizer.lr"] for n in range(15, 35)]
    assert min(drawn) > 0.005  # where the good ones are, and not the bad


def test_worse_than_the_median_is_hopeless():
    space = space_of(["lr=0.0001..1"], Recipe())
    before = [finished(n, 0.01 + n / 1000, 0.5 + n / 100) for n in range(6)]
    for accuracy, hopeless in ((0.3, True), (0.6, False)):
        proposal = Proposal(space, before, 0, 6, 4)
        assert not proposal.hopeless(0, 0.01)  # nothing is judged so soon
        assert proposal.hopeless(1, accuracy) is hopeless
    assert not Proposal(space, before[:4], 0, 4, 4).hopeless(1, 0.3)


# A search


def test_a_trial_is_the_training_of_its_recipe(look_for, split_photos, settings, tmp_path):
    """Each, on a preparation that others used before; so the winner keeps what it promised."""
    found = look_for()
    common = {**settings, "recipe": found.recipe}
    for trial in found.trials:
        run = reslab.train(split_photos, out=tmp_path / f"run{trial.number}",
                           **{**common, "fields": settings["fields"] | trial.fields})  # fmt: skip
        assert run.validation["accuracy"] == trial.validation.accuracy
        assert run.validation["loss"] == pytest.approx(trial.validation.loss, abs=1e-12)
        assert run.validation["n"] == trial.validation.n
        accuracies = [line["validation_accuracy"] for line in run.history]
        assert trial.curve == [max(accuracies[: n + 1]) for n in range(len(accuracies))]
    run = reslab.train(
        split_photos, recipe=found.path / "best.toml", out=tmp_path / "w", quiet=True
    )
    assert run.validation["accuracy"] == found.best.validation.accuracy
    assert found.best.validation.accuracy == max(t.validation.accuracy for t in found.trials)


def test_the_test_split_is_not_even_read(look_for, split_photos, monkeypatch):
    """No store of its pictures is made, online or not, and no feature of them is computed."""
    seen, put = [], []
    store, features = PixelStore.__init__, FeatureStore.put

    def noted(self, samples, *given):
        seen.extend(samples.paths)
        store(self, samples, *given)

    def counted(self, keys, values):
        put.append(len(keys))
        features(self, keys, values)

    monkeypatch.setattr(PixelStore, "__init__", noted)
    monkeypatch.setattr(FeatureStore, "put", counted)
    found = look_for()
    counts = found.record.counts
    assert counts["test"] == 24
    # Once for all trials: two views of each training picture, one of each validation picture.
    assert sum(put) == 2 * counts["train"] + counts["validation"]
    look_for("online", trials=1, features="online")
    assert {path.split("/")[0] for path in seen} == {"train"}
    assert not list(found.path.glob("looks*"))
    assert set(found.record.arrangement) == {"train", "validation"}


@pytest.mark.parametrize("together", ["identical", "near"])
def test_a_carved_test_is_left_out_too(look_for, tmp_path, settings, together):
    fill(tmp_path / "flat", 12, size=(40, 40))  # its birds are near copies of each other
    fields = {**settings["fields"], "split.together": together}
    found = look_for(data=tmp_path / "flat", trials=1, fields=fields)
    run = reslab.train(tmp_path / "flat", recipe=found.recipe, out=tmp_path / "run", quiet=True)
    assert run.info["counts"] == found.record.counts
    assert run.validation["accuracy"] == found.best.validation.accuracy


SCRIPT = """
import json, os, signal, sys
import reslab
from reslab.searching import work
write = work.write_record
def written(folder, record):
    write(folder, record)
    if len(record.trials) == int(sys.argv[2]) and "after" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
work.write_record = written
train = work.Work._train
def trained(self, trial, *given):
    train(self, trial, *given)
    if trial.number == int(sys.argv[2]) and "within" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
work.Work._train = trained
asked = json.loads(sys.argv[1])
reslab.search(asked.pop("data"), **asked)
"""


def test_a_killed_search_comes_to_the_same_winner(look_for, split_photos, settings, tmp_path):
    whole = look_for("whole", trials=8)
    asked = {"data": str(split_photos), "trials": 8, "over": OVER, "out": str(tmp_path / "killed"),
             **settings}  # fmt: skip
    for when in (["2", "after"], ["4", "within"]):
        done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(asked), *when], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(read_record(tmp_path / "killed").trials) == 4
    found = look_for("killed", trials=8)
    assert told(found) == told(whole)
    toml = [
        (each.path / "best.toml").read_text("utf-8").replace(str(each.path), "")
        for each in (whole, found)
    ]
    assert toml[0] == toml[1]


def test_ctrl_c_ends_with_what_was_found(look_for, monkeypatch, tmp_path):
    whole = look_for("whole")
    train = work.Work._train

    def stopped(self, trial, *given):
        if trial.number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        train(self, trial, *given)

    monkeypatch.setattr(work.Work, "_train", stopped)
    words = (
        r"stopped after 2 trials; best so far: trial \d, validation .*best\.toml\. Go on with the"
    )
    with pytest.raises(InterruptedRunError, match=words) as caught:
        look_for("part")
    assert caught.value.signal_number == signal.SIGINT
    record = read_record(tmp_path / "part")
    assert (record.status, len(record.trials)) == ("interrupted", 2)
    load_recipe(tmp_path / "part" / "best.toml")
    monkeypatch.undo()
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    assert told(look_for("part")) == told(whole)
    assert told(look_for("part", trials=2)) == told(whole)  # there are more already
    assert told(look_for("part", trials=4))[:3] == told(whole)


def test_bad_trials_are_stopped_early_and_do_not_win(look_for):
    rates = [1e-7, 1e-6, 2e-6, 0.003, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05]
    found = look_for(trials=24, epochs=8, over={"lr": rates})
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert all(1 < len(trial.curve) < 8 for trial in pruned)
    assert found.best.state == "finished"


def test_what_diverges_or_does_not_go_together_is_a_result(look_for):
    over = {"lr": [1e-3, 1e38], "optimizer.nesterov": [False, True]}
    with pytest.raises(InputError, match="nesterov needs name"):
        look_for(over=over)
    found = look_for(over=over, trials=6, **{"fields": {
        "preprocess.size": 32, "optimizer.name": "sgd", "optimizer.momentum": 0.9}})  # fmt: skip
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all("diverged" in trial.error for trial in failed)
    assert found.best.fields["optimizer.lr"] == 1e-3
    again = [trial for trial in found.trials if trial.same_as is not None]
    assert again  # four combinations, six trials
    for trial in again:
        first = found.trials[trial.same_as]
        assert (trial.fields, trial.validation) == (first.fields, first.validation)
    worst = look_for("worst", trials=2, over={"lr": [1e35, 1e36]})
    with pytest.raises(InputError, match="no trial came to its end"):
        _ = worst.best


def test_a_search_ends_when_all_has_been_tried(look_for, capsys):
    over = {"lr": [1e-3, 1e-2], "batch_size": [8, 16]}
    found = look_for(over=over, trials=None, minutes=60, quiet=False)
    assert found.record.tried == 4
    assert {tuple(trial.fields.values()) for trial in found.trials} == {
        (size, rate) for size in (8, 16) for rate in (1e-3, 1e-2)
    }
    assert found.caution.startswith("best of 4 trials")
    assert found.as_dict()["best"]["of"] == 4
    assert "nothing is left that was not tried" in capsys.readouterr().err
    assert found.record.status == "finished"


def test_too_little_memory_is_a_result_and_other_faults_are_not(look_for, monkeypatch):
    original = work.Bench.events

    def failing(error):
        def events(bench, recipe):
            if recipe.batch_size == 16:
                raise error
            yield from original(bench, recipe)

        monkeypatch.setattr(work.Bench, "events", events)

    over = {"batch_size": [8, 16]}
    failing(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    found = look_for(over=over, trials=20)
    assert {trial.error for trial in found.trials} == {None, "there is not enough memory"}
    failing(NoRoomError("the features take 9 GB"))  # another trial may need less
    found = look_for("none", over=over, trials=20)
    assert {trial.error for trial in found.trials} == {None, "the features take 9 GB"}
    failing(RuntimeError("of another kind"))
    with pytest.raises(RuntimeError, match="of another kind"):
        look_for("other", over=over, trials=20)


def test_where_every_trial_fails_time_ends_the_search(look_for):
    found = look_for(over={"lr": [1e35, 1e36, 1e37]}, trials=None, minutes=1e-4)
    assert [trial.state for trial in found.trials] == ["failed"]


def test_one_that_failed_is_the_worst_whatever_it_had_been():
    space = {"optimizer.lr": Range(1e-4, 1.0, whole=False, log=True)}
    best = Validation(n=10, accuracy=0.9, loss=0.1)
    trial = Trial(number=0, fields={"optimizer.lr": 0.5}, state="failed", validation=best,
                  curve=[0.8, 0.9])  # fmt: skip
    told = proposals._as_optuna(
        trial, space, {name: proposals._distribution(of) for name, of in space.items()}
    )
    assert (told.value, told.intermediate_values) == (0.0, {})


@pytest.mark.skipif(os.name == "nt", reason="there names are no bytes")
def test_a_folder_whose_name_is_not_utf_8_is_refused_before_it_is_read(look_for, tmp_path):
    with pytest.raises(InputError, match="the name is not UTF-8"):
        look_for(data=tmp_path / os.fsdecode("照片".encode("gbk")))


def test_a_solved_head_is_searched_by_its_own_fields(look_for, capsys):
    found = look_for(trials=3, head="solved", over=["views=1..3", "class_weights=none,balanced"])
    assert all(trial.state == "finished" and len(trial.curve) == 4 for trial in found.trials)
    assert look_for("usual", trials=1, head="solved", over=None).record.over.keys() == {
        "views", "class_weights"}  # fmt: skip
    with pytest.raises(InputError, match="has no part in that; set --head trained"):
        look_for("a", head="solved")
    folds = look_for("folds", trials=2, head="solved", over=["views=1..3"], folds=3)
    assert folds.best.validation.n == folds.record.counts["train"] == 72
    capsys.readouterr()
    trained = look_for("b", trials=1, head=None, quiet=False)
    assert trained.recipe.head == "trained"
    assert "no part in a solved head: here it is trained" in capsys.readouterr().err


def test_more_than_the_head_is_searched(look_for, split_photos, tmp_path):
    found = look_for(trials=2, train_from="layer4", head="solved", over=["lr=1e-5..1e-3"], epochs=2)
    for trial in found.trials:
        recipe = found.recipe.with_fields(trial.fields)
        run = reslab.train(
            split_photos, recipe=recipe, out=tmp_path / f"r{trial.number}", quiet=True
        )
        assert run.validation["accuracy"] == trial.validation.accuracy


def test_minutes_end_a_search_and_more_go_on(look_for):
    found = look_for(trials=None, minutes=1e-6)
    assert len(found.trials) == 1  # one is always finished
    assert len(look_for(trials=2, minutes=60).trials) == 2
    with pytest.raises(InputError, match="needs an end: --trials N or --minutes M"):
        look_for("a", trials=None)
    with pytest.raises(InputError, match="must be above 0"):
        look_for("a", trials=0)


def test_another_search_is_not_gone_on_with(look_for, tmp_path, split_photos):
    found = look_for(trials=1)
    with pytest.raises(InputError, match="a search, not a run; the same `reslab search` command"):
        reslab.resume(found.path)
    with pytest.raises(InputError, match=r"holds another search(.|\n)*epochs = 5 where it has 4"):
        look_for(epochs=5)
    with pytest.raises(InputError, match=r"--over optimizer\.lr: 0\.0001\.\.0\.2, by log.* where"):
        look_for(over=["lr=0.0001..0.2", *OVER[1:]])
    data = tmp_path / "data"
    shutil.copytree(split_photos, data)
    shutil.rmtree(data / "test")
    with pytest.raises(InputError, match="have changed"):
        look_for(data=data)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files and no search"):
        look_for("mine")
    record = tmp_path / "found" / "search.json"
    whole = json.loads(record.read_text("utf-8"))
    for damage in ({"optimizer.lr": 0.01}, whole["trials"][0]["fields"] | {"optimizer.lr": 5.0},
                   whole["trials"][0]["fields"] | {"optimizer.name": "adam"}):  # fmt: skip
        trials = [whole["trials"][0] | {"fields": damage}]
        record.write_text(json.dumps(whole | {"trials": trials}), "utf-8")
        with pytest.raises(InputError, match="trial 0 is none of this search"):
            look_for()
    record.write_text(json.dumps(whole | {"recipe": {"epochs": 0}}), "utf-8")
    with pytest.raises(InputError, match=r"search\.json: not as reslab wrote it"):
        look_for()
    record.write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"search\.json: not as reslab wrote it"):
        look_for()
    with pytest.raises(InputError, match="lies inside the data"):
        reslab.search(data, trials=1, out=data / "x", quiet=True)
    with pytest.raises(InputError, match="judged on validation, and there is none"):
        look_for("none", fields={"split.validation": 0})


def test_without_the_package_the_line_to_type_is_said(look_for, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'reslab\[search\]'"):
        look_for()


def test_the_command_prints_the_winner_and_what_it_is_worth(
    split_photos, settings, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["search", str(split_photos), "--recipe", "photos", "--network", "resnet18"]
    words += ["--weights", settings["weights"], "--head", "trained", "--epochs", "2"]
    words += [
        "--preprocess.size",
        "32",
        "--over",
        "lr=0.001..0.1",
        "--over",
        "weight_decay=1e-5..1e-2",
    ]
    run_command([*words, "--trials", "2"])
    said = capsys.readouterr()
    assert "trial 1 (2/2)  validation" in said.err
    assert "best of 2 trials, chosen by this very score, so it flatters" in said.out
    assert (
        f"reslab train {split_photos} --recipe searches/photos-数据/best.toml"
        in said.out.replace("'", "")
    )
    run_command([*words, "--trials", "3", "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    assert (found["best"]["of"], len(found["trials"])) == (3, 3)
    assert "flatters" in found["best"]["note"]
    assert {"fields", "validation", "seconds", "state"} <= set(found["trials"][0])
    opening = (tmp_path / "searches" / "photos-数据" / "best.toml").read_text("utf-8").splitlines()
    assert opening[0].startswith("# Command: reslab train")
    assert "best of 3 trials" in opening[1]
