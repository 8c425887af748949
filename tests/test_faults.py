"""Kill it anywhere: what a run leaves behind is whole, and going on gives the same to the last bit.

The short form runs with the suite; RESLAB_LONG=1 runs the whole numbers.
"""

import contextlib
import errno
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import reslab
import reslab.cli
from drawn_pictures import CLASSES, fill, picture
from reslab import disk as writing
from reslab.errors import InputError
from reslab.learning.state import TrainingState
from reslab.networks.model_file import load_model, read_tensors, tensor_file
from reslab.pictures import reading
from reslab.pictures.decoding import UnreadablePictureError, decode
from reslab.pictures.pixel_file import PixelWriter
from reslab.pictures.preprocessing import Preprocessing
from reslab.recipes.recipe import Recipe
from reslab.run.checkpoint import load_checkpoint, save_checkpoint
from reslab.run.folder import Run, open_run
from reslab.run.looks import looks_of
from reslab.training import session, training

LONG = os.environ.get("RESLAB_LONG") == "1"
TIMED = {"seconds", "evaluate_seconds"}


def many(short, whole):
    return whole if LONG else short


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """72 pictures of 3 classes, in folders with Chinese names."""
    folder = tmp_path_factory.mktemp("faults") / "数据"
    fill(folder / "train", 18)
    fill(folder / "test", 6, start=100)
    return folder


def configurations(weights):
    """Command-line words of runs that differ in what their state holds."""
    photos = ["--recipe", "photos-resnet152", "--network", "resnet18", "--weights", str(weights),
              "--preprocess.size", "32", "--augment.resize", "36"]  # fmt: skip
    return {
        "augmented": ["--augment.rotate", "20", "--augment.flip-horizontal", "0.5",
                      "--optimizer.momentum", "0.9"],
        "schedule": ["--schedule.name", "one-cycle", "--optimizer.name", "adamw", "--lr", "0.001",
                     "--optimizer.nesterov", "false"],
        "muon": ["--recipe", "cifar10-fast", "--preprocess.size", "16", "--batch-size", "12",
                 "--micro-batch", "6", "--split.validation", "0.1", "--precision", "fp32"],
        "means": ["--mix.mixup", "0.4", "--mix.cutmix", "1", "--augment.policy", "trivial-wide",
                  "--augment.erase", "0.5", "--optimizer.clip-norm", "0.5", "--drop-path", "0.3",
                  "--progressive.start", "0.5", "--progressive.multiple", "4", "--patience", "1",
                  "--ema-decay", "0.9", "--micro-batch", "3", "--precision", "fp32"],
        "frozen": [*photos, "--train-from", "head", "--views", "2"],
        "solved": [*photos, "--train-from", "head", "--head", "solved"],
        "photos from files": ["--network", "mnist-cnn", "--preprocess.channels", "1",
                              "--preprocess.size", "28", "--augment.rotate", "10"],
    }  # fmt: skip


# Children are forked from a server that has imported all there is to import.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["reslab.training.training", "torch._dynamo", "torchvision", "captum.attr", "sklearn.metrics"]
)


def no_room_for(*given):
    raise OSError(errno.ENOSPC, "no room")


def _child(words, saving, cache, no_room):
    os.setsid()
    os.environ["RESLAB_CACHE"] = cache
    torch.set_num_threads(1)
    if no_room:  # decoded in every epoch, by threads
        reading.memory_budget = lambda: 0
        from reslab.pictures import store

        store.memory_budget = lambda: 0
        PixelWriter.__init__ = no_room_for
    original = writing._write_beside

    def told(path, content):
        saving.send_bytes(b"saving")
        time.sleep(0.002)
        found = original(path, content)
        time.sleep(0.002)
        return found

    writing._write_beside = told
    sys.argv = ["reslab", *words]
    sys.stderr = sys.stdout = io.StringIO()
    from reslab.cli import main

    main()
    sys.exit(0)


