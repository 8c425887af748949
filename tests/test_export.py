"""Exports: proven equal to prediction, or not written; and used again as models are."""

import importlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import reslab
from drawn_pictures import CLASSES, fill, picture
from reslab.cli import main
from reslab.judging.metrics import probabilities
from reslab.networks.catalogue import NetworkSpec, build_network, default_input
from reslab.networks.contract import Contract, contract_of
from reslab.networks.exported import open_session, read_exported
from reslab.networks.exported import run as run_session
from reslab.networks.model_file import Model, load_model, save_model
from reslab.pictures.preprocessing import Preprocessing
from reslab.using import exporting
from reslab.using import read_picture as reader
from reslab.using.agreement import TOLERANCE
from reslab.using.graph import as_archive, as_onnx, program
from reslab.using.quantising import cost, mcnemar

ALONE = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
from read_picture import read_picture
session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
contract = json.loads(session.get_modelmeta().custom_metadata_map["reslab"])
for path in sys.argv[2:]:
    pixels = read_picture(contract, path)
    found = session.run(None, {contract["input"]: pixels[None]})[0][0]
    print(json.dumps(dict(zip(contract["classes"], found.tolist()))))
assert "torch" not in sys.modules and "reslab" not in sys.modules
"""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A run whose contract has something of everything that can be forgotten.

    Pictures of several sizes, cropped after a bicubic resize, a temperature other than 1, views.
    """
    folder = tmp_path_factory.mktemp("uneven")
    for kind, name in enumerate(CLASSES):
        (folder / "照片" / name).mkdir(parents=True)
        for number in range(20):
            image = picture(kind, number, (30 + number % 7, 40 - number % 5))
            # Not alike in red and blue, so that their exchange can be seen.
            bands = [
                band.point(lambda v, k=k: v * (k + 3) // 5) for k, band in enumerate(image.split())
            ]
            Image.merge("RGB", bands).save(folder / "照片" / name / f"{number}.png")
    return reslab.train(
        folder / "照片", recipe="small-resnet", network="mnist-fast", out=folder / "run",
        epochs=6, quiet=True,
        fields={"preprocess.size": 24, "preprocess.mode": "crop", "averaging": "flip",
                "preprocess.interpolation": "bicubic", "preprocess.crop_fraction": 0.8,
                "split.validation": 0.3, "split.test": 0.2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(uneven, tmp_path_factory):
    """The uneven run as ONNX, in a folder with its reader."""
    return reslab.export(uneven.path, out=tmp_path_factory.mktemp("out") / "model.onnx", quiet=True)


def pictures_of(found):
    return sorted((found.path.parent / "照片").rglob("*.png"))


def test_an_export_is_predict_without_torch(uneven, exported):
    """The file and the reader beside it, alone in a process, on every picture of the data."""
    assert load_model(uneven.path).temperature != 1
    paths = pictures_of(uneven)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(exported.path.parent), *map(str, paths)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predicted = reslab.Classifier.load(uneven.path).predict(paths)
    for line, ours in zip(done.stdout.splitlines(), predicted, strict=True):
        theirs = json.loads(line)
        for guess in ours.top:
            assert theirs[guess.label] == pytest.approx(guess.probability, abs=1e-5)
        assert max(theirs, key=theirs.get) == ours.label


def test_what_an_export_says_of_itself(uneven, exported):
    assert (exported.checked, exported.top1_equal) == (uneven.validation["n"], 1)
    assert exported.largest_difference < 1e-5
    session, contract = read_exported(exported.path)
    model = load_model(uneven.path)
    assert contract == contract_of(model).model_copy(update={"sha256": contract.sha256})
    assert [end.name for end in session.get_outputs()] == ["probabilities"]
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == (
        "pixels",
        "tensor(uint8)",
        ["batch", 3, 24, 24],
    )
    assert str(Path(reslab.__file__).parent).encode() not in exported.path.read_bytes()
    again = reslab.export(uneven.path, out=exported.path, quiet=True)
    assert again.as_dict().keys() >= {
        "path", "format", "checked", "largest_difference", "top1_equal"
    }  # fmt: skip


def test_the_same_model_gives_the_same_file(exported, uneven, tmp_path):
    again = reslab.export(uneven.path, out=tmp_path / "b.onnx", quiet=True)
    assert again.path.read_bytes() == exported.path.read_bytes()


def test_an_export_is_used_as_its_model(uneven, exported):
    """Every number that prediction and evaluation give: raw, sets, unknown, metrics."""
    one, other = (reslab.Classifier.load(path) for path in (uneven.path, exported.path))
    paths = pictures_of(uneven)
    for options in ({}, {"raw": True}, {"coverage": 0.7, "unknown_below": 0.5}):
        for ours, theirs in zip(
            one.predict(paths, **options), other.predict(paths, **options), strict=True
        ):
            assert theirs.probability == pytest.approx(ours.probability, abs=1e-5)
            assert (theirs.label, theirs.set, theirs.unknown) == (
                ours.label,
                ours.set,
                ours.unknown,
            )
    with pytest.raises(reslab.InputError, match="explain the run it was exported from"):
        other.explain(paths[0])
    data = uneven.path.parent / "照片"
    ours, theirs = (
        reslab.evaluate(path, data, quiet=True) for path in (uneven.path, exported.path)
    )
    assert (theirs.split, theirs.n, theirs.accuracy) == ("test", ours.n, ours.accuracy)
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-4)
    assert theirs.measures["brier_score"] == pytest.approx(ours.measures["brier_score"], abs=1e-5)


def test_the_commands_take_an_export(uneven, exported, capsys, monkeypatch):
    path = pictures_of(uneven)[0]
    for words in (
        f"predict {exported.path} {path} --json",
        f"evaluate {exported.path} {uneven.path.parent}/照片 --json --quiet",
        f"export {uneven.path} --out {exported.path} --json --quiet",
    ):
        monkeypatch.setattr(sys, "argv", ["reslab", *words.split()])
        main()
    predicted, scored, written = map(json.loads, capsys.readouterr().out.splitlines())
    assert predicted.keys() == {"path", "label", "probability", "top"}
    assert scored["accuracy"] == uneven.test["accuracy"]
    assert written["checked"] == uneven.validation["n"]


def test_torch_export_is_predict_too(uneven, tmp_path):
    found = reslab.export(uneven.path, format="torch", out=tmp_path / "m.pt2", quiet=True)
    assert (found.format, found.top1_equal) == ("torch", 1)
    extra = {"reslab": ""}
    graph = torch.export.load(found.path, extra_files=extra).module()
    told = json.loads(extra["reslab"])
    path = pictures_of(uneven)[3]
    pixels = torch.from_numpy(reader.read_picture(told, path))[None]
    theirs = dict(zip(told["classes"], graph(pixels)[0].tolist(), strict=True))
    ours = reslab.Classifier.load(uneven.path).predict(path)
    assert theirs[ours.label] == pytest.approx(ours.probability, abs=1e-5)
    assert graph(pixels.repeat(7, 1, 1, 1)).shape == (7, 3)
    assert reslab.export(uneven.path, format="torch", out=found.path, quiet=True)
    with pytest.raises(reslab.InputError, match=r"torch\.export\.load opens; name the run"):
        reslab.Classifier.load(found.path)


# The gate: each fault is planted where it would be made.


def changed(**fields):
    """A contract in which preprocessing or other fields are not the model's."""

    def made(model):
        contract = contract_of(model)
        inputs = {k: v for k, v in fields.items() if k in Preprocessing.model_fields}
        rest = {k: v for k, v in fields.items() if k not in inputs}
        record = contract.preprocessing.model_copy(update=inputs)
        return contract.model_copy(update={"preprocessing": record, **rest})

    return made


class Reversed(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.flip(1))


def faults(model):
    mean = tuple(1.01 * value for value in model.preprocessing.mean)
    return {
        "mean": ("contract_of", changed(mean=mean)),
        "bgr": ("program", lambda network, contract: program(Reversed(network), contract)),
        "bilinear": ("contract_of", changed(interpolation="bilinear")),
        "temperature": ("contract_of", changed(temperature=1.0)),
        "classes": ("contract_of", changed(classes=model.classes[::-1])),
        "averaging": ("contract_of", changed(averaging="none")),
        "crop": ("contract_of", changed(crop_fraction=0.85)),
    }


ONNX = ("mean", "bgr", "bilinear", "temperature", "classes", "averaging", "crop")


@pytest.mark.parametrize(
    ("format", "fault"),
    [*[("onnx", fault) for fault in ONNX], ("torch", "mean"), ("torch", "bilinear")],
)
def test_the_gate_refuses_a_planted_fault(fault, format, uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, *faults(load_model(uneven.path))[fault])
    out = tmp_path / f"model{exporting.SUFFIXES[format]}"
    with pytest.raises(reslab.InputError, match="not written, for it does not agree") as refused:
        reslab.export(uneven.path, format=format, out=out, quiet=True)
    assert ".png: " in refused.value.problems[0]
    assert not list(tmp_path.iterdir())


def test_a_fault_that_no_picture_shows_at_its_own_size(run, tmp_path, monkeypatch):
    """Pictures that need no resize say nothing of it."""
    monkeypatch.setattr(exporting, "contract_of", changed(interpolation="bicubic"))
    with pytest.raises(reslab.InputError, match="made smaller") as refused:
        reslab.export(run.path, out=tmp_path / "m.onnx", quiet=True)
    assert ".png, made smaller: " in refused.value.problems[0]
    assert not list(tmp_path.iterdir())


def test_the_gate_lets_pass_what_is_not_planted(uneven, tmp_path, monkeypatch):
    """The faults' own way, with nothing changed."""
    monkeypatch.setattr(exporting, "contract_of", changed())
    assert reslab.export(uneven.path, out=tmp_path / "m.onnx", quiet=True).top1_equal == 1
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "read_picture.py"}


def test_a_refusal_leaves_the_export_that_was_there(uneven, exported, monkeypatch):
    before = exported.path.read_bytes()
    monkeypatch.setattr(exporting, "contract_of", changed(temperature=1.0))
    with pytest.raises(reslab.InputError):
        reslab.export(uneven.path, out=exported.path, quiet=True)
    assert exported.path.read_bytes() == before


# The reader beside the file.


def settings_of(draw):
    return Preprocessing(
        size=draw(st.tuples(st.integers(1, 90), st.integers(1, 90))),
        mode=draw(st.sampled_from(["squash", "crop", "letterbox"])),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic"])),
        crop_fraction=draw(st.sampled_from([1.0, 0.875, 0.9])),
        channels=3, mean=(0.4, 0.5, 0.62), std=(1.0, 1.0, 1.0),
    )  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_the_reader_resizes_to_the_bit(data):
    record = settings_of(data.draw)
    height, width = data.draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8).transpose(2, 0, 1)
    if data.draw(st.booleans()):
        pixels = (pixels > 127).astype(np.uint8) * 255
    expected = record.fit(torch.from_numpy(pixels)[None])[0].numpy()
    assert np.array_equal(reader.fit(pixels, record.model_dump(mode="json")), expected)


