"""Cross-validation of solved heads where pictures are few."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import reslab
from drawn_pictures import CLASSES, fill, picture
from reslab.errors import InputError
from reslab.features import solving
from reslab.learning import solved
from reslab.networks.model_file import load_model
from reslab.pictures.content import keys_of
from reslab.pictures.names import Names
from reslab.pictures.splitting import folds_of
from reslab.pictures.table import Samples
from reslab.run.looks import looks_of
from reslab.training import training

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def learn(tmp_path, weights):
    def run(name, data, **more):
        options = {"folds": 3, "views": 2, "epochs": 4, **more}
        fields = {key: options.pop(key) for key in list(options) if "." in key}
        return reslab.train(
            data, recipe="photos", network="resnet18", weights=weights, out=tmp_path / name,
            seed=1, quiet=not options.pop("shown", False),
            precision=options.pop("precision", "fp32"),
            fields={"preprocess.size": 32, "split.together": "identical", **fields}, **options,
        )  # fmt: skip

    return run


def samples_of(labels, keys=None):
    keys = np.arange(1, len(labels) + 1) if keys is None else np.array(keys)
    halves = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    paths = Names.of(str(row) for row in range(len(labels)))
    return Samples(paths, np.array(labels), keys=keys_of(halves, ~halves))


def head_of(run):
    state = load_model(run.path).network.state_dict()
    return {key: value for key, value in state.items() if key.startswith("fc.")}


def few_photos(folder, counts):
    """train/ with so many pictures of each class, and test/ with 4 of each."""
    for kind, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
        place = folder / "train" / name
        place.mkdir(parents=True)
        for number in range(count):
            picture(kind, number).save(place / f"{number:03d}.png")
    fill(folder / "test", 4, start=100)
    return folder


# The folds


def test_each_class_is_dealt_evenly():
    labels = [0] * 11 + [1] * 7 + [2] * 3 + [3] * 2
    folds = folds_of(samples_of(labels), 4, seed=0)
    table = np.array([np.bincount(folds.of[np.array(labels) == c], minlength=4) for c in range(4)])
    assert (table.max(1) - table.min(1) <= 1).all()
    assert np.ptp(table.sum(0)) <= 1
    assert folds.count == 4
    assert len(folds.judged) == len(labels)


def test_identical_files_stay_in_one_fold():
    keys = [1, 2, 3, 1, 1, 2, 4, 5, 6, 6]
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    folds = folds_of(samples_of(labels, keys), 3, seed=0)
    for key in set(keys):
        assert len({int(folds.of[row]) for row, each in enumerate(keys) if each == key}) == 1


def test_a_fold_goes_by_content_not_by_place():
    labels = np.array([0, 1] * 10)
    samples = samples_of(labels)
    order = np.random.default_rng(0).permutation(20)
    one, other = folds_of(samples, 5, 0), folds_of(samples.take(order), 5, 0)
    assert (one.of[order] == other.of).all()
    assert (folds_of(samples, 5, 1).of != one.of).any()


def test_what_cannot_be_judged_is_left_out():
    """One picture, or one picture's copies: what is solved without them knows no such class."""
    labels = [0, 0, 1, 2, 2]
    folds = folds_of(samples_of(labels, [1, 2, 3, 4, 4]), 5, seed=0)
    assert folds.judged.tolist() == [0, 1]
    assert folds.count == 4  # as many as there are different pictures


# A run


def test_the_score_is_that_of_heads_which_know_nothing_of_it(learn, tmp_path):
    """Against a plain statement: for each fold a problem of the others' features, in all views."""
    data = few_photos(tmp_path / "d", (7, 6, 5))
    seen = {}
    original = solved.CrossValidation.logits

    def noted(self, strength):
        found = original(self, strength)
        expected = torch.empty_like(found)
        count = len(self.of)
        assert len(self.problem(torch.arange(count)).labels) == 2 * count
        for fold in range(3):
            held, rest = (torch.nonzero(mask)[:, 0] for mask in (self.of == fold, self.of != fold))
            head = torch.nn.Linear(512, 3)
            self.problem(rest).solve(head, strength)
            with torch.no_grad():
                expected[held] = head(self.x[held])
        torch.testing.assert_close(found.softmax(1), expected.softmax(1), rtol=0, atol=0.05)
        seen[strength] = float((found.argmax(1) == self.labels).float().mean())
        return found

    solved.CrossValidation.logits = noted
    try:
        run = learn("a", data)
    finally:
        solved.CrossValidation.logits = original
    assert list(seen) == pytest.approx(solving.strengths(4))
    assert [line["validation_accuracy"] for line in run.history] == pytest.approx([*seen.values()])
    assert run.validation["n"] == 18
    assert run.validation["accuracy"] == pytest.approx(seen[run.info["best_strength"]])
    assert (run.validation["folds"], run.validation["not_judged"]) == (3, [])
    assert run.info["counts"] == {"train": 18, "validation": 0, "test": 12}
    assert len(looks_of(run.path)) == 1