class Child:
    def __init__(self, words, *, no_room=False):
        self.saving, saving = _server.Pipe(duplex=False)
        given = (words, saving, os.environ["RESLAB_CACHE"], no_room)
        self.process = _server.Process(target=_child, args=given)
        self.process.start()
        saving.close()

    def stop(self, number, moment, chance):
        """Send a signal at a moment: after so many seconds, or while something is being saved."""
        if moment is None:
            with contextlib.suppress(EOFError):  # it has ended
                for _ in range(chance.randrange(1, 9)):
                    self.saving.recv_bytes()
            time.sleep(chance.random() * 0.006)
        else:
            time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return self.ended()

    def ended(self):
        self.process.join(120)
        assert not self.process.is_alive()
        return self.process.exitcode


def outcome(folder):
    """All that must be the same of two runs: weights, optimiser, metrics, history, predictions,
    the temperature (which the model file holds), the report, and how often the test was looked at.
    """
    run = open_run(folder)
    tensors, header = read_tensors(run.last_checkpoint)
    progress = {key: value for key, value in header["progress"].items() if "seconds" not in key}
    history = [{key: line[key] for key in line.keys() - TIMED} for line in run.history]
    scores = run.info["test"], run.info["validation"], run.info["best_epoch"]
    state = {key: value.numpy().tobytes() for key, value in tensors.items()}
    files = [
        (run.path / name).read_bytes() for name in (run.model, "predictions.csv", "report.html")
    ]
    return state, progress, history, scores, files, len(looks_of(run.path))


def words_of(data, out, more):
    return ["train", str(data), "--out", str(out), "--seed", "3", "--epochs", "3", "--quiet",
            *(() if "--batch-size" in more else ("--batch-size", "8")),
            "--checkpoint-every", "2steps", *more]  # fmt: skip


def go_on(data, out, more, **child):
    """The command a user would give next."""
    if (out / "run.json").exists():
        return Child(["resume", str(out), "--quiet"], **child)
    return Child([*words_of(data, out, more), "--overwrite"], **child)


@pytest.mark.parametrize(
    "name", ["augmented", "schedule", "muon", "means", "frozen", "solved", "photos from files"]
)
def test_killed_at_any_instant_the_run_ends_the_same(data, weights, tmp_path, monkeypatch, name):
    """SIGKILL at random instants, every third while a file is being written."""
    chance = random.Random(name)
    more = configurations(weights)[name]
    assert Child(["recipes"]).ended() == 0  # the server has started
    child = {"no_room": name == "photos from files"}
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    started = time.perf_counter()
    assert Child(words_of(data, tmp_path / "whole", more), **child).ended() == 0
    length = time.perf_counter() - started
    expected = outcome(tmp_path / "whole")
    kills = saves = 0
    series = 0
    while kills < many(3, 36):
        series += 1
        out = tmp_path / f"killed-{series}"
        monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / f"cache-{series}"))
        running = go_on(data, out, more, **child)
        for _ in range(3):
            moment = None if chance.random() < 0.4 else chance.random() * length
            if running.stop(signal.SIGKILL, moment, chance) == -signal.SIGKILL:
                kills += 1
                saves += moment is None
            running = go_on(data, out, more, **child)
        if running.ended() != 0:  # killed before it had a folder, it began anew
            running = go_on(data, out, more, **child)
            assert running.ended() == 0
        assert outcome(out) == expected, (name, series)
        assert not list(out.rglob("*.tmp"))
        shutil.rmtree(out)
    print(f"{name}: {kills} kills, {saves} of them while saving, in {series} runs")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_in_time(data, weights, tmp_path, monkeypatch, number, status):
    chance = random.Random(int(number))
    assert Child(["recipes"]).ended() == 0
    more = configurations(weights)["augmented"]
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    started = time.perf_counter()
    assert Child(words_of(data, tmp_path / "whole", more)).ended() == 0
    length = time.perf_counter() - started
    expected = outcome(tmp_path / "whole")
    stopped = tries = 0
    while stopped < many(2, 50):
        tries += 1
        out = tmp_path / f"stopped-{tries}"
        running = Child(words_of(data, out, more))
        while not (out / "checkpoints" / "last.safetensors").exists():
            time.sleep(0.005)
            assert running.process.is_alive()
        began = time.perf_counter()
        code = running.stop(number, chance.random() * length / 2, chance)
        assert time.perf_counter() - began < 10 + length
        if code == 0:
            continue  # it had ended before
        if code == status:  # not on its way from one phase to the next
            stopped += 1
        assert code in (status, -number), code
        sessions = [
            path.read_text().rpartition(")")[2].split()[3]
            for path in Path("/proc").glob("[0-9]*/stat")
        ]
        assert str(running.process.pid) not in sessions  # no orphan
        assert go_on(data, out, more).ended() == 0
        assert outcome(out) == expected
        shutil.rmtree(out)


