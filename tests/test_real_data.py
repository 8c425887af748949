"""The real data and weights of ../shared: skipped, with the reason, where they are not."""

import json
import subprocess
import sys

import pytest
import torch

import reslab
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.networks.model_file import load_model
from reslab.networks.pretrained import load_pretrained, pretrained_preprocessing, read_state
from reslab.pictures.sources import open_pictures


@pytest.fixture(scope="module")
def lite0(shared):
    return shared / "weights" / "tf_efficientnet_lite0.safetensors"


def test_mnist_trains_from_its_own_files(mnist_root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "reslab", "train", "mnist", "--recipe", "mnist-resnet",
         "--epochs", "1", "--data-root", str(mnist_root), "--out", str(tmp_path / "r"), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["counts"] == {"train": 55000, "validation": 5000, "test": 10000}
    assert found["test"]["n"] == 10000
    # One epoch of ten: measured 96.8 to 97.4 % over seeds 0 to 3.
    assert found["test"]["accuracy"] > 0.955
    again = reslab.evaluate(tmp_path / "r", "mnist", data_root=mnist_root, quiet=True)
    assert again.accuracy == found["test"]["accuracy"]


def test_reslab_data_names_the_data_root(mnist_root, monkeypatch):
    monkeypatch.setenv("RESLAB_DATA", str(mnist_root))
    assert open_pictures("mnist").counts() == {"train": 60000, "validation": 0, "test": 10000}


def test_real_weights_give_timms_own_features(lite0):
    import timm
    from safetensors.torch import load_file

    ours = build_network(NetworkSpec("tf_efficientnet_lite0", 10, 3, (224, 224)), 0)
    load_pretrained(ours, "tf_efficientnet_lite0", str(lite0))
    theirs = timm.create_model("tf_efficientnet_lite0")
    theirs.load_state_dict(load_file(lite0), strict=True)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        one, two = (net.eval().forward_features(x) for net in (ours, theirs))
    assert torch.equal(one, two)
    # A new head starts as torch's linear layer does, not as timm's own range.
    assert ours.classifier.weight.abs().max() <= 1280**-0.5 + 1e-6
    wanted = pretrained_preprocessing("tf_efficientnet_lite0")
    assert (wanted.size, wanted.interpolation, wanted.mean) == ((224, 224), "bicubic", (0.5,) * 3)


def test_a_classifier_of_real_photos_from_list_files(food, lite0, tmp_path):
    """An eighth of the training list; the list's indices become class names."""
    lines = (food / "train.txt").read_text().splitlines()[::8]
    few = tmp_path / "few.txt"
    few.write_text("\n".join(lines))
    tests = tmp_path / "tests.txt"
    tests.write_text("\n".join((food / "test.txt").read_text().splitlines()[::10]))
    (tmp_path / "classes.txt").write_text((food / "classes.txt").read_text())
    found = reslab.train(
        few, test=tests, root=food, recipe="photos", network="tf_efficientnet_lite0",
        weights=lite0, epochs=4, out=tmp_path / "r", seed=1, quiet=True,
        fields={"augment.zoom": 1, "views": 1},
    )  # fmt: skip
    assert found.info["counts"]["test"] == 125
    assert "apple_pie" in found.classes
    assert found.test["accuracy"] > 0.6
    trained = load_model(found.path).network.state_dict()
    for key, value in read_state(lite0).items():
        if not key.startswith("classifier."):
            assert torch.equal(trained[key], value), key
    photo = lines[0].rsplit(" ", 1)[0]
    guess = reslab.Classifier.load(found.path).predict(food / photo)
    assert guess.label in found.classes


def test_a_zip_of_lists_is_read_in_place(shared):
    pictures = open_pictures(shared / "data" / "food10.zip")
    assert pictures.counts() == {"train": 3750, "validation": 0, "test": 1250}
    assert pictures.classes[0] == "apple_pie"
