"""A whole run: what it leaves behind, that it repeats itself, and that it can be stopped."""

import csv
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from PIL import Image

import reslab
from drawn_pictures import CLASSES, fill
from reslab.errors import InputError, InterruptedRunError
from reslab.networks.model_file import load_model, read_tensors
from reslab.recipes.files import load_recipe
from reslab.training import session, training

pytestmark = pytest.mark.usefixtures("undrawn")


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_second_is_counted_twice(split_photos, tmp_path):
    started = time.perf_counter()
    run = reslab.train(split_photos, out=tmp_path / "r", epochs=1, quiet=True)
    assert run.info["seconds"]["total"] <= time.perf_counter() - started


def without_times(run):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in run.history]


def test_the_run_folder(run, split_photos):
    info = json.loads((run.path / "run.json").read_text("utf-8"))
    assert info["status"] == "finished"
    assert info["classes"] == sorted(CLASSES)
    assert info["counts"] == {"train": 65, "validation": 7, "test": 24}
    assert info["test"]["n"] == 24
    assert info["test"]["accuracy"] >= 0.9
    assert info["validation"]["n"] == 7
    assert info["seconds"].keys() == {"data", "features", "train", "evaluate", "total"}
    assert info["seconds"]["total"] >= info["seconds"]["train"] > 0
    assert info["preprocessing"]["size"] == [16, 16]
    assert 0 <= info["best_epoch"] < 8
    assert [row["epoch"] for row in run.history] == list(range(8))
    wanted = {"epoch", "learning_rate", "train_loss", "train_accuracy", "validation_loss",
              "validation_accuracy", "seconds"}  # fmt: skip
    assert all(wanted <= row.keys() for row in run.history)
    best = max(run.history, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert best["epoch"] == info["best_epoch"]
    for name in ("curves.png", "preview.png"):
        with Image.open(run.path / name) as sheet:
            assert min(sheet.size) > 200
    assert {p.name for p in (run.path / "checkpoints").iterdir()} == {
        "last.safetensors", "previous.safetensors", "best.safetensors"
    }  # fmt: skip
    leftovers = [p for p in run.path.rglob("*") if p.name.startswith(".")]
    assert not leftovers


def test_predictions_name_every_test_picture_once(run, split_photos):
    with (run.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {str(p.relative_to(split_photos)) for p in (split_photos / "test").rglob("*.png")}
    assert {row["path"] for row in rows} == expected
    assert len(rows) == 24
    assert all(row["label"] == row["path"].split("/")[1] for row in rows)
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert right / 24 == run.test["accuracy"]


def test_the_same_command_gives_the_same_weights(run, split_photos, tmp_path):
    again = reslab.train(
        split_photos, out=tmp_path / "b", seed=1, epochs=8, batch_size=16, quiet=True
    )
    assert sha(again.model) == sha(run.model)
    assert without_times(again) == without_times(run)
    assert sha(again.path / "predictions.csv") == sha(run.path / "predictions.csv")
    other = reslab.train(
        split_photos, out=tmp_path / "c", seed=2, epochs=1, batch_size=16, quiet=True
    )
    assert sha(other.model) != sha(run.model)


def test_the_recipe_of_a_run_gives_the_run_again(run, split_photos, tmp_path):
    recipe = run.path / "recipe.toml"
    assert tomllib.loads(recipe.read_text("utf-8"))["preprocess"]["size"] == [16, 16]
    again = reslab.train(split_photos, recipe=recipe, out=tmp_path / "r", quiet=True)
    assert sha(again.model) == sha(run.model)


@pytest.mark.parametrize(
    ("every", "at"), [("1epoch", [2, 7, 11]), ("3steps", [2, 7, 11]), ("1step", [4, 5, 0])]
)
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(
    run, split_photos, tmp_path, monkeypatch, every, at
):
    """Stop after a number of events, as a signal would; resume; stop again; compare."""
    original = training.train_epochs
    stops = iter([*at, None])  # an epoch is 5 steps and its end: 6 events

    def stopping(*args, **kwargs):
        stop = next(stops)
        for number, event in enumerate(original(*args, **kwargs)):
            yield event
            if number == stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_epochs", stopping)
    out = tmp_path / "stopped"
    settings = {"seed": 1, "epochs": 8, "batch_size": 16, "checkpoint_every": every}
    with pytest.raises(KeyboardInterrupt):
        reslab.train(split_photos, out=out, quiet=True, **settings)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reslab.resume(out, quiet=True)
    done = reslab.resume(out, quiet=True)
    assert sha(done.model) == sha(run.model)
    assert without_times(done) == without_times(run)
    assert done.test == run.test


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer.name": "adam", "optimizer.lr": 0.001, "optimizer.momentum": 0,
         "optimizer.nesterov": False, "optimizer.weight_decay": 0, "schedule.name": "constant"},
        {"augment.rotate": 20, "augment.hue": 0.1, "augment.flip_horizontal": 0.5},
    ],
)  # fmt: skip
def test_resume_restores_each_optimiser_and_augmentation(
    split_photos, tmp_path, monkeypatch, fields
):
    settings = {"seed": 3, "epochs": 2, "batch_size": 16, "fields": fields, "quiet": True}
    whole = reslab.train(split_photos, out=tmp_path / "whole", **settings)
    original = training.train_epochs

    def stopping(*args, **kwargs):
        yield from itertools.islice(original(*args, **kwargs), 4)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_epochs", stopping)
    with pytest.raises(KeyboardInterrupt):
        reslab.train(split_photos, out=tmp_path / "part", checkpoint_every="1step", **settings)
    monkeypatch.setattr(training, "train_epochs", original)
    part = reslab.resume(tmp_path / "part", quiet=True)
    assert sha(part.model) == sha(whole.model)
    assert sha(part.last_checkpoint) != sha(part.best_checkpoint)