def test_a_run_goes_on_from_every_step(data, tmp_path, monkeypatch):
    """Two epochs of 51 steps, each step a place to go on from, read by 1, 2 and 4 threads."""
    fields = {"augment.rotate": 20, "preprocess.channels": 1, "preprocess.size": 28,
              "optimizer.momentum": 0.9, "split.validation": 3}  # fmt: skip
    settings = {"epochs": 2, "batch_size": 1, "seed": 5, "quiet": True, "network": "mnist-cnn",
                "checkpoint_every": "1step", "fields": fields}  # fmt: skip
    kept = tmp_path / "kept"
    original, steps = session.save_checkpoint, itertools.count()

    def keeping(run, *given):
        original(run, *given)
        shutil.copytree(run.path, kept / str(next(steps)))

    monkeypatch.setattr(session, "save_checkpoint", keeping)
    whole = reslab.train(data, out=tmp_path / "whole", **settings)
    monkeypatch.setattr(session, "save_checkpoint", original)
    expected = outcome(whole.path)
    folders = sorted(kept.iterdir(), key=lambda path: int(path.name))
    assert len(folders) > 102
    for number, folder in enumerate(folders[:: many(17, 1)]):
        monkeypatch.setattr(reading.os, "cpu_count", lambda n=(1, 2, 4)[number % 3]: n)
        reslab.resume(folder, quiet=True)
        assert outcome(folder) == expected, folder.name


def test_a_chain_of_resumes(data, tmp_path, monkeypatch):
    settings = {"epochs": 2, "batch_size": 4, "seed": 5, "quiet": True}
    expected = outcome(reslab.train(data, out=tmp_path / "whole", **settings).path)
    original = training.train_epochs

    def a_few(*given):
        for count, event in enumerate(original(*given)):
            if count == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    monkeypatch.setattr(training, "train_epochs", a_few)
    with pytest.raises(reslab.errors.InterruptedRunError):
        reslab.train(data, out=tmp_path / "r", **settings)
    for threads in (1, 2, 4, 1, 2):
        monkeypatch.setattr(reading.os, "cpu_count", lambda n=threads: n)
        with contextlib.suppress(reslab.errors.InterruptedRunError):
            reslab.resume(tmp_path / "r", quiet=True)
    monkeypatch.setattr(training, "train_epochs", original)
    reslab.resume(tmp_path / "r", quiet=True)
    assert outcome(tmp_path / "r") == expected


# Faults while saving


def small_state(value):
    network = torch.nn.Linear(4, 2)
    torch.nn.init.constant_(network.weight, value)
    state = TrainingState(network, torch.optim.SGD(network.parameters(), 0.1))
    state.progress.epoch = value
    return state


