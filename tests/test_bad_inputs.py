"""Wrong pictures, folders, lists, CSVs, recipes, command lines and model files.

Each is answered by exit status 2 and a message that names the file, line or option, without a
traceback; nothing is written beside the input.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from drawn_pictures import fill, picture
from reslab.cli import main
from reslab.networks.model_file import tensor_file


class Payload:
    """Unpickling this would create a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def list_data(folder: Path, train, test="a/000.png 0\nb/000.png 1\n", classes="a\nb\n"):
    fill(folder, 6, classes=("a", "b"))
    for name, text in (("train.txt", train), ("test.txt", test), ("classes.txt", classes)):
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


GOOD = "".join(f"{c}/{n:03d}.png {k}\n" for k, c in enumerate("ab") for n in range(6))


def damage(kind: str, folder: Path) -> None:
    """A folder a class in which one file, a/bad.*, is damaged."""
    fill(folder, 6, classes=("a", "b"))
    data = io.BytesIO()
    picture(0, 99, (64, 64)).save(data, "JPEG" if kind == "jpeg" else "PNG")
    whole = data.getvalue()
    contents = {
        "empty.png": b"",
        "text.jpg": b"this is no picture",
        "half.png": whole[: len(whole) // 2],
        "half.jpg": whole[: len(whole) // 2],
        "header.png": b"\x89PNG\r\n\x1a\n" + bytes(60),
        "zeros.bmp": bytes(300),
    }
    (folder / "a" / kind).write_bytes(contents[kind])


DAMAGED = ("empty.png", "text.jpg", "half.png", "half.jpg", "header.png", "zeros.bmp")


@pytest.fixture(scope="module")
def world(tmp_path_factory, run):
    """A folder with everything that can be wrong, each under its own name."""
    root = tmp_path_factory.mktemp("世界")
    fill(root / "good", 8, classes=("a", "b"))
    fill(root / "one class", 8, classes=("a",))
    (root / "no pictures" / "a").mkdir(parents=True)
    (root / "nothing").mkdir()
    fill(root / "test only" / "test", 4, classes=("a", "b"))
    fill(root / "few", 1, classes=("a", "b"))
    fill(root / "twice" / "val", 2, classes=("a", "b"))
    fill(root / "twice" / "valid", 2, classes=("a", "b"))
    fill(root / "twice" / "train", 2, classes=("a", "b"))
    fill(root / "stranger", 4, classes=("a", "c"))
    for kind in DAMAGED:
        damage(kind, root / kind)
    (root / "floats" / "a").mkdir(parents=True)
    fill(root / "floats", 6, classes=("a", "b"))
    Image.new("F", (8, 8), 0.5).save(root / "floats" / "a" / "float.tif")
    lists = {
        "missing file": GOOD + "a/gone.png 0\n",
        "out of range": GOOD + "a/001.png 2\n",
        "negative": GOOD + "a/001.png -1\n",
        "not a class": GOOD + "a/001.png zebra\n",
        "no label": GOOD + "a/001.png\n",
        "empty list": "",
        "blank list": "\n\n  \n",
        "gbk": GOOD.encode() + "a/狗.png 0\n".encode("gbk"),
        "utf16": GOOD.encode("utf-16"),
        "binary": GOOD.encode() + b"a\0b 1\n",
        "two labels": GOOD + "a/001.png 1\n",
        "dashes": GOOD + "a/001.png --1\n",
        "long": GOOD + "a/001.png " + "1" * 5000 + "\n",
    }
    for name, text in lists.items():
        list_data(root / f"list {name}", text)
    list_data(root / "list empty classes", GOOD, classes="")
    list_data(root / "list repeated class", GOOD, classes="a\nb\na\n")
    list_data(root / "list bad test", GOOD, test="a/000.png 5\n")
    list_data(root / "list alone", GOOD, test=None)
    list_data(root / "list numbered", GOOD, classes="2\n1\n")
    list_data(root / "list and table", GOOD)
    (root / "list and table" / "train.csv").write_text("path,label\na/000.png,a\n")
    os.mkfifo(root / "pipe.png")
    fill(root / "piped", 6, classes=("a", "b"))
    os.mkfifo(root / "piped" / "a" / "pipe.png")
    fill(root / "looped", 6, classes=("a", "b"))
    (root / "looped" / "a" / "up").symlink_to(root / "looped")
    tables = {
        "no label column": "path,size\na/000.png,3\n",
        "no rows": "path,label\n",
        "empty": "",
        "short row": "path,label\na/000.png,a\na/001.png\n",
        "no label": "path,label\na/000.png,a\na/001.png,\n",
        "missing file": "path,label\na/000.png,a\na/gone.png,b\n",
        "split": "path,label,split\na/000.png,a,train\nb/000.png,b,tests\n",
        "quote": 'path,label\n"a/000.png,a\n',
        "gbk": "path,label\na/狗.png,a\n".encode("gbk"),
    }
    fill(root / "tables", 4, classes=("a", "b"))
    for name, text in tables.items():
        path = root / "tables" / f"{name}.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "bad.zip").write_bytes(b"PK\x03\x04 no archive")
    with zipfile.ZipFile(root / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with zipfile.ZipFile(root / "twice.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in ("a/1.png", "a/1.png", "b/1.png"):
            archive.write(root / "good" / "a" / "000.png", name)
    recipes = {
        "unknown": 'name = "x"\n\n[optimizer]\nlearning_rate = 0.1\n',
        "type": 'name = "x"\nepochs = "ten"\n',
        "choice": '[optimizer]\nname = "adm"\n',
        "range": "batch_size = 0\n",
        "syntax": 'name = "x"\nepochs = = 3\n',
        "section": "[optimiser]\nlr = 0.1\n",
        "nan": "[optimizer]\nlr = nan\n",
        "std": "[preprocess]\nchannels = 1\nmean = [0.5, 0.5]\nstd = [0.5]\n",
        "network": 'network = "resnet1000"\n',
        "name": 'name = "../../x"\n',
        "every": 'checkpoint_every = "often"\n',
        "gbk": 'name = "狗"\n'.encode("gbk"),
    }
    (root / "recipes").mkdir()
    for name, text in recipes.items():
        path = root / "recipes" / f"{name}.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    models = root / "models"
    models.mkdir()
    good = run.model.read_bytes()
    (models / "truncated.safetensors").write_bytes(good[:-100])
    (models / "empty.safetensors").write_bytes(b"")
    (models / "text.safetensors").write_text("not a model")
    (models / "pickle.safetensors").write_bytes(pickle.dumps(Payload()))
    torch.save({"weight": torch.zeros(2)}, models / "model.pt")
    tensors = safetensors.torch.load(good)
    safetensors.torch.save_file(tensors, models / "bare.safetensors")
    with safetensors.safe_open(run.model, framework="pt") as opened:
        header = json.loads(opened.metadata()["reslab"])
    del header["sha256"]

    def model(name, changes=None, **fields):
        # With a checksum that fits: what is wrong is what the file says.
        written = tensor_file(dict(tensors) | (changes or {}), header | fields)
        (models / f"{name}.safetensors").write_bytes(written)

    first = next(key for key, value in tensors.items() if value.is_floating_point())
    model("nan", {first: torch.full_like(tensors[first], float("nan"))})
    model("shape", {first: torch.zeros(5, 7)})  # as no tensor of it, whichever comes first
    model("extra", {"surprise": torch.zeros(1)})
    model("network", network="no-such-network")
    model("classes", classes=["a", "a", "b"])
    model("more classes", classes=["a", "b", "c", "d"])
    model("future", format=99)
    model("control", classes=["a", "b\x1b[31m", "c"])
    model("no size", size=None)
    inputs = header["preprocessing"]
    model("other size", size=[8, 8])
    model("negative size", size=[0, -5])
    model("other channels", preprocessing=inputs | {"channels": 1, "mean": [0.5], "std": [0.5]})
    model("nan mean", preprocessing=inputs | {"mean": [float("nan")] * 3})
    (root / "weights").mkdir()
    (root / "weights" / "text.pth").write_text("no weights")
    (root / "weights" / "code.pth").write_bytes(pickle.dumps(Payload()))
    torch.save({"conv1.weight": torch.zeros(1)}, root / "weights" / "other.pth")
    (root / "held").mkdir()
    (root / "held" / "diary.txt").write_text("mine")
    (root / "text.txt.d").mkdir()
    (root / "notes.md").write_text("# notes")
    shutil.copytree(run.path, root / "run")
    return root


# Arguments (W is the world), and what the message must name.
TABLE = {
    # pictures
    **{f"picture {kind}": (f"train W/{kind}", f"a/{kind}") for kind in DAMAGED},
    "picture of floats": ("train W/floats", "float.tif"),
    "predict a text": ("predict W/run W/text.jpg/a/text.jpg", "text.jpg"),
    "predict nothing there": ("predict W/run W/gone.png W/also-gone", "also-gone"),
    "predict an empty folder": ("predict W/run W/nothing", "nothing"),
    "predict no picture": ("predict W/run", "at least one picture"),
    "predict top 0": ("predict W/run W/good --top 0", "top is 0"),
    "predict unknown below 80": ("predict W/run W/good --unknown-below 80", "from 0 to 1"),
    "predict coverage 1": ("predict W/run W/good --coverage 1", "between 0 and 1"),
    "predict coverage of few": ("predict W/run W/good --coverage 0.99", "99 are needed"),
    "predict coverage of raw": ("predict W/run W/good --coverage 0.8 --raw", "not of raw ones"),
    "predict csv over a user's file": ("predict W/run W/good --csv W/notes.md", "notes.md: stands"),
    "predict csv into nowhere": ("predict W/run W/good --csv W/no/t.csv", "no/t.csv"),
    "predict copies into a file": ("predict W/run W/good --copy-to W/notes.md", "a file stands"),
    "predict copies into nowhere": ("predict W/run W/good --copy-to W/no/t", "is no folder"),
    "predict into a file": ("predict W/run W/good --out W/notes.md", "a file stands there"),
    "predict into nowhere": ("predict W/run W/good --out W/no/t", "is no folder"),
    "predict into a data folder": ("predict W/run W/good --out W/good", "no manifest.json"),
    "predict shards of 0": ("predict W/run W/good --out t --shard-size 0", "at least 1"),
    "predict shards nowhere": ("predict W/run W/good --shard-size 9", "go with --out"),
    "predict out and csv": ("predict W/run W/good --out t --csv t.csv", "without --csv"),
    "explain nothing": ("explain W/run", "at least one picture"),
    "explain a class there is not": ("explain W/run W/good --json --class dgo", "--class dgo"),
    "explain into a file": ("explain W/run W/good --out W/notes.md", "cannot be made a folder"),
    "report nothing": ("report", "at least one run"),
    "report a folder": ("report W/good", "no run folder"),
    "report over a user's file": ("report W/run --out W/notes.md", "notes.md: stands"),
    "report into nowhere": ("report W/run --out W/no/r.html", "no/r.html"),
    "report in French": ("report W/run --language fr", "choose from en, zh"),
    "train in French": ("train W/good --language fr", "choose from en, zh"),
    "compare one run": ("compare W/run", "two runs or more"),
    "compare with a folder": ("compare W/run W/good", "no run folder"),
    "runs of a file": ("runs W/notes.md", "no folder of runs"),
    "evaluate a damaged one": ("evaluate W/run W/half.png", "half.png"),
    # folders
    "no such data": ("train W/absent", "absent: no such"),
    "misspelt built-in": ("train mnits", "did you mean 'mnist'"),
    "built-in not here": ("train mnist --data-root W/nothing", "MNIST"),
    "empty folder": ("train W/nothing", "nothing: no pictures"),
    "class folder without pictures": ("train W/no~pictures", "no pictures"),
    "one class": ("train W/one~class", "only one class"),
    "test only": ("train W/test~only", "no train split"),
    "too few": ("train W/few", "--split"),
    "val and valid": ("train W/twice", "val and valid"),
    "a picture as data": ("train W/good/a/000.png", "single picture"),
    "a note as data": ("train W/notes.md", "notes.md: not a folder"),
    "--test with a folder": ("train W/good --test W/good", "--test goes with a list"),
    "--root with a folder": ("train W/good --root W", "--root goes with list"),
    "evaluate an unknown class": ("evaluate W/run W/stranger", "does not know"),
    "evaluate a missing split": ("evaluate W/run W/list~alone --split validation", "does not know"),
    "unknown split": ("evaluate W/run digits --split tset", "did you mean 'test'"),
    # lists
    "list missing file": ("train W/list~missing~file", "train.txt:13: no such file"),
    "list out of range": ("train W/list~out~of~range", "train.txt:13: label 2 is out of range"),
    "list negative": ("train W/list~negative", "train.txt:13"),
    "list not a class": ("train W/list~not~a~class", "'zebra' is not a class"),
    "list no label": ("train W/list~no~label", "train.txt:13: no label"),
    "list empty": ("train W/list~empty~list", "train.txt: the list is empty"),
    "list blank": ("train W/list~blank~list", "train.txt: the list is empty"),
    "list gbk": ("train W/list~gbk", "train.txt:13: not UTF-8 (as GBK"),
    "list utf16": ("train W/list~utf16", "train.txt:1: the file is UTF-16"),
    "list binary": ("train W/list~binary", "train.txt:13: holds a NUL"),
    "list two labels": ("train W/list~two~labels", "train.txt:13: a/001.png has label 1"),
    "list dashes": ("train W/list~dashes", "train.txt:13: label '--1' is not a class"),
    "list long label": ("train W/list~long", "train.txt:13: label '1111"),
    "list numbered classes": ("train W/list~numbered", "classes.txt:1: class '2' is a number"),
    "list and table": ("train W/list~and~table", "train.txt and train.csv"),
    "a pipe among pictures": ("train W/piped", "pipe.png: not a regular file"),
    "predict a pipe": ("predict W/run W/pipe.png", "pipe.png"),
    "classes empty": ("train W/list~empty~classes", "classes.txt: the file is empty"),
    "classes repeated": ("train W/list~repeated~class", "classes.txt:3: class 'a'"),
    "test list": ("train W/list~bad~test", "test.txt:1: label 5 is out of range"),
    "companion missing": ("train W/list~alone/train.txt --test W/no.txt", "no.txt: no such test"),
    "companion elsewhere": (
        "train W/list~alone/train.txt --test W/list~gbk/test.txt", "different folders",
    ),
    "root missing": ("train W/list~alone/train.txt --root W/absent", "--root"),
    # CSV and zip
    "csv no label column": ("train W/tables/no~label~column.csv", "csv:1: no column 'label'"),
    "csv no rows": ("train W/tables/no~rows.csv", "no rows"),
    "csv empty": ("train W/tables/empty.csv", "empty.csv: the file is empty"),
    "csv short row": ("train W/tables/short~row.csv", "csv:3: 1 fields"),
    "csv no label": ("train W/tables/no~label.csv", "csv:3: no label"),
    "csv missing file": ("train W/tables/missing~file.csv", "csv:3: no such file"),
    "csv split": ("train W/tables/split.csv", "csv:3: split 'tests' is unknown"),
    "csv quote": ("train W/tables/quote.csv", "not readable as CSV"),
    "csv gbk": ("train W/tables/gbk.csv", "csv:2: not UTF-8"),
    "zip of twins": ("train W/twice.zip", "a/1.png"),
    "zip damaged": ("train W/bad.zip", "bad.zip: not a readable zip"),
    "zip without pictures": ("train W/empty.zip", "empty.zip: no pictures"),
    # recipes
    "recipe absent": ("train W/good --recipe minst-cnn", "did you mean 'mnist-cnn'"),
    "recipe file absent": ("train W/good --recipe W/x.toml", "x.toml: no such recipe"),
    "recipe unknown field": ("train W/good --recipe W/recipes/unknown.toml", "unknown.toml:4"),
    "recipe ill-typed": ("train W/good --recipe W/recipes/type.toml", "type.toml:2: epochs"),
    "recipe choice": ("train W/good --recipe W/recipes/choice.toml", "did you mean 'adam'"),
    "recipe range": ("train W/good --recipe W/recipes/range.toml", "range.toml:1: batch_size"),
    "recipe syntax": ("train W/good --recipe W/recipes/syntax.toml", "syntax.toml:2"),
    "recipe section": ("train W/good --recipe W/recipes/section.toml", "section.toml:1"),
    "recipe nan": ("train W/good --recipe W/recipes/nan.toml", "nan.toml:2: optimizer.lr"),
    "recipe std": ("train W/good --recipe W/recipes/std.toml", "mean needs 1 value"),
    "recipe network": ("train W/good --recipe W/recipes/network.toml", "'resnet1000' is unknown"),
    "recipe name": ("train W/good --recipe W/recipes/name.toml", "name.toml:1: name"),
    "recipe every": ("train W/good --recipe W/recipes/every.toml", "checkpoint_every"),
    "recipe gbk": ("train W/good --recipe W/recipes/gbk.toml", "gbk.toml:1: not UTF-8"),
    "recipes misspelt": ("recipes mnist-resnt", "did you mean 'mnist-resnet'"),
    # command lines
    "no such command": ("trian digits", "train"),
    "no data": ("train", "DATA"),
    "unknown option": ("train W/good --epoch 3", "--epoch"),
    "epochs a word": ("train W/good --epochs many", "--epochs"),
    "epochs zero": ("train W/good --epochs 0", "--epochs = '0'"),
    "unknown field": ("train W/good --optimizer.rate 1", "Did you mean --optimizer"),
    "field ill-typed": ("train W/good --optimizer.lr fast", "optimizer.lr = 'fast'"),
    "field choice": ("train W/good --schedule.name cosin", "did you mean 'cosine'"),
    "field without value": ("train W/good --augment.rotate", "--augment.rotate requires"),
    "field twice": ("train W/good --optimizer.lr 1 --optimizer.lr 2", "lr specified mult"),
    "device": ("train W/good --device gpu", "--device gpu"),
    "no cuda": ("train W/good --device cuda:7", "cuda"),
    "precision": ("train W/good --precision fp16", "precision"),
    "out is a file": ("train W/good --out W/notes.md", "notes.md"),
    "out is held": ("train W/good --out W/held", "held: holds files"),
    "out holds a run": ("train W/good --out W/run", "holds a run already"),
    "overwrite what is no run": ("train W/good --out W/held --overwrite", "no run"),
    "network too large": ("train W/good --network mnist-cnn --preprocess.size 4", "too small"),
    "validation too large": ("train W/good --split.validation 5000", "--split.validation"),
    # means
    "mixup below 0": ("train W/good --mix.mixup -1", "mix.mixup = '-1'"),
    "cutmix a word": ("train W/good --mix.cutmix much", "mix.cutmix = 'much'"),
    "mixup of a solved head": (
        "train W/good --recipe photos --mix.mixup 0.2", "takes no steps: mix needs --head trained",
    ),
    "clipping of a solved head": (
        "train W/good --recipe photos --optimizer.clip-norm 1", "optimizer.clip_norm needs",
    ),
    "cutmix of features": (
        "train W/good --recipe photos-resnet152 --mix.cutmix 1", "--features online",
    ),
    "growing features": (
        "train W/good --recipe photos-resnet152 --progressive.start 0.5", "--features online",
    ),
    "drop path of a head": (
        "train W/good --recipe photos-resnet152 --drop-path 0.1", "--train-from a layer",
    ),
    "drop path without branches": (
        "train W/good --network mnist-cnn --preprocess.size 28 --drop-path 0.1",
        "no residual branches",
    ),
    "drop path of 1": ("train W/good --drop-path 1", "drop_path = '1'"),
    "erasing what is not drawn": (
        "train W/good --recipe photos-resnet152 --views 0 --augment.erase 0.5", "need drawn views",
    ),
    "erase of 2": ("train W/good --augment.erase 2", "augment.erase = '2'"),
    "no such policy": ("train W/good --augment.policy trivial", "did you mean 'trivial-wide'"),
    "clip norm below 0": ("train W/good --optimizer.clip-norm -1", "clip_norm = '-1'"),
    "patience of 0": ("train W/good --patience 0", "patience = '0'"),
    "patience without validation": (
        "train W/good --patience 3 --split.validation 0", "no validation split to say when",
    ),
    "growing where sizes are fixed": (
        "train W/good --network mnist-cnn --preprocess.size 28 --progressive.start 0.5"
        " --progressive.multiple 4", "mnist-cnn takes no input of 16x16",
    ),
    "growing by too much": ("train W/good --progressive.start 0.5", "smaller --progressive.multi"),
    "progressive start of 0": ("train W/good --progressive.start 0", "progressive.start = '0'"),
    "a range test of a solved head": (
        "train W/good --find-lr --recipe photos --weights none --head solved", "head = 'solved'",
    ),
    "a range test over a user's files": ("train W/good --find-lr --out W/notes.md", "a file st"),
    "a range test inside the data": ("train W/good --find-lr --out W/good/lr", "inside the data"),
    "a range test that watches": ("train W/good --find-lr --watch-test", "trains nothing"),
    "folds of a trained head": ("train W/good --folds 3", "--folds 3 is for a head that is solved"),
    "one fold": ("train W/good --folds 1", "2 or more"),
    "search without an end": ("search W/good", "--trials N or --minutes M"),
    "search over no field": ("search W/good --trials 1 --over rl=1..2", "--over rl is no field"),
    "search over one value": ("search W/good --trials 1 --over lr=1", "two choices or more"),
    "search over the split": ("search W/good --trials 1 --over split.seed=1..9", "split.seed"),
    "search into a held folder": ("search W/good --trials 1 --out W/held", "held: holds files"),
    "search into a file": ("search W/good --trials 1 --out W/notes.md", "a file stands there"),
    "search inside the data": ("search W/good --trials 1 --out W/good/s", "inside the data"),
    "search of a network": ("search W/good --trials 1 --network resnet1000", "is unknown"),
    "preview no png": ("preview W/good --out W/sheet.jpg", "sheet.jpg"),
    "preview no folder": ("preview W/good --out W/absent/sheet.png", "absent"),
    "summary unknown": ("summary resnet19000", "unknown"),
    "summary size": ("summary mnist-cnn --size big", "--size big"),
    "size too large": ("train W/good --preprocess.size 100000", "preprocess.size"),
    "mean of 300": ("train W/good --preprocess.mean 300,0,0", "preprocess.mean"),
    "lr twice": ("train W/good --lr 0.1 --optimizer.lr 0.2", "--optimizer.lr specified mult"),
    "out inside the data": ("train W/good --out W/good/run", "inside the data"),
    "a size a timm network refuses": (
        "train W/good --network vit_tiny_patch16_224 --preprocess.size 96", "takes no input of 96",
    ),
    "evaluate over a user's file": ("evaluate W/run digits --out W/notes.md", "notes.md: stands"),
    "evaluate into nowhere": ("evaluate W/run digits --out W/no/rows.csv", "no/rows.csv"),
    "evaluate into a device": ("evaluate W/run digits --out /dev/full", "/dev/full"),
    "preview over a picture": ("preview W/good --out W/good/a/000.png", "000.png: stands"),
    "a very long name": (f"predict W/run {'x' * 400}", "xxx"),
    "resume no run": ("resume W/good", "no run folder"),
    # model files
    "model absent": ("predict W/models/absent.safetensors W/good", "absent.safetensors: no such"),
    "model folder": ("predict W/good W/good", "without model.safetensors"),
    **{
        f"model {name}": (f"predict W/models/{name.replace(' ', '~')}.safetensors W/good", said)
        for name, said in {
            "truncated": "truncated.safetensors: not a readable",
            "empty": "empty.safetensors: not a model file",
            "text": "text.safetensors: not a model file",
            "pickle": "pickle.safetensors: this is a pickle",
            "control": "control characters",
            "bare": "without reslab's header",
            "nan": "holds NaN",
            "shape": "where the network has",
            "extra": "surprise: unknown",
            "network": "'no-such-network' is unknown",
            "classes": "repeat",
            "more classes": "where the network has",
            "future": "format 99",
            "no size": "header field size",
            "other size": "disagree on the input",
            "negative size": "header field size",
            "other channels": "disagree on the input",
            "nan mean": "header field preprocessing.mean",
        }.items()
    },
    "model pt": ("evaluate W/models/model.pt digits", "model.pt: this is a pickle"),
    # weights
    "weights absent": ("train W/good --network resnet18 --weights W/w.pth", "w.pth: no such"),
    "weights text": ("train W/good --network resnet18 --weights W/weights/text.pth", "text.pth"),
    "weights code": ("train W/good --network resnet18 --weights W/weights/code.pth", "code.pth"),
    "weights other": (
        "train W/good --network resnet18 --weights W/weights/other.pth", "not resnet18's",
    ),
    "head without backbone": (
        "train W/good --network small-resnet --train-from head", "--train-from all",
    ),
}  # fmt: skip


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_table_is_long_enough():
    assert len(TABLE) >= 60


@pytest.mark.parametrize("name", TABLE)
def test_one_message_and_exit_status_2(name, world, tmp_path, monkeypatch, capfd):
    words, said = TABLE[name]
    arguments = [
        f"{world}{word[1:]}".replace("~", " ") if word.startswith("W") else word
        for word in words.split(" ")
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reslab", *arguments])
    before = snapshot(world)
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capfd.readouterr()
    assert stopped.value.code == 2, err
    assert said in err
    assert "Traceback" not in out + err
    assert err.count("reslab: error:") == 1
    assert snapshot(world) == before
    assert not list(tmp_path.iterdir()), "something was written"


def test_a_good_command_passes_where_the_bad_ones_fail(world, tmp_path, monkeypatch, capfd):
    """The world itself is sound: the table's refusals are not of everything."""
    monkeypatch.chdir(tmp_path)
    for command in (
        f"train {world}/good --epochs 1 --quiet --out {tmp_path}/r",
        f"predict {tmp_path}/r {world}/good/a/000.png",
        f"evaluate {tmp_path}/r {world}/good --split all",
    ):
        monkeypatch.setattr(sys, "argv", ["reslab", *command.split(" ")])
        main()
    assert np.char.count(capfd.readouterr().out, "accuracy") >= 2