def test_a_constant_schedule_can_go_further(split_photos, tmp_path):
    settings = {
        "seed": 1, "batch_size": 16, "quiet": True,
        "fields": {"schedule.name": "constant", "optimizer.lr": 0.05},
    }  # fmt: skip
    longer = reslab.train(split_photos, out=tmp_path / "4", epochs=4, **settings)
    reslab.train(split_photos, out=tmp_path / "2", epochs=2, **settings)
    extended = reslab.resume(tmp_path / "2", epochs=4, quiet=True)
    assert sha(extended.model) == sha(longer.model)
    assert without_times(extended) == without_times(longer)
    assert load_recipe(extended.path / "recipe.toml").epochs == 4


def test_a_one_cycle_run_cannot_be_extended(run):
    with pytest.raises(InputError, match="one-cycle"):
        reslab.resume(run.path, epochs=20, quiet=True)
    with pytest.raises(InputError, match="8 epochs already"):
        reslab.resume(run.path, epochs=3, quiet=True)
    before = sha(run.path / "run.json")
    assert reslab.resume(run.path, quiet=True).test == run.test
    assert sha(run.path / "run.json") == before


def test_best_weights_are_of_an_epoch_that_the_run_has(split_photos, tmp_path, monkeypatch):
    """Where states are kept rarely: a resume may not come to the same weights once more."""
    original, kept = session.Session.keep_best, []

    def keep_best(one):
        kept.append(one.state.progress.epoch)
        _, header = read_tensors(one.run.last_checkpoint)
        assert header["progress"]["epoch"] == kept[-1]
        original(one)

    monkeypatch.setattr(session.Session, "keep_best", keep_best)
    settings = {"fields": {"checkpoint_every": "5epochs"}, "epochs": 4, "quiet": True}
    reslab.train(split_photos, out=tmp_path / "r", seed=4, **settings)
    assert len(kept) > 1


def test_changed_data_is_refused_on_resume(tmp_path):
    fill(tmp_path / "d", 10)
    reslab.train(
        tmp_path / "d", out=tmp_path / "r", epochs=1, quiet=True,
        fields={"schedule.name": "constant"},
    )  # fmt: skip
    fill(tmp_path / "d", 1, start=50)
    with pytest.raises(
        InputError,
        match=r"(?s)has changed since this run began.*train: 23 pictures where it had 22",
    ):
        reslab.resume(tmp_path / "r", epochs=2, quiet=True)
    assert "extended_to" not in json.loads((tmp_path / "r" / "run.json").read_text())


def test_a_diverging_run_stops_and_keeps_the_last_good_state(split_photos, tmp_path):
    with pytest.raises(InputError, match=r"epoch \d+, step \d+") as caught:
        reslab.train(
            split_photos, out=tmp_path / "r", epochs=30, quiet=True, batch_size=8,
            fields={"optimizer.lr": 1e9, "network": "mnist-cnn", "optimizer.momentum": 0,
                    "optimizer.nesterov": False, "schedule.name": "constant",
                    "label_smoothing": 0},
        )  # fmt: skip
    assert "--lr" in str(caught.value)
    tensors = reslab.run.checkpoint.read_tensors(
        tmp_path / "r" / "checkpoints" / "last.safetensors"
    )[0]
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    info = json.loads((tmp_path / "r" / "run.json").read_text("utf-8"))
    assert info["status"] == "failed"