class Failing:
    """The operations of a save, in their order; the one of this number fails."""

    def __init__(self, monkeypatch, number, code, offset=None):
        self.count = 0
        self.names = []
        opened, replaced, unlinked = Path.open, Path.replace, Path.unlink

        def at(name, work, *given, **more):
            self.names.append(name)
            self.count += 1
            if self.count == number:
                raise OSError(code, os.strerror(code))
            return work(*given, **more)

        class File:
            """A file whose writes are counted, and may fail at a byte."""

            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *given):
                self.file.close()

            def __getattr__(self, name):
                return getattr(self.file, name)

            def write(self, content):
                if offset is not None and len(content) > offset:
                    self.file.write(content[:offset])
                    raise OSError(code, os.strerror(code))
                return at("write", self.file.write, content)

        def open_(path, mode="r", *given, **more):
            if "w" in mode:
                return File(at("open", opened, path, mode, *given, **more))
            return opened(path, mode, *given, **more)

        monkeypatch.setattr(Path, "open", open_)
        monkeypatch.setattr(Path, "replace", lambda *given: at("rename", replaced, *given))
        monkeypatch.setattr(Path, "unlink", lambda *given, **m: at("unlink", unlinked, *given, **m))
        synced = os.fsync
        monkeypatch.setattr(writing.os, "fsync", lambda n: at("fsync", synced, n))


def save_failing(tmp_path, number, code, offset=None):
    """(names of the operations, the error) of a save over two sound ones, one operation failing."""
    run = Run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    (tmp_path / "checkpoints").mkdir(parents=True)
    for value in (1, 2):
        save_checkpoint(run, small_state(value), Recipe(), "data")
    said = None
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, number, code, offset)
        try:
            save_checkpoint(run, small_state(3), Recipe(), "data")
        except OSError as error:
            said = error
    found = small_state(0)
    load_checkpoint(run, found, Recipe(), "data")
    assert found.progress.epoch in (2, 3)
    assert float(found.network.weight.detach()[0, 0]) == found.progress.epoch
    save_checkpoint(run, small_state(4), Recipe(), "data")  # the next one is not hindered
    load_checkpoint(run, found, Recipe(), "data")
    assert found.progress.epoch == 4
    return failing.names, said


def test_a_fault_in_any_operation_of_a_save_leaves_a_sound_checkpoint(tmp_path):
    names, said = save_failing(tmp_path, 0, 0)
    assert names == ["open", "write", "fsync", "rename", "rename", "fsync"]
    assert said is None
    for code in (errno.ENOSPC, errno.EIO, errno.EACCES):
        for number in range(1, len(names) + 1):
            _, said = save_failing(tmp_path, number, code)
            assert said.errno == code
            assert said.filename.endswith("last.safetensors")


def test_a_disk_that_fills_at_any_byte_leaves_a_sound_checkpoint(tmp_path):
    size = len(tensor_file(small_state(1).network.state_dict(), {"some": "header"}))
    for offset in np.linspace(0, size - 1, 100).astype(int).tolist():
        _, said = save_failing(tmp_path, 0, errno.ENOSPC, offset)
        assert said.errno == errno.ENOSPC
        assert said.filename.endswith("last.safetensors")


def test_a_write_that_cannot_be_read_back_is_a_fault(tmp_path, monkeypatch):
    run = Run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(run, small_state(1), Recipe(), "data")
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: original(path)[:-1] + b"?")
    with pytest.raises(OSError, match="read back"):
        save_checkpoint(run, small_state(2), Recipe(), "data")
    monkeypatch.undo()
    found = small_state(0)
    assert load_checkpoint(run, found, Recipe(), "data") is None
    assert found.progress.epoch == 1


