"""What once went wrong in silence, with a traceback, or for ever: classes of it, by the row."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import threading
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import reslab
from drawn_pictures import fill, picture
from reslab.cli import main
from reslab.errors import InputError
from reslab.features.store import FeatureStore
from reslab.networks.model_file import load_model
from reslab.pictures.decoding import UnreadablePictureError, decode
from reslab.pictures.files import LARGEST_FILE, Archive, Folder
from reslab.pictures.lists import parse_csv, resolve_labels
from reslab.pictures.sources import open_pictures
from reslab.run.folder import open_run
from reslab.training import publishing, training

LONG = os.environ.get("RESLAB_LONG") == "1"
SETTINGS = {"seed": 1, "epochs": 2, "batch_size": 8, "quiet": True}
CONSTANT = {"schedule.name": "constant"}


def weights_of(run):
    return load_model(run.path).network.state_dict()


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def data(tmp_path):
    fill(tmp_path / "数据" / "train", 8)
    fill(tmp_path / "数据" / "test", 3, start=50)
    return tmp_path / "数据"


@pytest.fixture
def stopped(data, tmp_path, monkeypatch):
    """A run on `data` that was stopped in its first epoch."""
    original = training.train_epochs

    def stopping(*given):
        for number, event in enumerate(original(*given)):
            yield event
            if number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_epochs", stopping)
    settings = SETTINGS | {"fields": CONSTANT, "checkpoint_every": "1step"}
    with pytest.raises(KeyboardInterrupt):
        reslab.train(data, out=tmp_path / "stopped", **settings)
    monkeypatch.setattr(training, "train_epochs", original)
    return tmp_path / "stopped"


def command(words, capfd, monkeypatch):
    """(exit status, standard error) of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words)])
    capfd.readouterr()
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    return status, printed


# Going on with something else


def swap(one, other):
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def test_pictures_that_change_places_are_noticed(stopped, data):
    swap(data / "train" / "猫" / "000.png", data / "test" / "猫" / "050.png")
    with pytest.raises(InputError, match="train and test: the same pictures stand in another"):
        reslab.resume(stopped, quiet=True)
    swap(data / "train" / "猫" / "000.png", data / "test" / "猫" / "050.png")
    swap(data / "train" / "猫" / "000.png", data / "train" / "猫" / "001.png")
    with pytest.raises(InputError, match="train: the same pictures stand in another order"):
        reslab.resume(stopped, quiet=True)
    swap(data / "train" / "猫" / "000.png", data / "train" / "猫" / "001.png")
    assert reslab.resume(stopped, quiet=True).finished


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 3), ("epochs", 1), ("batch_size", 4), ("seed", 2), ("preprocess.size", (20, 20)),
     ("optimizer.lr", 0.5), ("label_smoothing", 0.2), ("ema_decay", 0.5), ("augment.rotate", 5.0)],
)  # fmt: skip
def test_an_edited_recipe_is_refused_by_name(stopped, field, value):
    run = open_run(stopped)
    run.write_recipe(run.recipe().with_fields({field: value}))
    with pytest.raises(InputError) as caught:
        reslab.resume(stopped, quiet=True)
    if field != "ema_decay":  # which the state itself does not fit
        assert f"  {field} = " in str(caught.value)
    assert "recipe" in str(caught.value)


def test_what_may_be_edited_goes_on_bit_for_bit(stopped, data, tmp_path):
    run = open_run(stopped)
    run.write_recipe(run.recipe().with_fields({"checkpoint_every": "1epoch"}))
    whole = reslab.train(data, out=tmp_path / "whole", **SETTINGS | {"fields": CONSTANT})
    assert equal(weights_of(reslab.resume(stopped, quiet=True)), weights_of(whole))