def test_a_batch_of_one_is_refused_where_batch_norm_cannot_use_it(split_photos, tmp_path):
    settings = {"network": "resnet18", "fields": {"preprocess.size": 32}, "quiet": True}
    with pytest.raises(InputError, match="--batch-size"):
        reslab.train(split_photos, out=tmp_path / "r", batch_size=1, **settings)
    assert not (tmp_path / "r").exists()
    # 65 pictures in batches of 32: 22, 22 and 21, none of one.
    found = reslab.train(split_photos, out=tmp_path / "r", batch_size=32, epochs=1, **settings)
    assert found.info["counts"]["train"] == 65


def test_divergence_in_the_very_last_step_is_noticed(split_photos, tmp_path):
    with pytest.raises(InputError, match="diverged"):
        reslab.train(
            split_photos, out=tmp_path / "r", epochs=1, quiet=True, batch_size=100,
            fields={"optimizer.lr": 1e38, "schedule.name": "constant", "split.validation": 0},
        )  # fmt: skip
    json.loads((tmp_path / "r" / "run.json").read_text("utf-8"))


def test_a_run_is_resumed_from_another_folder(tmp_path, monkeypatch):
    """The data and the run were named by relative paths."""
    fill(tmp_path / "d", 8)
    monkeypatch.chdir(tmp_path)
    settings = {"epochs": 1, "quiet": True, "fields": {"schedule.name": "constant"}}
    reslab.train("d", out="r", **settings)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert reslab.resume("../r", epochs=2, quiet=True).info["epochs"] == 2