def test_a_damaged_checkpoint_gives_way_to_the_one_before(data, tmp_path, capsys):
    settings = {"epochs": 4, "batch_size": 16, "seed": 1, "fields": {"schedule.name": "constant"}}
    whole_run = reslab.train(data, out=tmp_path / "w", quiet=True, **settings)
    *whole, files, looks = outcome(whole_run.path)
    reslab.train(data, out=tmp_path / "r", quiet=True, **(settings | {"epochs": 2}))
    last = tmp_path / "r" / "checkpoints" / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    capsys.readouterr()
    reslab.resume(tmp_path / "r", epochs=4, quiet=True)
    said = capsys.readouterr().err
    assert "damaged" in said
    assert "going on from previous.safetensors" in said
    *found, own_files, own_looks = outcome(tmp_path / "r")
    assert found == whole
    assert own_files[:2] == files[:2]
    assert (own_looks, looks) == (
        2,
        1,
    )  # it was scored after two epochs too, and its report says so


# Damaged and hostile files


def test_every_truncation_and_flipped_bit_is_noticed(run, tmp_path):
    chance = random.Random(1)
    for path, load in (
        (run.model, load_model), (run.last_checkpoint, read_tensors)
    ):  # fmt: skip
        whole, damaged = path.read_bytes(), tmp_path / path.name
        lengths = {0, 1, 7, 8, 9, len(whole) - 1}
        lengths |= {chance.randrange(len(whole)) for _ in range(many(30, 500))}
        for length in lengths:
            damaged.write_bytes(whole[:length])
            with pytest.raises(InputError):
                load(damaged)
        header = int.from_bytes(whole[:8], "little") + 8
        bits = [chance.randrange(8 * header) for _ in range(many(150, 2500))]
        bits += [chance.randrange(8 * len(whole)) for _ in range(many(150, 2500))]
        for bit in bits:
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            damaged.write_bytes(content)
            with pytest.raises(InputError):
                load(damaged)