def test_an_extension_that_was_killed_before_its_first_checkpoint_goes_on(stopped, data, tmp_path):
    run = open_run(stopped)
    run.write_info(extended_to=3)
    run.write_recipe(run.recipe().with_fields({"epochs": 3}))
    settings = SETTINGS | {"fields": CONSTANT, "epochs": 3}
    whole = reslab.train(data, out=tmp_path / "whole", **settings)
    assert equal(weights_of(reslab.resume(stopped, quiet=True)), weights_of(whole))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_checkpoint_of_another_run_is_refused(stopped, data, tmp_path, seed):
    settings = SETTINGS | {"fields": CONSTANT, "seed": seed}
    other = reslab.train(data, out=tmp_path / "other", **settings)
    for path in (other.last_checkpoint, other.previous_checkpoint):
        shutil.copy(path, stopped / "checkpoints" / path.name)
    with pytest.raises(InputError, match="saved by another run"):
        reslab.resume(stopped, quiet=True)


# Threads and forks


def test_two_trainings_in_two_threads_are_what_they_are_alone(data, tmp_path):
    fields = {"preprocess.size": 28, "preprocess.channels": 1, "split.validation": 3}
    settings = SETTINGS | {"network": "mnist-cnn", "fields": fields, "epochs": 1}  # has dropout
    alone = [
        reslab.train(data, out=tmp_path / f"alone{seed}", **settings | {"seed": seed})
        for seed in (1, 2)
    ]
    together = {}

    def train(seed):
        out = tmp_path / f"together{seed}"
        together[seed] = reslab.train(data, out=out, **settings | {"seed": seed})

    threads = [threading.Thread(target=train, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for seed, run in enumerate(alone, 1):
        assert equal(weights_of(together[seed]), weights_of(run))


def test_many_threads_predict_what_one_does(run, split_photos):
    """From one classifier that folds its network while they begin, and beside other foldings."""
    paths = sorted((split_photos / "test").rglob("*.png"))
    many = paths * 4  # more than a pass, so that the network is folded
    plain = reslab.Classifier.load(run.path, "cpu")
    expected = [plain.predict(path) for path in paths], plain.predict(many)
    shared = reslab.Classifier.load(run.path, "cpu")
    problems = []

    def work(number):
        try:
            for turn in range(1250 if LONG else 5):  # 10,000 predictions in the long form
                which = (number + turn) % len(paths)
                assert shared.predict(paths[which]) == expected[0][which]
                if turn % 250 > 4:
                    continue
                if number % 2:
                    assert shared.predict(many) == expected[1]
                else:  # traces a network of its own meanwhile
                    own = reslab.Classifier.load(run.path, "cpu")
                    assert own.predict(many) == expected[1]
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not problems


def _predict_in_child(path, picture, said):
    try:
        reslab.Classifier.load(path, "cpu").predict(picture)
        said.put("predicted")
    except InputError as error:
        said.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_after_use_says_what_does_not_work(run, split_photos):
    path = next((split_photos / "test").rglob("*.png"))
    reslab.Classifier.load(run.path, "cpu").predict(path)
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    child = context.Process(target=_predict_in_child, args=(run.path, path, said))
    child.start()
    assert "was forked from one that has used torch" in said.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0


# Counting and naming


def test_all_splits_at_once_whatever_their_sizes(run, tmp_path):
    sizes = {"train": (16, 16), "val": (100, 90), "test": (20, 24)}
    for split, size in sizes.items():
        fill(tmp_path / "sizes" / split, 3, size=size)
    parts = {
        split: reslab.evaluate(run.path, tmp_path / "sizes", split=split, quiet=True)
        for split in sizes
    }
    whole = reslab.evaluate(run.path, tmp_path / "sizes", split="all", quiet=True)
    assert whole.n == 27
    expected = torch.cat([found.logits for found in parts.values()])
    torch.testing.assert_close(whole.logits, expected, rtol=1e-5, atol=1e-5)
    assert whole.score.correct == sum(found.score.correct for found in parts.values())


@pytest.mark.parametrize("name", [" lead", "trail ", "\u3000宽", "no break\u00a0"])
def test_a_class_that_a_table_would_not_keep_is_refused(name, tmp_path):
    fill(tmp_path / "blank", 6, classes=("a", name))
    with pytest.raises(InputError, match="begin or end with a blank"):
        reslab.train(tmp_path / "blank", out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ['a,"b', "a;b", "it's", "a\tb", "# a", "=1+1", "类 别", "ﬁ", "-"])
def test_what_is_written_can_be_read_back(name, tmp_path):
    classes = ("other", name)
    fill(tmp_path / "named", 6, classes=classes)
    if "\t" in name:
        with pytest.raises(InputError, match="control characters"):
            reslab.train(tmp_path / "named", out=tmp_path / "run", **SETTINGS)
        return
    run = reslab.train(tmp_path / "named", out=tmp_path / "run", **SETTINGS)
    entries, problems = parse_csv((run.path / "predictions.csv").read_bytes(), "there")
    assert not problems
    labels, unknown = resolve_labels(entries, run.classes, "the model")
    assert not unknown
    assert {run.classes[label] for label in labels} == set(classes)


# Users' files


def test_overwrite_deletes_what_the_run_wrote_and_nothing_else(data, tmp_path):
    out = tmp_path / "run"
    reslab.train(data, out=out, **SETTINGS)
    own = {
        out / "thesis.txt": b"mine", out / ".notes.tmp": b"mine",
        out / "checkpoints" / "my.pt": b"", out / "checkpoints" / ".mine.tmp": b"",
    }  # fmt: skip
    for path, content in own.items():
        path.write_bytes(content)
    for name in ("model.onnx", "model.int8.onnx", "model.pt2"):  # exports of the old model
        (out / name).write_bytes(b"old")
    first = open_run(out).info["id"]
    run = reslab.train(data, out=out, overwrite=True, **SETTINGS)
    assert run.info["id"] != first
    assert {path: path.read_bytes() for path in own} == own
    assert not {path.suffix for path in out.iterdir()} & {".onnx", ".pt2"}


@pytest.mark.parametrize(
    "content", ['{"mine": 1}', "[]", "null", "not JSON", "[" * 100_000, '{"classes": ["a", "b"]}']
)
def test_a_folder_that_is_no_run_is_never_overwritten(content, data, tmp_path):
    out = tmp_path / "thesis"
    (out / "checkpoints").mkdir(parents=True)
    (out / "run.json").write_text(content)
    (out / "checkpoints" / "thesis.pt").write_bytes(b"years")
    with pytest.raises(InputError, match=r"run\.json"):
        reslab.train(data, out=out, overwrite=True, **SETTINGS)
    assert (out / "run.json").read_text() == content
    assert (out / "checkpoints" / "thesis.pt").read_bytes() == b"years"


def test_what_a_run_leaves_that_is_killed_before_its_record_is_no_hindrance(data, tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for name in ("recipe.toml", "plan.toml"):
        (out / name).write_text("")
    assert reslab.train(data, out=out, **SETTINGS).finished
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.toml").write_text("mine")
    with pytest.raises(InputError, match="holds files and no run"):
        reslab.train(data, out=tmp_path / "other", **SETTINGS)


def test_a_run_that_names_others_files_deletes_none_of_them(data, tmp_path):
    run = reslab.train(data, out=tmp_path / "run", **SETTINGS)
    (tmp_path / "precious.txt").write_text("mine")
    run.write_info(files=["../precious.txt", "/etc/hostname", "checkpoints/../../precious.txt"])
    reslab.train(data, out=tmp_path / "run", overwrite=True, **SETTINGS)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["beginning", "later"])
def test_a_table_is_replaced_only_if_it_is_ours(place, run, data, tmp_path, capfd, monkeypatch):
    header = "path,label,prediction,probability\n"
    table = tmp_path / "table.csv"
    table.write_text(header if place == "beginning" else f"# my notes on\n{header}")
    words = ["evaluate", run.path, data, "--out", table]
    status, said = command(words, capfd, monkeypatch)
    assert status == (0 if place == "beginning" else 2), said


def test_a_link_at_a_kinds_place_in_the_cache_is_not_followed(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ("0" * 32)).write_bytes(b"x" * 100)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").symlink_to(tmp_path / "mine")
    status, _ = command(["cache", "--prune", "0"], capfd, monkeypatch)
    assert status == 0
    assert (tmp_path / "mine" / ("0" * 32)).exists()


def test_a_name_that_is_no_utf8_is_refused_before_the_training(data, run, tmp_path):
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        reslab.train(data, out=strange, **SETTINGS)
    assert not os.path.lexists(strange)
    shutil.copyfile(run.model, strange)
    pretrained = {"network": "small-resnet", "weights": strange}
    with pytest.raises(InputError, match=r"--weights .*not UTF-8"):
        reslab.train(data, out=tmp_path / "r", **SETTINGS | pretrained)
    assert not (tmp_path / "r").exists()


# What a picture may do


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "PDF"])
def test_only_the_named_formats_are_tried(kind, data, tmp_path, monkeypatch):
    """An EPS would start Ghostscript from the PATH."""
    trap = tmp_path / "bin"
    trap.mkdir()
    (trap / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (trap / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{trap}{os.pathsep}{os.environ['PATH']}")
    held = io.BytesIO()
    picture(0, 0, (32, 32)).save(held, kind)
    with pytest.raises(UnreadablePictureError, match="not a picture in a known format"):
        decode(held.getvalue(), 3)
    (data / "train" / "猫" / "x.jpg").write_bytes(held.getvalue())
    with pytest.raises(InputError, match=r"x\.jpg"):
        reslab.train(data, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_the_named_formats_are_read(kind):
    held = io.BytesIO()
    picture(0, 0, (32, 40)).save(held, kind)
    assert decode(held.getvalue(), 3).shape == (3, 32, 40)


def many_scans(count):
    """A progressive JPEG of 6,000 x 6,000 pixels whose last scan stands there `count` times."""
    held = io.BytesIO()
    Image.new("L", (6000, 6000), 128).save(held, "JPEG", progressive=True)
    data = held.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def sparse(path):
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(3 << 30)


def test_what_a_file_may_cost_is_bounded(tmp_path):
    with pytest.raises(UnreadablePictureError, match="too many scans"):
        decode(many_scans(1000), 3)
    assert decode(many_scans(1), 3).shape == (3, 6000, 6000)
    started = time.monotonic()
    sparse(tmp_path / "sparse.png")
    with pytest.raises(OSError, match="larger than"):
        Folder(tmp_path).read("sparse.png")
    zeros = tmp_path / "zeros.zip"
    with (
        zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros.png", "w") as member,
    ):
        for _ in range(LARGEST_FILE // (1 << 20) + 1):
            member.write(bytes(1 << 20))
    with pytest.raises(OSError, match="larger than"):
        Archive(zeros).read("zeros.png")
    lying = zeros.read_bytes().replace(
        (LARGEST_FILE + (1 << 20)).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    )
    (tmp_path / "lying.zip").write_bytes(lying)
    with pytest.raises(OSError, match=r"larger than|damaged"):
        Archive(tmp_path / "lying.zip").read("zeros.png")
    assert time.monotonic() - started < 30


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_what_a_text_or_a_profile_unpacks_to_is_bounded(kind):
    held = io.BytesIO()
    picture(0, 0, (16, 16)).save(held, "PNG")
    png = held.getvalue()
    bomb = zlib.compress(bytes(300_000_000), 9)
    content = {
        b"zTXt": b"note\0\0" + bomb, b"iTXt": b"note\0\1\0\0\0" + bomb, b"iCCP": b"icc\0\0" + bomb
    }[kind]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UnreadablePictureError):
        decode(png[:33] + chunk(kind, content) + png[33:], 3)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100_000  # KiB


def test_a_picture_too_thin_to_be_cropped_is_refused():
    from reslab.pictures.preprocessing import Preprocessing

    crop = Preprocessing(size=(224, 224), mode="crop", channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    held = io.BytesIO()
    Image.new("L", (1_000_000, 1)).save(held, "PNG")
    with pytest.raises(UnreadablePictureError, match="too long and thin"):
        crop.read(held.getvalue())
    assert crop.model_copy(update={"mode": "letterbox"}).read(held.getvalue()).shape[0] == 3


# What may stand in a file's place


@pytest.mark.parametrize(
    "words",
    ["train PIPE.zip", "train PIPE.txt", "train GOOD --recipe PIPE.toml", "train GOOD --out PIPE",
     "preview GOOD --out PIPE.png", "evaluate RUN GOOD --out PIPE.csv", "resume PIPED",
     "predict PIPED PICTURE", "predict PIPE.safetensors PICTURE", "predict RUN PIPE.jpg",
     "summary PIPE.safetensors", "train GOOD --network resnet18 --weights PIPE.pth"],
)  # fmt: skip
def test_nothing_waits_for_a_pipe(words, run, data, tmp_path, capfd, monkeypatch):
    for suffix in ("", ".zip", ".txt", ".toml", ".png", ".csv", ".safetensors", ".jpg", ".pth"):
        os.mkfifo(tmp_path / f"PIPE{suffix}")
    shutil.copytree(run.path, tmp_path / "PIPED")
    for name in ("run.json", "model.safetensors"):
        (tmp_path / "PIPED" / name).unlink()
        os.mkfifo(tmp_path / "PIPED" / name)
    monkeypatch.chdir(tmp_path)
    places = {"GOOD": data, "RUN": run.path, "PICTURE": next(data.rglob("*.png"))}
    signal.alarm(60)  # what waits is killed, and the test run with it
    status, said = command([places.get(word, word) for word in words.split()], capfd, monkeypatch)
    signal.alarm(0)
    assert status == 2, said


def test_a_cache_full_of_pipes_and_folders_costs_time_alone(data, tmp_path, monkeypatch):
    from reslab.pictures import remembered

    monkeypatch.setattr(remembered, "WORTH_KEEPING", 1)
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    first = reslab.train(data, out=tmp_path / "first", **SETTINGS)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    for number, path in enumerate(kept):
        path.unlink()
        if number % 2:
            path.mkdir()
        else:
            os.mkfifo(path)
    signal.alarm(60)
    second = reslab.train(data, out=tmp_path / "second", **SETTINGS)
    signal.alarm(0)
    assert equal(weights_of(first), weights_of(second))


@pytest.mark.parametrize(
    "content", ["null", "[]", "{}", "[NaN, \"bf16\", \"why\"]", "[1e999, null, null]", "[" * 90_000,
                "[-1, \"bf16\", \"\"]", "[0, 1, 2, 3]", "9" * 5000, "\"text\"", "\0"],
)  # fmt: skip
def test_a_measurement_of_garbage_is_made_again(content, tmp_path):
    from reslab.learning.precision import _recall

    place = tmp_path / "measured.json"
    place.write_text(content)
    assert _recall(place) == (None, None)


@pytest.mark.parametrize("content", ["nan", "inf", "-inf", "", "text", "1" * 1000, "\udcff"])
def test_an_error_of_garbage_is_not_known(content, tmp_path):
    (tmp_path / "relative_error").write_text(content, "utf-8", "surrogateescape")
    assert FeatureStore(tmp_path, (3,), "<f4").recall_error() is None


# One number for one model


def test_a_run_in_bf16_scores_as_evaluate_does(split_photos, tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    weights = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    fields = {"preprocess.size": 32, "augment.resize": 36, "train_from": "head"}
    run = reslab.train(
        split_photos, recipe="photos-resnet152", network="resnet18", weights=weights, seed=1,
        epochs=4, out=tmp_path / "run", precision="bf16", fields=fields, quiet=True,
    )  # fmt: skip
    assert run.info["features"]["precision"] == "bf16"
    assert run.info["features"]["relative_error"] > 1e-4
    for split, score in (("test", run.test), ("validation", run.validation)):
        found = reslab.evaluate(run.path, split_photos, split=split, quiet=True)
        assert found.loss == pytest.approx(score["loss"], rel=1e-6)
        assert found.score.correct == score["correct"]


# Records that were edited

EDITS = [None, 7, -1.5, "text", [], {}, [1], {"a": 1}, True, "\ud800"]


def test_any_edit_of_run_json_is_a_message_or_nothing(stopped):
    """Each field left out and of each other kind; what goes on must go on as before."""
    place = stopped / "run.json"
    text = place.read_text("utf-8")
    info = json.loads(text)
    refused = 0
    for name in info:
        for edit in ("left out", *EDITS):
            changed = {key: value for key, value in info.items() if key != name}
            if edit != "left out":
                changed[name] = edit
            place.write_text(json.dumps(changed), "utf-8")
            try:
                open_run(stopped)
            except InputError as error:
                refused += str(place) in str(error)
    place.write_text(text, "utf-8")
    assert refused > 7 * len(info) - 60
    assert reslab.resume(stopped, quiet=True).finished


@pytest.mark.parametrize(
    "line", [b"garbage", b"[]", b"null", b"{}", b'{"epoch": "x"}', b'{"epoch": [1]}', b"\xff",
             b"[" * 100_000, b'{"epoch": 0, "train_loss": {}}'],
)  # fmt: skip
def test_a_history_of_garbage_is_named_by_its_line(line, data, tmp_path):
    run = reslab.train(data, out=tmp_path / "run", **SETTINGS | {"fields": CONSTANT})
    path = run.path / "history.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes().splitlines()[1] + b"\n")
    with pytest.raises(InputError, match=r"history\.jsonl:1: no line of a run's history"):
        reslab.resume(run.path, epochs=3, quiet=True)


ODD = {
    "nested": ("train DATA --recipe nested.toml", "nested.toml"),
    "endless number": ("train DATA --recipe endless.toml", "endless.toml"),
    "nobody's home": ("train ~nobodyatall/x", "~nobodyatall"),
    "nobody's out": ("predict ~nobodyatall/x DATA", "~nobodyatall"),
    "circle": ("train circle", "circle"),
    "circle of a list": ("train circle.txt", "circle.txt"),
    "rate": ("train DATA --lr 1e308", "lr"),
    "rate by name": ("train DATA --optimizer.lr inf", "lr"),
    "epochs": (f"train DATA --epochs {10**20}", "epochs"),
    "seed": (f"train DATA --seed {10**30}", "seed"),
    "batch": (f"train DATA --batch-size {10**20}", "batch"),
    "views": (f"train DATA --views {10**20}", "views"),
    "split": ("train DATA --split.validation 1e300", "validation"),
    "classes": ("summary small-resnet --classes 999999999999", "--classes"),
    "prune": ("cache --prune x", "no size"),
    "absolute zip": ("train absolute.zip", "absolute.zip"),
    "climbing zip": ("train climbing.zip", "climbing.zip"),
    "empty name": ("train unnamed.zip", "unnamed.zip"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_things_are_one_message(what, data, tmp_path, capfd, monkeypatch):
    words, said = ODD[what]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nested.toml").write_text("a = " + "[" * 50_000 + "]" * 50_000)
    (tmp_path / "endless.toml").write_text("epochs = " + "9" * 50_000)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "circle.txt").symlink_to(tmp_path / "circle.txt")
    for name, member in (("absolute", "/a/x.png"), ("climbing", "../a/x.png"), ("unnamed", "")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(member), b"x")
    status, printed = command(words.replace("DATA", str(data)).split(), capfd, monkeypatch)
    assert status == 2, printed
    assert said in printed
    assert printed.count("reslab: error:") == 1


def test_a_size_beyond_all_disks_is_a_size(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path))
    for size in ("9" * 20, "9" * 400, "99999999TB"):
        assert command(["cache", "--prune", size], capfd, monkeypatch)[0] == 0


# Python


@pytest.mark.parametrize(
    "wrong", [None, 7, 1.5, object(), torch.zeros(3, 4, 4), torch.zeros(()), np.zeros((4, 4)),
              np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8), "a\0b",
              np.zeros((0, 3), np.uint8), np.zeros(5, np.uint8), b"", [None], [[]], {},
              bytearray(3),
              Image.new("RGB", (0, 5))],
    ids=lambda wrong: f"{type(wrong).__name__}{getattr(wrong, 'shape', '')}",
)  # fmt: skip
def test_what_is_no_picture_is_told_what_is(wrong, run):
    classifier = reslab.Classifier.load(run.path, "cpu")
    try:
        found = classifier.predict(wrong)
    except InputError:
        return
    assert found == []  # of nothing, nothing
    assert len(wrong) == 0


def test_a_closed_picture_is_told_so(run, data):
    path = next(data.rglob("*.png"))
    closed = Image.open(path)
    closed.close()
    with pytest.raises(InputError, match="cannot be converted"):
        reslab.Classifier.load(run.path, "cpu").predict(closed)


def test_arrays_are_pictures(run, data):
    path = next(data.rglob("*.png"))
    classifier = reslab.Classifier.load(run.path, "cpu")
    with Image.open(path) as opened:
        colour = np.asarray(opened.convert("RGB"))
        grey = np.asarray(opened.convert("L"))
        of_grey = classifier.predict(opened.convert("L"))
    found, expected = classifier.predict(colour), classifier.predict(path)
    assert (found.label, found.probability) == (expected.label, expected.probability)
    assert classifier.predict(grey).top == of_grey.top
    assert classifier.predict([colour, path])[0].label == found.label
    assert classifier.predict(colour[:, ::-1]).label  # of any strides


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("place", ["default_recipe", "prepare", "_judge", "announce"])
def test_a_signal_anywhere_leaves_by_the_same_door(
    number, place, data, tmp_path, capfd, monkeypatch
):
    home = publishing if place == "_judge" else training
    original = getattr(home, place)

    def signalled(*given, **named):
        os.kill(os.getpid(), number)
        return original(*given, **named)

    whole = reslab.train(data, out=tmp_path / "whole", **SETTINGS)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have set it otherwise
    monkeypatch.setattr(home, place, signalled)
    words = ["train", data, "--out", tmp_path / "run", "--seed", 1, "--epochs", 2]
    # What goes to a closed terminal is lost, and standard error may be one here.
    with contextlib.suppress(ValueError):
        status, said = command([*words, "--batch-size", 8, "--quiet"], capfd, monkeypatch)
    signal.signal(signal.SIGHUP, hangup)
    assert status == 128 + number
    assert said.count("reslab: stopped:") == 1
    monkeypatch.setattr(home, place, original)
    if place in ("_judge", "announce"):
        run = reslab.resume(tmp_path / "run", quiet=True)
        assert equal(weights_of(run), weights_of(whole))
        assert run.test == whole.test


def test_what_nohup_ignores_stays_ignored(data, tmp_path, capfd, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    original = training.prepare

    def signalled(*given, **named):
        os.kill(os.getpid(), signal.SIGHUP)
        return original(*given, **named)

    monkeypatch.setattr(training, "prepare", signalled)
    words = ["train", data, "--out", tmp_path / "run", "--epochs", 1, "--quiet"]
    status, said = command(words, capfd, monkeypatch)
    signal.signal(signal.SIGHUP, before)
    assert status == 0, said


def test_open_pictures_of_nothing_is_nothing(tmp_path):
    with pytest.raises(InputError, match="DATA: no such"):
        open_pictures("")