def kinds_of_files():
    """Every way that decoding treats by itself."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((900, 700))
    grey16 = Image.fromarray((rng.random((60, 50)) * 65535).astype(np.uint16))
    clear = photo.resize((90, 70))
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (70, 90), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = photo.resize((64, 48)).quantize(16)
    return {
        "large.jpg": (photo, {}),
        "turned.jpg": (photo, {"exif": exif}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "grey.jpg": (photo.convert("L"), {}),
        "deep.png": (grey16, {}),
        "deep.tif": (grey16, {}),
        "alpha.png": (clear, {}),
        "grey alpha.png": (clear.convert("LA"), {}),
        "palette.gif": (palette, {"transparency": 3}),
        "palette.png": (palette, {}),
        "clear palette.png": (palette, {"transparency": 3}),
        "one bit.png": (photo.convert("1"), {}),
        "lossless.webp": (clear, {"lossless": True}),
        "plain.bmp": (photo, {}),
        "plain.ppm": (photo, {}),
    }


@pytest.mark.parametrize("name", kinds_of_files())
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
def test_the_reader_reads_what_reslab_reads(name, channels, interpolation):
    image, options = kinds_of_files()[name]
    data = io.BytesIO()
    image.save(
        data, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2]), **options
    )
    record = Preprocessing(
        size=(40, 32), mode="crop", crop_fraction=0.9, channels=channels,
        interpolation=interpolation, mean=(0.5,) * channels, std=(1.0,) * channels,
    )  # fmt: skip
    told = {"preprocessing": record.model_dump(mode="json")}
    expected = record.read(data.getvalue()).numpy()
    found = reader.read_picture(told, data.getvalue())
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_the_reader_agrees_on_photos(food):
    record = Preprocessing(size=(224, 224), mode="crop", crop_fraction=0.875, channels=3,
                           interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)  # fmt: skip
    told = {"preprocessing": record.model_dump(mode="json")}
    for path in sorted((food / "images").rglob("*.jpg"))[::250]:
        assert np.array_equal(
            reader.read_picture(told, path), record.read(path.read_bytes()).numpy()
        )


# Networks of every kind.


@pytest.mark.parametrize(
    ("name", "averaging"),
    [("mnist-fast", "none"), ("mnist-cnn", "none"), ("cifar10-fast", "flip-shift"),
     ("resnet18", "none"), ("tf_efficientnet_lite0", "none")],
)  # fmt: skip
def test_networks_come_out_as_they_are(name, averaging):
    """With weights as drawn, at a small size; both formats, batches of 1 and of 3."""
    channels, size = default_input(name)
    size = (96, 96) if size == (224, 224) else size
    spec = NetworkSpec(name, 10, channels, size)
    network = build_network(spec, 0).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # statistics that matter
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    record = Preprocessing(size=size, channels=channels, mean=(0.4,) * channels,
                           std=(0.3,) * channels)  # fmt: skip
    model = Model(network, spec, tuple("0123456789"), record, averaging=averaging, temperature=0.7)
    contract = contract_of(model)
    graph = program(network, contract)
    session = open_session(as_onnx(graph, contract), Path("x.onnx"))
    loaded = torch.export.load(io.BytesIO(as_archive(graph, contract))).module()
    pixels = torch.randint(0, 256, (3, channels, *size), dtype=torch.uint8)
    with torch.inference_mode():
        from reslab.networks.inference import averaged

        expected = (averaged(network, record.normalise(pixels), averaging) / 0.7).softmax(1).numpy()
    for count in (1, 3):
        part = pixels[:count]
        found = run_session(session, part.numpy(), Path("x.onnx"))
        assert found == pytest.approx(expected[:count], abs=1e-5)
        assert loaded(part).detach().numpy() == pytest.approx(expected[:count], abs=1e-5)


# 8 bits.


def test_int8_says_what_it_costs_and_is_used_as_a_model(uneven, tmp_path, capfd):
    found = reslab.export(uneven.path, out=tmp_path / "m.onnx", int8=True, check=None)
    paid = found.int8
    assert paid.n == found.checked == uneven.validation["n"]
    assert 0 < paid.largest_difference < 0.5
    assert found.largest_difference < TOLERANCE
    assert "int8 costs" in capfd.readouterr().err
    data = uneven.path.parent / "照片"
    score = reslab.evaluate(found.path, data, split="validation", quiet=True)
    assert score.accuracy == pytest.approx(paid.int8_accuracy)
    fp32 = reslab.evaluate(uneven.path, data, split="validation", quiet=True)
    assert fp32.accuracy == pytest.approx(paid.fp32_accuracy)
    contract = read_exported(found.path)[1]
    table = probabilities(score.logits, contract.temperature)
    own = [float(table[row, label]) for row, label in enumerate(score.samples.labels)]
    assert contract.held == pytest.approx(sorted(own), abs=1e-5)  # not those of fp32
    assert contract.held != load_model(uneven.path).held
    assert contract.int8
    kinds = [each.op_type for each in onnx_of(found.path).graph.node]
    after = kinds[len(kinds) - kinds[::-1].index("Gemm") :]
    assert "QuantizeLinear" in kinds
    assert set(after) <= {"Add", "Div", "Softmax"}  # scores, views and softmax stay in float32


def onnx_of(path):
    return importlib.import_module("onnx").load(path)


def test_a_dear_int8_is_not_written(uneven, tmp_path, monkeypatch):
    def ruined(data, pixels, contract):
        """The same graph for another order of the classes."""
        model = load_model(uneven.path)
        head = [m for m in model.network.modules() if isinstance(m, torch.nn.Linear)][-1]
        head.weight.data = head.weight.data.roll(1, 0)
        return as_onnx(program(model.network, contract), contract)

    monkeypatch.setattr(exporting, "quantised", ruined)
    with pytest.raises(reslab.InputError, match="at most 2 points may be lost"):
        reslab.export(uneven.path, out=tmp_path / "m.onnx", int8=True, quiet=True)
    assert not list(tmp_path.iterdir())


def test_the_cost_is_counted_by_hand():
    labels = np.array([0, 0, 1, 1, 1])
    fp32 = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]])
    int8 = np.array([[0.4, 0.6], [0.8, 0.2], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]])
    found = cost(fp32, int8, labels, 5)
    assert (found.lost, found.won, found.changed) == (2, 1, 3)
    assert (found.fp32_accuracy, found.int8_accuracy) == (0.8, 0.6)
    assert found.largest_difference == pytest.approx(0.5)
    from scipy.stats import binomtest

    for lost, won in ((0, 0), (2, 1), (10, 2), (3, 3), (0, 7)):
        expected = binomtest(lost, lost + won).pvalue if lost + won else 1
        assert mcnemar(lost, won) == pytest.approx(expected)


# What it is checked on.


def test_a_folder_of_pictures_to_check_on(uneven, tmp_path):
    """A model without its run: pictures with labels by folder, or without."""
    shutil.copy(uneven.model, tmp_path / "m.safetensors")
    fill(tmp_path / "labelled", 4, start=50)
    found = reslab.export(tmp_path / "m.safetensors", check=tmp_path / "labelled", quiet=True)
    assert found.path == tmp_path / "m.onnx"
    assert found.checked == 12
    fill(tmp_path / "others", 2, classes=("x", "y", "z"))
    with pytest.raises(reslab.InputError, match="has not a folder for each class"):
        reslab.export(tmp_path / "m.safetensors", check=tmp_path / "others", int8=True, quiet=True)


def test_a_run_on_pictures_in_memory(tmp_path):
    found = reslab.train("digits", out=tmp_path / "r", epochs=1, quiet=True, batch_size=256,
                         network="mnist-fast", fields={"preprocess.size": 16})  # fmt: skip
    written = reslab.export(found.path, quiet=True)
    assert written.path == tmp_path / "r" / "model.onnx"
    assert written.checked == found.validation["n"]


def bad(tmp_path, uneven, exported):
    """Name: arguments after `reslab`, and what the message must name."""
    root = tmp_path / "w"
    root.mkdir()
    shutil.copy(uneven.model, root / "alone.safetensors")
    (root / "notes.onnx").write_text("mine")
    (root / "mine").mkdir()
    (root / "mine" / "read_picture.py").write_text("print('mine')")
    data = exported.path.read_bytes()
    (root / "half.onnx").write_bytes(data[: len(data) // 2])
    (root / "empty.onnx").write_bytes(b"")
    inputs = b'"crop_fraction": 0.8'
    (root / "flipped.onnx").write_bytes(data.replace(inputs, inputs[:-1] + b"9"))
    turned = bytearray(data)
    turned[len(data) // 2] ^= 1
    (root / "bit.onnx").write_bytes(bytes(turned))
    strange = onnx_of(exported.path)
    del strange.metadata_props[:]
    (root / "bare.onnx").write_bytes(strange.SerializeToString())
    entry = strange.metadata_props.add()
    entry.key, entry.value = "reslab", json.dumps({"format": 9})
    (root / "future.onnx").write_bytes(strange.SerializeToString())
    shutil.copytree(uneven.path, root / "lost")
    info = json.loads((root / "lost" / "run.json").read_text("utf-8"))
    info["source"]["data"] = str(root / "gone")
    (root / "lost" / "run.json").write_text(json.dumps(info), "utf-8")
    fill(root / "other", 4)
    shutil.copytree(root / "lost", root / "moved")
    info["source"]["data"] = str(root / "other")
    (root / "moved" / "run.json").write_text(json.dumps(info), "utf-8")
    (root / "damaged").mkdir()
    (root / "damaged" / "a.png").write_bytes(b"no picture")
    (root / "nothing").mkdir()
    run, pic = uneven.path, pictures_of(uneven)[0]
    return root, {
        "format": (f"export {run} --format onx", "did you mean 'onnx'"),
        "torch int8": (f"export {run} --format torch --int8", "--int8 goes with --format onnx"),
        "missing folder": (f"export {run} --out {root}/no/m.onnx", "no/m.onnx"),
        "ending": (f"export {run} --out {root}/m.pb", "with the ending .onnx"),
        "another's file": (f"export {run} --out {root}/notes.onnx", "notes.onnx: stands there"),
        "another's reader": (f"export {run} --out {root}/mine/m.onnx", "read_picture.py: stands"),
        "no run": (f"export {root}/alone.safetensors", "--check"),
        "data gone": (f"export {root}/lost", "--check"),
        "other data": (f"export {root}/moved", "no longer the very data"),
        "no model": (f"export {root}/nothing", "without model.safetensors"),
        "an export": (f"export {exported.path}", "is an export already"),
        "check nothing": (f"export {run} --check {root}/nothing", "no pictures"),
        "check nowhere": (f"export {run} --check {root}/absent", "no such file"),
        "check damaged": (f"export {run} --check {root}/damaged", "damaged/a.png"),
        "absent": (f"predict {root}/absent.onnx {pic}", "absent.onnx: no such"),
        "half": (f"predict {root}/half.onnx {pic}", "half.onnx: not a readable ONNX"),
        "empty": (f"predict {root}/empty.onnx {pic}", "empty.onnx: not a readable ONNX"),
        "text": (f"predict {root}/notes.onnx {pic}", "notes.onnx: not a readable ONNX"),
        "bare": (f"predict {root}/bare.onnx {pic}", "without reslab's contract"),
        "future": (f"predict {root}/future.onnx {pic}", "contract field format"),
        "flipped": (f"evaluate {root}/flipped.onnx digits", "flipped.onnx: damaged"),
        "bit": (f"predict {root}/bit.onnx {pic}", "bit.onnx"),
        "summary": (f"summary {exported.path}", "model.onnx"),
        "explain": (f"explain {exported.path} {pic}", "explain the run it was exported from"),
    }


def test_what_is_wrong_is_named(uneven, exported, tmp_path, monkeypatch, capfd):
    root, table = bad(tmp_path, uneven, exported)
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in (*root.rglob("*"), *uneven.path.rglob("*")))
    for name, (words, said) in table.items():
        monkeypatch.setattr(sys, "argv", ["reslab", *words.split(" ")])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert stopped.value.code == 2, (name, out, err)
        assert said in err, (name, err)
        assert "Traceback" not in out + err, name
        assert err.count("reslab: error:") == 1, (name, err)
    assert before == sorted(str(path) for path in (*root.rglob("*"), *uneven.path.rglob("*")))


def test_no_validation_split_is_named(split_photos, tmp_path):
    found = reslab.train(split_photos, out=tmp_path / "r", epochs=1, quiet=True,
                         fields={"split.validation": 0})  # fmt: skip
    with pytest.raises(reslab.InputError, match=r"without a validation split.*--check"):
        reslab.export(found.path, quiet=True)
    assert reslab.export(found.path, check=split_photos / "test", quiet=True).checked == 24


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, uneven, exported, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    wanted = rf"package {package}, which is not here.*pip install 'reslab\[onnx\]'"
    with pytest.raises(reslab.InputError, match=wanted):
        reslab.export(uneven.path, out=tmp_path / "m.onnx", quiet=True)
    if package == "onnxruntime":
        with pytest.raises(reslab.InputError, match=wanted):
            reslab.Classifier.load(exported.path)


def test_a_contract_is_checked():
    record = Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    whole = {
        "reslab": "1", "network": "x", "colour": "grey", "preprocessing": record,
        "averaging": "none", "temperature": 1.0,
    }  # fmt: skip
    assert Contract(**whole, classes=("a", "b")).shape == (1, 8, 8)
    for classes in (("a",), ("a", "a"), ("a", "b\x1b[31m")):
        with pytest.raises(ValueError, match="the classes"):
            Contract(**whole, classes=classes)


def test_a_model_file_of_its_own(uneven, tmp_path):
    """The file beside its run is the run's; a copy elsewhere has none."""
    assert reslab.export(uneven.model, out=tmp_path / "m.onnx", quiet=True).checked > 0
    model = load_model(uneven.model)
    copied = tmp_path / "copy.safetensors"
    save_model(copied, model.network.state_dict(), model)
    with pytest.raises(reslab.InputError, match="no run beside the model"):
        reslab.export(copied, quiet=True)