class Bomb:
    """A pickle that leaves a file behind if it is ever opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def hostile_files(run, folder):
    """Model files that are to be refused, by name."""
    mark = folder / "executed"
    tensors, header = read_tensors(run.model)
    whole = run.model.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    layout = json.loads(whole[8 : 8 + length])
    body = whole[8 + length :]

    def laid_out(text, body=body):
        text = text if isinstance(text, bytes) else json.dumps(text).encode()
        return struct.pack("<Q", len(text)) + text + body

    first = next(key for key in layout if key != "__metadata__")
    begin, end = layout[first]["data_offsets"]

    def changed(**fields):
        return laid_out(layout | {first: layout[first] | fields})

    def said(**fields):
        return tensor_file(tensors, header | fields)

    files = {f"pickle protocol {p}": pickle.dumps(Bomb(mark), protocol=p) for p in range(6)}
    for name, old in (("torch zip", False), ("torch legacy", True)):
        buffer = io.BytesIO()
        torch.save({"model": Bomb(mark)}, buffer, _use_new_zipfile_serialization=not old)
        files[name] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    files["numpy object"] = buffer.getvalue()
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        inside = tarfile.TarInfo("pickle")
        inside.size = len(files["pickle protocol 2"])
        archive.addfile(inside, io.BytesIO(files["pickle protocol 2"]))
    files["torch tar"] = buffer.getvalue()
    files |= {f"header length {n}": struct.pack("<Q", n) + whole[8:] for n in (
        0, 1, length - 1, length + 1, len(whole), 2**31, 2**63, 2**64 - 1)}  # fmt: skip
    twice = json.dumps(layout[first])
    files |= {
        "header no JSON": laid_out(b"{" + b"x" * 50),
        "header a list": laid_out(b"[]" + b" " * 6),
        "header null": laid_out(b"null    "),
        "header deep": laid_out(b"[" * 100_000),
        "header not UTF-8": laid_out(b'{"\xff\xfe": 1}'),
        "tensor twice": laid_out(
            json.dumps(layout)[:-1].encode() + f', "{first}": {twice}}}'.encode()
        ),
        "overlap": changed(data_offsets=[max(0, begin - 4), max(0, begin - 4) + end - begin]),
        "beyond the end": changed(data_offsets=[len(body), len(body) + end - begin]),
        "offsets turned round": changed(data_offsets=[end, begin]),
        "offsets negative": changed(data_offsets=[-4, end]),
        "offsets huge": changed(data_offsets=[0, 2**62]),
        "offsets text": changed(data_offsets="all"),
        "shape of another size": changed(shape=[3]),
        "shape huge": changed(shape=[2**62, 2**62]),
        "shape negative": changed(shape=[-1]),
        "dtype unknown": changed(dtype="F128"),
        "dtype other": changed(dtype="I32"),
        "tail": whole + b"PK" * 10,
        "nothing": b"",
        "zeros": bytes(1000),
        "text": b"a model" * 100,
        "html": b"<html><script>alert(1)</script></html>",
        "bare safetensors": safetensors.torch.save(tensors),
        "metadata no JSON": safetensors.torch.save(tensors, {"reslab": "{"}),
        "metadata a key twice": safetensors.torch.save(
            tensors, {"reslab": json.dumps(header)[:-1] + ', "classes": ["a", "b"]}'}
        ),
        "metadata deep": safetensors.torch.save(tensors, {"reslab": "[" * 100_000}),
        "without a checksum": safetensors.torch.save(tensors, {"reslab": json.dumps(header)}),
        "no classes": said(classes=[]),
        "one class": said(classes=["a"]),
        "a class twice": said(classes=["a", "a", "b"]),
        "classes no text": said(classes=[1, 2, 3]),
        "classes too many": said(classes=[str(n) for n in range(1000)]),
        "a class that steers the terminal": said(classes=["\x1b[2J", "b", "c"]),
        "a class of two lines": said(classes=["a\nb", "b", "c"]),
        "network unknown": said(network="os.system"),
        "network a path": said(network="../../etc/passwd"),
        "network no text": said(network=5),
        "network from a hub": said(network="hf-hub:someone/evil"),
        "network from a folder": said(network="local-dir:/tmp"),
        "size huge": said(size=[10**9, 10**9]),
        "size zero": said(size=[0, 0]),
        "size text": said(size="large"),
        "channels 7": said(channels=7),
        "format 2": said(format=2),
        "no preprocessing": said(preprocessing=None),
        "preprocessing more": said(preprocessing=header["preprocessing"] | {"run": "rm"}),
        "std zero": said(preprocessing=header["preprocessing"] | {"std": [0, 0, 0]}),
        "averaging unknown": said(averaging="eval"),
    }
    some = next(key for key, value in tensors.items() if value.is_floating_point())
    for name, value in (
        ("NaN", torch.full_like(tensors[some], torch.nan)),
        ("infinity", torch.full_like(tensors[some], torch.inf)),
        ("another shape", torch.zeros(3)),
        ("another type", tensors[some].double()),
        ("empty", torch.zeros(0)),
    ):
        files[f"tensor {name}"] = tensor_file(tensors | {some: value}, header)
    files["tensor missing"] = tensor_file(
        {key: value for key, value in tensors.items() if key != some}, header
    )
    files["tensor more"] = tensor_file(tensors | {"__class__": torch.zeros(1)}, header)
    return files, mark


def test_hostile_model_files_are_refused_by_one_message(run, tmp_path, capfd, monkeypatch):
    from reslab.cli import main

    files, mark = hostile_files(run, tmp_path)
    assert len(files) > 60
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        monkeypatch.setattr(sys, "argv", ["reslab", "predict", str(path), str(path)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr().err
        assert ended.value.code == 2, name
        assert said.count("reslab: error: ") == 1, (name, said)
        assert path.name in said, (name, said)
        assert "Traceback" not in said
        assert "\x1b" not in said
    assert not mark.exists()


@pytest.mark.parametrize("length", [0x0180, 0x0280, 0x4B50])
def test_a_header_of_any_length_is_no_pickle(tmp_path, length):
    """The first bytes of a safetensors file are its header's length, whatever they look like."""
    content = tensor_file({"weight": torch.ones(3)}, {"format": 1})
    own = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + own].ljust(length)  # spaces at its end are allowed
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + content[8 + own :])
    from reslab.networks.pretrained import read_state

    assert torch.equal(read_tensors(path)[0]["weight"], torch.ones(3))
    assert torch.equal(read_state(path)["weight"], torch.ones(3))