def test_a_history_cut_in_the_middle_of_a_line_is_mended(split_photos, tmp_path):
    settings = {"batch_size": 16, "quiet": True, "fields": {"schedule.name": "constant"}}
    whole = reslab.train(split_photos, out=tmp_path / "a", epochs=3, **settings)
    part = reslab.train(split_photos, out=tmp_path / "b", epochs=2, **settings)
    with (part.path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 2, "learn')
    done = reslab.resume(part.path, epochs=3, quiet=True)
    assert without_times(done) == without_times(whole)


def test_a_run_stopped_and_resumed_counts_all_its_time(split_photos, tmp_path, monkeypatch):
    original = training.train_epochs

    def interrupted(*args, **kwargs):
        for number, event in enumerate(original(*args, **kwargs)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    monkeypatch.setattr(training, "train_epochs", interrupted)
    with pytest.raises(InterruptedRunError):
        reslab.train(split_photos, out=tmp_path / "r", epochs=2, batch_size=16, quiet=True)
    first = json.loads((tmp_path / "r" / "run.json").read_text("utf-8"))["seconds"]
    monkeypatch.setattr(training, "train_epochs", original)
    whole = reslab.resume(tmp_path / "r", quiet=True).info["seconds"]
    assert first["total"] >= first["train"] > 0
    assert whole["train"] > first["train"]
    assert whole["total"] - first["total"] >= whole["train"] - first["train"]


def test_watching_the_test_split_chooses_nothing(run, split_photos, tmp_path):
    watched = reslab.train(
        split_photos, out=tmp_path / "w", seed=1, epochs=8, batch_size=16, watch_test=True,
        quiet=True,
    )  # fmt: skip
    assert sha(watched.model) == sha(run.model)
    assert all("test_accuracy" in row for row in watched.history)
    assert not any("test_accuracy" in row for row in run.history)
    best = watched.history[watched.info["best_epoch"]]
    assert best["test_accuracy"] == watched.test["accuracy"]


def test_without_a_validation_split_the_last_weights_are_kept(split_photos, tmp_path):
    found = reslab.train(
        split_photos, out=tmp_path / "r", epochs=2, quiet=True, fields={"split.validation": 0}
    )
    assert found.info["counts"]["validation"] == 0
    assert found.validation is None
    assert found.info["best_epoch"] == 1


def test_a_frozen_backbone_stays_bit_identical(split_photos, tmp_path):
    """ResNet-18 of torchvision's form from a state-dict file, saved with `module.` keys."""
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "权重.pth"
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    found = reslab.train(
        split_photos, recipe="photos-resnet152", network="resnet18", weights=path, epochs=2,
        out=tmp_path / "r", quiet=True, batch_size=32,
        fields={"preprocess.size": 32, "augment.resize": 40},
    )  # fmt: skip
    trained = load_model(found.path).network.state_dict()
    for key, value in state.items():
        if not key.startswith("fc."):
            assert torch.equal(trained[key], value), key
    assert trained["fc.weight"].shape == (3, 512)
    assert found.info["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_a_backbone_that_drifts_is_a_defect_and_noticed(split_photos, tmp_path, monkeypatch):
    """The publication's own loop lets the batch-norm statistics drift: plant that."""
    import torchvision

    path = tmp_path / "w.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    original = torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, "train", lambda self, mode=True: original(self, True))
    with pytest.raises(AssertionError, match="frozen part changed"):
        reslab.train(
            split_photos, recipe="photos-resnet152", network="resnet18", weights=path, epochs=1,
            out=tmp_path / "r", quiet=True, batch_size=33,
            fields={"preprocess.size": 64, "augment.resize": 72, "features": "online"},
        )  # fmt: skip


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state(tmp_path, number, status):
    out = tmp_path / "r"
    command = [sys.executable, "-m", "reslab", "train", "digits", "--out", str(out),
               "--epochs", "500"]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        for line in process.stderr:
            if line.startswith("epoch 1 "):
                os.kill(process.pid, number)
                break
        rest = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == status, rest
    assert "reslab resume" in rest
    assert "Traceback" not in rest
    info = json.loads((out / "run.json").read_text("utf-8"))
    assert info["status"] == "interrupted"
    assert reslab.Classifier.load(out).classes == tuple("0123456789")


def test_signals_are_put_back(split_photos, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    original = training.train_epochs

    def interrupted(*args, **kwargs):
        for event in original(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            yield event

    monkeypatch.setattr(training, "train_epochs", interrupted)
    with pytest.raises(InterruptedRunError) as caught:
        reslab.train(split_photos, out=tmp_path / "r", quiet=True)
    assert caught.value.signal_number == signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_model_of_ours_can_be_started_from(run, split_photos, tmp_path):
    """Fine-tuning one's own model: the same network, the weights of a run, another head."""
    warm = reslab.train(
        split_photos, network="small-resnet", weights=run.model, epochs=1, out=tmp_path / "w",
        quiet=True, batch_size=16, fields={"train_from": "head", "optimizer.lr": 0.001},
    )  # fmt: skip
    before = load_model(run.path).network.state_dict()
    after = load_model(warm.path).network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"11.weight", "11.bias"}


def test_a_run_without_a_test_split_says_so(split_photos, tmp_path):
    fill(tmp_path / "d", 8)
    found = reslab.train(
        tmp_path / "d", out=tmp_path / "r", epochs=1, quiet=True, fields={"split.test": 0}
    )
    assert found.finished
    assert found.info["test"] is None
    with pytest.raises(InputError, match="no test"):
        _ = found.test
    assert not (tmp_path / "r" / "predictions.csv").exists()


def test_a_full_disk_is_one_message_and_the_last_state_stays(
    split_photos, tmp_path, monkeypatch, capfd
):
    """The disk fills at the second checkpoint; what was saved before can be gone on from."""
    from reslab.cli import main
    from reslab.run import checkpoint

    original, calls = checkpoint.write_keeping, itertools.count()

    def filling(path, before, data):
        if next(calls) == 1:
            raise OSError(28, "No space left on device", str(path))
        original(path, before, data)

    out = tmp_path / "r"
    words = ["train", str(split_photos), "--epochs", "2", "--seed", "4", "--quiet", "--out"]
    monkeypatch.setattr(checkpoint, "write_keeping", filling)
    monkeypatch.setattr(sys, "argv", ["reslab", *words, str(out)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr().err
    assert stopped.value.code == 2
    assert "last.safetensors: No space left" in said
    assert f"go on with: reslab resume {out}" in said
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    assert "Traceback" not in said
    monkeypatch.setattr(checkpoint, "write_keeping", original)
    resumed = reslab.resume(out, quiet=True)
    whole = reslab.train(split_photos, out=tmp_path / "w", epochs=2, seed=4, quiet=True)
    assert sha(resumed.model) == sha(whole.model)