def test_the_head_is_solved_on_all_pictures(learn, tmp_path):
    """As without validation, where the strength is the one that the folds chose."""
    data = few_photos(tmp_path / "d", (7, 6, 5))
    run = learn("a", data)
    strength = run.info["best_strength"]
    place = solving.strengths(4).index(strength)
    plain = learn("b", data, folds=0, **{"split.validation": 0})
    assert plain.history[place]["train_loss"] == run.history[place]["train_loss"]
    assert plain.info["class_counts"]["train"] == run.info["class_counts"]["train"]
    again = reslab.evaluate(run.path, data, quiet=True)
    assert again.accuracy == run.test["accuracy"]
    assert load_model(run.path).held == ()
    with pytest.raises(InputError, match="--folds"):
        reslab.Classifier.load(run.path).predict(data / "test" / "bird" / "100.png", coverage=0.9)


@pytest.mark.drawn
@pytest.mark.parametrize("counts", [(1, 2, 3), (2, 2, 2), (5, 1, 4), (5, 5, 1)])
def test_classes_of_few_photos(learn, tmp_path, capfd, counts):
    data = few_photos(tmp_path / "d", counts)
    run = learn("a", data, folds=5, shown=True)
    alone = [name for name, count in zip(CLASSES, counts, strict=True) if count == 1]
    assert run.validation["not_judged"] == sorted(alone)
    assert run.validation["n"] == sum(count for count in counts if count > 1)
    assert run.validation["folds"] <= 5
    said = capfd.readouterr().err
    page = (run.path / "report.html").read_text("utf-8")
    assert f"{run.validation['n']} training pictures in {run.validation['folds']} folds" in said
    assert f"cross-validated in {run.validation['folds']} folds" in page
    assert ("no fold can judge" in said) == bool(alone)
    for name in alone:
        assert any(name in note and "no fold can judge" in note for note in run.info["notes"])
        assert f"one training picture alone: {name}" in page
    json.loads((run.path / "run.json").read_text("utf-8"))


@pytest.mark.drawn
def test_the_page_of_a_run_without_a_test_says_so(learn, tmp_path, capsys):
    data = few_photos(tmp_path / "d", (5, 5, 5))
    shutil.rmtree(data / "test")
    run = learn("a", data, **{"split.test": 0})
    page = (run.path / "report.html").read_text("utf-8")
    assert "Cross-validated," in page
    assert "without it flatters" not in page
    from reslab.cli.printing import print_run

    print_run(run, as_json=False)
    assert "cross-validated, 3 folds" in capsys.readouterr().out


def test_a_stopped_path_goes_on_bit_for_bit(learn, monkeypatch, tmp_path):
    """The folds' heads start from those of the strength before, so they are in the checkpoint."""
    data = few_photos(tmp_path / "d", (6, 6, 6))
    whole = learn("whole", data, epochs=6)
    original = training.solved_path

    def interrupted(*given):
        for count, event in enumerate(original(*given)):
            if count % 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    monkeypatch.setattr(training, "solved_path", interrupted)
    with pytest.raises(reslab.errors.InterruptedRunError):
        learn("part", data, epochs=6)
    for _ in range(2):
        with pytest.raises(reslab.errors.InterruptedRunError):
            reslab.resume(tmp_path / "part", quiet=True)
    monkeypatch.setattr(training, "solved_path", original)
    part = reslab.resume(tmp_path / "part", quiet=True)
    assert all(torch.equal(head_of(whole)[key], value) for key, value in head_of(part).items())
    timed = {"seconds", "evaluate_seconds"}
    one, other = (
        [{key: line[key] for key in line.keys() - timed} for line in run.history]
        for run in (whole, part)
    )
    assert one == other
    assert whole.validation == part.validation
    assert load_model(whole.path).temperature == load_model(part.path).temperature


def test_where_folds_have_no_place(learn, tmp_path, split_photos):
    data = few_photos(tmp_path / "d", (4, 4, 4))
    for more in ({"head": "trained"}, {"train_from": "layer4"}):
        with pytest.raises(InputError, match="--folds 3 is for a head that is solved"):
            learn("a", data, **more)
    with pytest.raises(InputError, match="2 or more, such as 5"):
        learn("a", data, folds=1)
    own = tmp_path / "own"
    shutil.copytree(data, own)
    fill(own / "val", 2, start=50)
    with pytest.raises(InputError, match="has a validation split of its own"):
        learn("a", own)
    one = few_photos(tmp_path / "one", (1, 1, 1))
    with pytest.raises(InputError, match=r"two different training.*--split\.validation 0"):
        learn("a", one)


def test_what_is_asked_twice_is_said(learn, tmp_path, capsys):
    data = few_photos(tmp_path / "d", (4, 4, 4))
    learn("a", data, **{"split.validation": 0.3})
    assert "split.validation has no part in it" in capsys.readouterr().err
    learn("b", data, folds=0, shown=True, **{"split.validation": 3})
    said = capsys.readouterr().err
    assert "validation has only 3 pictures: --folds 5 would judge on all 12" in said


def test_training_views_in_bf16_are_judged_in_float32(learn, tmp_path):
    data = few_photos(tmp_path / "d", (4, 4, 4))
    run = learn("a", data, precision="bf16", views=0)
    assert run.info["features"]["computed"] == 12 + 12 + 12
    assert learn("b", data, views=0).info["features"]["computed"] == 0