def test_names_with_markup_are_shown_as_they_are(tmp_path):
    """Classes that matplotlib, rich and HTML would each read their own way."""
    names = ["[red]a[bold]", "$x^{", "<b>猫"]
    fill(tmp_path / "d", 8)
    for old, new in zip(sorted((tmp_path / "d").iterdir()), names, strict=True):
        old.rename(old.with_name(new))
    run = reslab.train(tmp_path / "d", out=tmp_path / "r", epochs=1, batch_size=8)
    some = next((tmp_path / "d").rglob("*.png"))
    guess = reslab.Classifier.load(run.path).predict(some)
    assert {one.label for one in guess.top} == set(names)


# Damaged pictures


def mutated(chance, samples):
    content = bytearray(chance.choice(samples))
    kind = chance.randrange(3)
    if kind == 0:
        return bytes(content[: chance.randrange(len(content))])
    area = len(content) if kind == 1 else min(64, len(content))
    for _ in range(chance.choice((1, 1, 2, 8))):
        content[chance.randrange(area)] ^= 1 << chance.randrange(8)
    return bytes(content)


def pictures_of_six_formats():
    samples = []
    for number, mode in enumerate(("RGB", "L", "P")):
        one = picture(number, number, (150, 180)).convert(mode)
        for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
            buffer = io.BytesIO()
            (one.convert("RGB") if mode == "P" and form in ("JPEG", "WEBP") else one).save(
                buffer, form
            )
            samples.append(buffer.getvalue())
    return samples


def test_mutated_pictures_never_crash_and_get_one_verdict():
    """Truncations, flipped bits, edited headers of six formats: as train and predict read them."""
    chance = random.Random(7)
    samples = pictures_of_six_formats()
    record = Preprocessing(size=(64, 64), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good = 0
    for _ in range(many(1500, 20_000)):
        content = mutated(chance, samples)
        verdicts = []
        for read in (lambda c: decode(c, 3, 128), record.read, lambda c: decode(c, 1)):
            began = time.perf_counter()
            try:
                read(content)
                verdicts.append(True)
            except UnreadablePictureError:
                verdicts.append(False)
            assert time.perf_counter() - began < 2
        assert len(set(verdicts)) == 1
        good += verdicts[0]
    assert good > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 512 * 1024


def test_the_doctor_looks_at_mutated_pictures(tmp_path):
    """None crashes it, and what it cannot read is what the others cannot."""
    chance = random.Random(8)
    samples = pictures_of_six_formats()
    count, unread = many(400, 20_000), set()
    for number in range(count):
        place = tmp_path / "data" / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        content = mutated(chance, samples)
        (place / f"{number}.png").write_bytes(content)
        try:
            decode(content, 3)
        except UnreadablePictureError:
            unread.add(f"{CLASSES[number % 3]}/{number}.png")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.png")}
    found = reslab.check(tmp_path / "data", out=tmp_path / "out", quiet=True)
    assert found.pictures == count
    assert {one.path for one in found.issues if one.kind == "unreadable"} == unread
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_picture_that_claims_to_be_enormous_is_refused():
    buffer = io.BytesIO()
    Image.new("L", (10, 10)).save(buffer, "BMP")
    content = bytearray(buffer.getvalue())
    content[18:26] = struct.pack("<ii", 9000, 9000)
    with pytest.raises(UnreadablePictureError, match="too large to decode safely"):
        decode(bytes(content), 3)


# Others at work


def test_two_processes_cannot_write_one_run(data, tmp_path):
    from reslab.run.lock import holding

    done = reslab.train(data, out=tmp_path / "r", epochs=1, batch_size=16, quiet=True)
    with holding(done.path, done.holder):
        for work in (
            lambda: reslab.resume(done.path, quiet=True),
            lambda: reslab.train(data, out=done.path, overwrite=True, quiet=True),
        ):
            with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on "):
                work()
    assert done.model.exists()
    assert reslab.resume(done.path, quiet=True).test == done.test


def test_a_picture_that_changes_or_vanishes_stops_the_run(tmp_path, monkeypatch):
    from reslab.pictures import store

    for what in ("changes", "vanishes"):
        folder = tmp_path / what
        fill(folder / "d", 8, size=(90, 100))
        monkeypatch.setattr(store, "memory_budget", lambda: 0)
        monkeypatch.setattr(PixelWriter, "__init__", no_room_for)
        original = training.train_epochs

        def meddling(*given, folder=folder, what=what, original=original):
            for event in original(*given):
                for path in (folder / "d").rglob("*.png"):
                    if what == "changes":
                        picture(0, 77, (90, 100)).save(path)
                    else:
                        path.unlink(missing_ok=True)
                yield event

        monkeypatch.setattr(training, "train_epochs", meddling)
        message = "changed while it was in use" if what == "changes" else "No such file"
        with pytest.raises(InputError, match=message):
            reslab.train(
                folder / "d", out=folder / "r", epochs=3, batch_size=8, quiet=True,
                network="mnist-cnn", weights="none",
                fields={"train_from": "all", "head": "trained", "preprocess.size": 28,
                        "preprocess.channels": 1},
            )  # fmt: skip
        monkeypatch.setattr(training, "train_epochs", original)
        assert open_run(folder / "r").info["status"] == "failed"
        assert read_tensors(folder / "r" / "checkpoints" / "last.safetensors")


def test_too_little_memory_is_one_message(data, tmp_path, monkeypatch):
    original = training.train_epochs

    def greedy(*given):
        yield next(original(*given))
        torch.empty(2**50)

    monkeypatch.setattr(training, "train_epochs", greedy)
    with pytest.raises(InputError, match="not enough memory"):
        reslab.train(data, out=tmp_path / "r", epochs=1, quiet=True)
    monkeypatch.setattr(training, "train_epochs", original)
    assert reslab.resume(tmp_path / "r", quiet=True).finished


@pytest.mark.parametrize("error", [InputError("a picture is gone"), MemoryError()])
def test_what_fails_at_the_very_end_is_said_of_the_run(data, tmp_path, monkeypatch, error):
    original = training.publish

    def failing(session):
        raise error

    monkeypatch.setattr(training, "publish", failing)
    with pytest.raises(InputError, match=r"a picture is gone|not enough memory"):
        reslab.train(data, out=tmp_path / "r", epochs=1, quiet=True)
    assert open_run(tmp_path / "r").info["status"] == "failed"
    monkeypatch.setattr(training, "publish", original)
    assert reslab.resume(tmp_path / "r", quiet=True).finished


def test_too_little_memory_anywhere_is_one_message(monkeypatch, capsys):
    def greedy(*given, **more):
        torch.empty(2**50)

    monkeypatch.setattr(reslab.cli, "run_command", greedy)
    monkeypatch.setattr(sys, "argv", ["reslab", "summary", "resnet18"])
    with pytest.raises(SystemExit) as ended:
        reslab.cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "reslab: error: there is not enough memory; what was saved before is kept\n"
    )


def test_a_resume_elsewhere_is_warned_of(data, tmp_path, capsys):
    settings = {"batch_size": 16, "quiet": True, "fields": {"schedule.name": "constant"}}
    run = reslab.train(data, out=tmp_path / "r", epochs=1, **settings)
    run.write_info(threads=99)
    capsys.readouterr()
    reslab.resume(run.path, epochs=2, quiet=True)
    assert "threads is" in capsys.readouterr().err
