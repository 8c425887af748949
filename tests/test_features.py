"""A frozen part runs once a view: features that are kept, found again, and never mistaken."""

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from sklearn.linear_model import LogisticRegression
from torch import nn

import reslab
from drawn_pictures import picture
from reslab.cli.printing import print_run
from reslab.errors import InputError
from reslab.features import extraction as features
from reslab.features import solving
from reslab.features.solving import CutOffError, HeadProblem, best_head
from reslab.features.store import FeatureStore
from reslab.judging import charts
from reslab.networks.cutting import UncuttableError, cut
from reslab.networks.model_file import load_model
from reslab.pictures.cache import cache_folder
from reslab.pictures.content import keys_of

pytestmark = pytest.mark.usefixtures("undrawn")

ENTRY_BYTES = 24  # of the index: a key of 128 bits, a checksum, a mark


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_UNSAVED", WeakValueDictionary())
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def learn(split_photos, tmp_path, weights):
    """Train a head, or more, on the frozen ResNet-18; what is not given is the published way."""

    def run(name, data=split_photos, **more):
        options = {"train_from": "head", "preprocess.size": 32, "augment.resize": 40, **more}
        seed = options.pop("seed", 1)
        return reslab.train(
            data, recipe="photos-resnet152", network="resnet18",
            weights=options.pop("weights", weights), out=tmp_path / name, seed=seed,
            quiet=not options.pop("shown", False),
            epochs=options.pop("epochs", 4), batch_size=options.pop("batch_size", 16),
            overwrite=True, fields=options,
        )  # fmt: skip

    return run


def head_of(run):
    state = load_model(run.path).network.state_dict()
    return {key: value for key, value in state.items() if key.startswith("fc.")}


# The store


def named(*numbers):
    """Keys whose second halves differ too, in another order."""
    halves = np.array(numbers, dtype=np.uint64)
    return keys_of(halves, ~halves)


def store(folder, shape=(3,)):
    return FeatureStore(folder, shape, "<f4")


def test_the_store_gives_back_what_was_put(tmp_path):
    keys = named(7, 3, 2**64 - 1)
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    mine, other = store(tmp_path), store(tmp_path)
    mine.put(keys[:2], values[:2])
    other.put(keys[2:], values[2:])
    found = store(tmp_path)
    places = found.find(named(3, 5, 2**64 - 1, 7))
    assert (places >= 0).tolist() == [True, False, True, True]
    assert torch.equal(found.read(places[[3, 0, 2]]), torch.from_numpy(values))
    assert found.undamaged(places[[0, 2, 3]]).all()


def test_half_a_key_finds_nothing(tmp_path):
    """Two pictures may share 64 bits, by chance or on purpose; neither gets what is the other's."""
    one, rest = np.array([5, 5], dtype=np.uint64), np.array([1, 2], dtype=np.uint64)
    values = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    store(tmp_path).put(keys_of(one, rest), values)
    found = store(tmp_path)
    places = found.find(keys_of(np.array([5, 5, 5], np.uint64), np.array([2, 3, 1], np.uint64)))
    assert (places >= 0).tolist() == [True, False, True]
    assert found.read(places[[2, 0]]).tolist() == values.tolist()
    assert found.undamaged(places[[0, 2]]).all()


def test_what_a_killed_process_wrote_in_part_is_passed_over(tmp_path):
    keys = named(*range(4))
    values = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    store(tmp_path).put(keys, values)
    (index,) = tmp_path.glob("*.index")
    whole = index.read_bytes()
    data = index.with_suffix(".data").read_bytes()
    for cut_index in range(0, len(whole) + 1, 4):
        index.write_bytes(whole[:cut_index])
        found = store(tmp_path).find(keys)
        assert (found >= 0).sum() == cut_index // ENTRY_BYTES
    for cut_data in range(0, len(data), 4):
        index.with_suffix(".data").write_bytes(data[:cut_data])
        found = store(tmp_path).find(keys)
        assert (found >= 0).sum() == cut_data // 12
        assert store(tmp_path).undamaged(found[found >= 0]).all()


def test_every_flipped_bit_is_noticed(tmp_path):
    keys = named(*range(1, 5))
    values = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    store(tmp_path).put(keys, values)
    files = [*tmp_path.glob("*.index"), *tmp_path.glob("*.data")]
    for path in files:
        whole = path.read_bytes()
        for bit in range(len(whole) * 8):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            opened = store(tmp_path)
            places = opened.find(keys)
            good = places >= 0
            good[good] = opened.undamaged(places[good])
            # A damaged key may also hide the sound entry of another.
            assert 2 <= good.sum() <= 3, (path.name, bit)
            assert np.array_equal(opened.read(places[good]).numpy(), values[good])
        path.write_bytes(whole)


def test_the_newest_of_equal_keys_counts(tmp_path):
    key = named(5)
    for value in (1.0, 2.0, 3.0):
        store(tmp_path).put(key, np.full((1, 3), value, np.float32))
    assert store(tmp_path).read(store(tmp_path).find(key)).tolist() == [[3.0] * 3]


def test_a_write_that_fails_leaves_no_half(tmp_path, monkeypatch):
    keys = named(0, 1)
    values = np.ones((2, 3), np.float32)
    opened = store(tmp_path)
    opened.put(keys, values)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    original = type(tmp_path).open

    def full(self, *given, **more):
        if self.suffix == ".index":
            raise OSError(28, "No space left on device")
        return original(self, *given, **more)

    monkeypatch.setattr(type(tmp_path), "open", full)
    with pytest.raises(OSError, match="No space"):
        opened.put(named(2, 3), values)
    monkeypatch.undo()
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    opened.put(named(4, 5), values * 2)
    again = store(tmp_path)
    assert again.read(again.find(named(4, 5))).tolist() == (values * 2).tolist()


# The cut


@pytest.mark.parametrize("layer", ["layer2", "layer4", "layer4.1", "avgpool", "fc"])
def test_the_two_parts_are_the_whole(layer):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    parts = cut(network, layer)
    with torch.inference_mode():
        assert torch.equal(parts.after(parts.before(x)), network(x))
    names = set(network.state_dict())
    assert set(parts.before.state_dict()) | set(parts.after.state_dict()) == names
    assert not set(parts.before.state_dict()) & set(parts.after.state_dict())
    own = dict(network.named_parameters())
    assert all(value is own[key] for key, value in parts.after.named_parameters())


@pytest.mark.parametrize(
    ("layer", "message"),
    [("layer5", "no such layer; did you mean 'layer4'"), ("layer4.1.conv2", "not one tensor"),
     ("conv1", "not one tensor")],
)  # fmt: skip
def test_where_it_cannot_be_cut(layer, message):
    with pytest.raises(UncuttableError, match=message):
        cut(torchvision.models.resnet18(), layer)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_cut_before_their_heads(name):
    import timm

    network = timm.create_model(name, num_classes=3).eval()
    (head,) = [key for key, layer in network.named_modules() if layer is network.get_classifier()]
    parts = cut(network, head)
    assert set(parts.after.state_dict()) == {f"{head}.weight", f"{head}.bias"}


# Training on features


@pytest.mark.parametrize("layer", ["head", "layer4"])
def test_as_many_views_as_epochs_are_the_published_training(learn, layer):
    """The same views in the same order, with the forward passes done before."""
    more = {"epochs": 3, "train_from": layer, "optimizer.lr": 1e-4, "precision": "fp32"}
    cached = learn("cached", views=3, **more)
    online = learn("online", features="online", **more)
    assert cached.info["features"]["computed"] == 3 * 65 + 7 + 24
    assert "features" not in online.info
    close = {"rtol": 1e-4, "atol": 1e-6} if layer == "head" else {"rtol": 0.05, "atol": 2e-3}
    one, other = (load_model(run.path).network.state_dict() for run in (cached, online))
    for key in one:
        torch.testing.assert_close(one[key], other[key], **close)
    assert not torch.equal(
        head_of(cached)["fc.weight"], head_of(learn("few", views=1, epochs=3))["fc.weight"]
    )
    assert [line["train_loss"] for line in cached.history] == pytest.approx(
        [line["train_loss"] for line in online.history], rel=1e-3
    )
    labels = [(run.path / "predictions.csv").read_text().splitlines() for run in (cached, online)]
    assert [line.split(",")[:3] for line in labels[0]] == [
        line.split(",")[:3] for line in labels[1]
    ]


def test_what_is_known_is_not_computed_again(learn, split_photos, tmp_path):
    def counts(run):
        return run.info["features"]["computed"], run.info["features"]["known"]

    data = tmp_path / "data"
    shutil.copytree(split_photos, data)
    assert counts(learn("a", data, views=2)) == (2 * 65 + 7 + 24, 0)
    assert counts(learn("b", data, views=2, seed=5, **{"optimizer.lr": 0.1})) == (0, 161)
    assert counts(learn("c", data, views=2, head="solved")) == (0, 161)
    assert counts(learn("d", data, views=3)) == (65, 161)
    first = sorted((data / "test").rglob("*.png"))[0]
    first.rename(first.with_name("改名.png"))
    assert counts(learn("e", data, views=2)) == (0, 161)
    picture(0, 999, (40, 40)).save(data / "test" / first.parent.name / "new.png")
    assert counts(learn("f", data, views=2)) == (1, 161)
    assert counts(learn("g", data, views=2, **{"preprocess.size": 33})) == (162, 0)
    assert counts(learn("h", data, views=2, **{"augment.rotate": 20})) == (130, 32)
    assert counts(learn("i", data, views=2, view_seed=1)) == (130, 32)


def test_other_weights_never_meet_stale_features(learn, weights, tmp_path):
    learn("a", views=1)
    state = torch.load(weights)
    state["layer1.0.bn1.running_mean"][3] += 1e-3  # a buffer, and hardly changed
    torch.save(state, tmp_path / "other.pth")
    again = learn("b", views=1, weights=tmp_path / "other.pth")
    assert again.info["features"]["known"] == 0


def test_a_picture_that_stands_twice_is_computed_once(learn, split_photos, tmp_path):
    data = tmp_path / "d"
    shutil.copytree(split_photos, data)
    some = sorted((data / "test").rglob("*.png"))[0]
    shutil.copy(some, some.with_name("copy.png"))
    assert learn("a", data, views=0).info["features"]["computed"] == 72 + 24


def test_a_damaged_feature_is_computed_again_and_said(learn, capsys):
    first = learn("a", views=1)
    (data,) = (cache_folder() / "features").rglob("*.data")
    content = bytearray(data.read_bytes())
    content[5000] ^= 1
    data.write_bytes(content)
    again = learn("b", views=1)
    assert again.info["features"]["computed"] == again.info["features"]["damaged"] == 1
    assert "1 damaged feature(s) in the cache are computed again" in capsys.readouterr().err
    assert all(torch.equal(head_of(first)[key], value) for key, value in head_of(again).items())
    assert learn("c", views=1).info["features"]["computed"] == 0


def test_features_deleted_meanwhile_are_computed_again(learn, monkeypatch):
    """Another process prunes the cache while this one fills it."""
    whole = learn("whole", views=2)
    shutil.rmtree(cache_folder())
    original, calls = FeatureStore.put, []

    def pruned(self, keys, values):
        calls.append(len(keys))
        if len(calls) == 5:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
        original(self, keys, values)

    monkeypatch.setattr(FeatureStore, "put", pruned)
    again = learn("again", views=2)
    assert sum(calls) > 161
    assert all(torch.equal(head_of(whole)[key], value) for key, value in head_of(again).items())
    monkeypatch.setattr(FeatureStore, "put", lambda self, *given: shutil.rmtree(self.folder, True))
    with pytest.raises(InputError, match="deleted from the cache as soon as"):
        learn("never", views=2, view_seed=9)


def test_online_takes_its_views_in_turn_too(learn):
    more = {"epochs": 3, "views": 2, "precision": "fp32"}
    cached, online = learn("cached", **more), learn("online", features="online", **more)
    for key, value in head_of(cached).items():
        torch.testing.assert_close(head_of(online)[key], value, rtol=1e-4, atol=1e-6)


def test_a_resume_on_another_backbone_is_refused(learn, weights, tmp_path):
    own = tmp_path / "own.pth"
    shutil.copy(weights, own)
    learn("a", weights=own, epochs=2, **{"schedule.name": "constant"})
    state = torch.load(own)
    state["conv1.weight"][0] *= 2
    torch.save(state, own)
    with pytest.raises(InputError, match=r"frozen part differ: .*own\.pth"):
        reslab.resume(tmp_path / "a", epochs=3, quiet=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "solved", "features": "online"}, "works on cached features"),
        ({"head": "solved", "weights": "none"}, "needs weights that have learned"),
        ({"train_from": "layer9"}, "no such layer; did you mean 'layer4'"),
        ({"averaging": "flip"}, "goes with --features online"),
    ],
)
def test_what_does_not_go_together_is_refused(learn, fields, message):
    with pytest.raises(InputError, match=message):
        learn("a", **fields)


def test_a_solved_head_says_what_has_no_part_in_it(learn, capsys):
    learn("a", head="solved", views=0, **{"optimizer.momentum": 0.5, "optimizer.name": "sgd"})
    said = capsys.readouterr().err
    assert "the head is solved: batch_size, optimizer.momentum, optimizer.name has no part" in said


def test_a_full_disk_costs_the_cache_and_not_the_run(learn, monkeypatch, capsys):
    whole = learn("a", views=2)
    shutil.rmtree(cache_folder())
    original, calls = FeatureStore.put, []

    def full(self, keys, values):
        calls.append(len(keys))
        if len(calls) > 2:
            raise OSError(28, "No space left on device", "/cache")
        original(self, keys, values)

    monkeypatch.setattr(FeatureStore, "put", full)
    part = learn("b", views=2)
    assert len(calls) == 3
    assert all(torch.equal(head_of(whole)[key], value) for key, value in head_of(part).items())
    assert "No space left on device" in capsys.readouterr().err


def test_features_without_room_are_refused_before_the_work(learn, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE_LIMIT", "10KB")
    monkeypatch.setattr(features, "memory_budget", lambda: 1000)
    with pytest.raises(InputError, match=r"the features take .* fewer --views"):
        learn("a", views=2)


def test_pictures_beyond_the_memory_are_read_from_the_cache(learn, monkeypatch):
    held = learn("a", views=2)
    monkeypatch.setattr(features, "memory_budget", lambda: 1000)
    read = learn("b", views=2)
    assert all(torch.equal(head_of(held)[key], value) for key, value in head_of(read).items())


def test_what_is_damaged_while_it_is_read_from_the_cache_is_trained_on_by_none(learn, monkeypatch):
    monkeypatch.setattr(features, "memory_budget", lambda: 1000)
    learn("a", views=2)
    original, looks = FeatureStore.undamaged, []

    def damaged(self, places):
        looks.append(len(places))
        found = original(self, places)
        return found if len(looks) < 8 else np.zeros_like(found)

    monkeypatch.setattr(FeatureStore, "undamaged", damaged)
    with pytest.raises(InputError, match="or damaged, while they were in use"):
        learn("b", views=2)


def test_the_mode_a_network_is_left_in_makes_no_other_features():
    parts = cut(torchvision.models.resnet18(), "layer4")
    assert features._digest(parts.before.train()) == features._digest(parts.before.eval())


def test_killed_while_computing_and_started_again(learn, split_photos, weights, tmp_path):
    """The same features bit for bit, and nothing twice but the batch that was being computed."""
    wanted, views = (20, 20) if os.environ.get("RESLAB_LONG") == "1" else (2, 10)
    learn("whole", views=views, precision="fp32")
    expected = all_features()
    shutil.rmtree(cache_folder())
    script = (
        "import sys, time\n"
        "from reslab.features.store import FeatureStore\n"
        "original = FeatureStore.put\n"
        "def slow(self, keys, values):\n"
        "    original(self, keys, values)\n"
        "    print('put', len(keys), flush=True)\n"
        "    time.sleep(0.05)\n"
        "FeatureStore.put = slow\n"
        "import reslab\n"
        f"reslab.train({str(split_photos)!r}, recipe='photos-resnet152', network='resnet18',"
        f" weights={str(weights)!r}, out=sys.argv[1], seed=1, epochs=4, batch_size=16, quiet=True,"
        " overwrite=True, fields={'train_from': 'head', 'preprocess.size': 32,"
        f" 'augment.resize': 40, 'views': {views}, 'precision': 'fp32'}})\n"
    )
    computed = kills = 0
    while True:
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "killed")], stdout=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            for count, line in enumerate(process.stdout, 1):
                computed += int(line.split()[1])
                if count == 2 and kills < wanted:
                    time.sleep(0.09 * kills / wanted)
                    process.send_signal(signal.SIGKILL)
        if process.returncode == 0:
            break
        kills += 1
    assert kills == wanted
    found = all_features()
    assert found == expected
    assert computed <= len(expected) + 16 * kills
    assert all(
        torch.equal(value, head_of(learn("again", views=views, precision="fp32"))[key])
        for key, value in head_of(reslab.run.folder.open_run(tmp_path / "killed")).items()
    )


def all_features():
    """{key: value bytes} of all that the cache holds."""
    (folder,) = (cache_folder() / "features").iterdir()
    opened = FeatureStore(folder, (512,), "<f4")
    places = np.arange(len(opened._keys))
    assert opened.undamaged(places).all()
    values = opened.read(places).numpy()
    return {key.item(): row.tobytes() for key, row in zip(opened._keys, values, strict=True)}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_computing_ends_and_a_resume_goes_on(
    learn, monkeypatch, number, status, tmp_path
):
    whole = learn("whole", views=3)
    shutil.rmtree(cache_folder())
    original = FeatureStore.put

    def interrupted(self, keys, values):
        original(self, keys, values)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(FeatureStore, "put", interrupted)
    with pytest.raises(reslab.errors.InterruptedRunError, match="reslab resume") as caught:
        learn("part", views=3)
    assert 128 + caught.value.signal_number == status
    monkeypatch.undo()
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    part = reslab.resume(tmp_path / "part", quiet=True)
    assert part.info["features"]["known"] > 0
    assert all(torch.equal(head_of(whole)[key], value) for key, value in head_of(part).items())


# The solved head


def test_a_head_that_is_being_solved_can_be_stopped():
    x, labels = torch.randn(40, 3), torch.arange(40) % 2
    head, calls = nn.Linear(3, 2), []

    def stop():
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        best_head(head, HeadProblem(x, labels, None), (x, labels), stop)
    assert len(calls) == 30


def test_a_head_that_is_cut_off_is_the_best_that_was_met():
    """A line search meets worse ones too."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 10
    problem, strength = HeadProblem(torch.randn(200, 50), labels, None), 1e-6
    start, losses = nn.Linear(50, 10), []

    def loss(head):
        with torch.no_grad():
            squares = float((head.weight * problem.spread).square().sum())
        return float(problem.loss(problem.logits(head))) + strength / 2 * squares

    for most in range(30):
        head, left = copy.deepcopy(start), iter(range(most))

        def stop(left=left):
            if next(left, None) is None:
                raise CutOffError

        assert not problem.solve(head, strength, stop)
        losses.append(loss(head))
    assert losses[0] == pytest.approx(loss(start))
    assert all(after < before + 1e-5 for before, after in itertools.pairwise(losses))
    assert losses[0] > 5 * losses[-1]


def test_the_best_strength_before_a_cut_is_taken():
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    x = torch.randn(60, 4) + F.one_hot(labels, 4)
    solved, head, calls = [], nn.Linear(4, 3), itertools.count()

    def stop():
        if next(calls) == 40:
            raise CutOffError

    problem = HeadProblem(x, labels, None)
    solve = problem.solve
    problem.solve = lambda *given: solved.append(given[1]) or solve(*given)
    assert best_head(head, problem, (x, labels), stop) in solved
    assert 1 < len(solved) < 10


def test_the_solved_head_is_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6)) * [1, 2, 5, 0.1, 1, 1] + [0, 3, 0, 0, 0, 9]
    labels = (x[:, 0] + x[:, 1] / 2 + rng.normal(size=120) > 1).astype(int) + (x[:, 2] > 4)
    weight = 1 + (labels == 2)
    strength = 0.05
    head = nn.Linear(6, 3)
    tensors = torch.from_numpy(x).float(), torch.from_numpy(labels), torch.from_numpy(weight)
    HeadProblem(*tensors).solve(head, strength)
    scaled = (x - x.mean(0)) / x.std(0)
    expected = LogisticRegression(C=1 / (strength * 120), max_iter=5000, tol=1e-9)
    expected.fit(scaled, labels, weight)
    with torch.inference_mode():
        found = head(tensors[0]).softmax(1).numpy()
    np.testing.assert_allclose(found, expected.predict_proba(scaled), atol=1e-3)


@pytest.mark.drawn
def test_a_strength_is_called_a_strength_everywhere(learn, capfd, monkeypatch):
    """A solved head has no epochs: on the screen, in the history, in run.json, in the curves."""
    figures = []
    save = charts._save
    monkeypatch.setattr(
        charts, "_save", lambda figure, path: (figures.append(figure), save(figure, path))
    )
    run = learn("a", head="solved", epochs=3, shown=True)
    print_run(run, as_json=False)
    screen = "".join(capfd.readouterr())
    assert "epoch" not in screen
    assert "3 strengths of regularisation" in screen
    for number, strength in enumerate(solving.strengths(3), 1):
        assert f"strength {strength:.3g} ({number}/3)" in screen
    assert f"best head   strength of regularisation {run.info['best_strength']:.3g}" in screen
    assert run.info["best_strength"] in [line["strength"] for line in run.history]
    assert (run.info["strengths"], run.info["best_epoch"]) == (3, None)
    assert "epochs" not in run.info
    axes = figures[-1].axes
    assert {axis.get_xlabel() for axis in axes} == {
        "strength of regularisation, from strong to weak"
    }
    assert {axis.get_xscale() for axis in axes} == {"log"}
    left, right = axes[0].get_xlim()
    assert left > right
    assert list(axes[0].lines[0].get_xdata()) == pytest.approx(solving.strengths(3))


def test_a_path_of_strengths_is_a_run_like_any_other(learn):
    run = learn("a", head="solved", views=2, epochs=6)
    history = run.history
    assert all("epoch" not in line for line in history)
    assert [line["strength"] for line in history] == pytest.approx(solving.strengths(6))
    losses = [line["train_loss"] for line in history]
    assert losses == sorted(losses, reverse=True)
    assert run.test["accuracy"] > 0.6
    found = reslab.evaluate(run.path, run.info["source"]["data"], quiet=True)
    assert found.accuracy == run.test["accuracy"]
    assert found.loss == pytest.approx(run.test["loss"], rel=1e-3)


def test_a_stopped_path_goes_on_bit_for_bit(learn, monkeypatch, tmp_path):
    whole = learn("whole", head="solved", epochs=6)
    from reslab.training import training

    original = training.solved_path

    def interrupted(*given):
        for count, event in enumerate(original(*given)):
            if count == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    monkeypatch.setattr(training, "solved_path", interrupted)
    with pytest.raises(reslab.errors.InterruptedRunError):
        learn("part", head="solved", epochs=6)
    monkeypatch.setattr(training, "solved_path", original)
    part = reslab.resume(tmp_path / "part", quiet=True)
    assert all(torch.equal(head_of(whole)[key], value) for key, value in head_of(part).items())
    timed = {"seconds", "evaluate_seconds"}
    one, other = (
        [{key: line[key] for key in line.keys() - timed} for line in run.history]
        for run in (whole, part)
    )
    assert one == other


def test_classes_can_count_alike(learn, split_photos, tmp_path):
    """Of one class a twelfth as many: without weights it is hardly ever named."""
    data = tmp_path / "d"
    shutil.copytree(split_photos, data)
    rare = sorted((data / "train").iterdir())[0]
    for path in sorted(rare.iterdir())[4:]:
        path.unlink()
    shares = {}
    for kind in ("none", "balanced"):
        run = learn(kind, data, head="solved", epochs=1, class_weights=kind,
                    **{"split.validation": 0})  # fmt: skip
        lines = (run.path / "predictions.csv").read_text("utf-8").splitlines()[1:]
        shares[kind] = sum(line.split(",")[2] == rare.name for line in lines)
    assert shares["balanced"] > shares["none"]


# Any frozen prefix


@pytest.mark.parametrize("layer", ["layer4", "all"])
def test_the_last_layers_train_from_a_solved_head(learn, weights, layer):
    run = learn(
        "a", train_from=layer, head="solved", views=0, epochs=1, precision="fp32",
        **{"optimizer.lr": 1e-6, "augment.rotate": 0, "augment.flip_vertical": 0},
    )  # fmt: skip
    state, before = load_model(run.path).network.state_dict(), torch.load(weights)
    changed = {key for key in before if not torch.equal(state[key], before[key])}
    norms = {key for key in before if "running" in key or "num_batches" in key}
    own = {key for key in before if layer == "all" or key.startswith(("layer4", "fc."))}
    assert changed == own - norms
    # The first epoch is the solved head, hardly moved; a new one would be at chance.
    assert run.history[0]["train_accuracy"] > 0.8


def test_earlier_layers_learn_more_slowly():
    from reslab.learning.optimizers import build_optimizer
    from reslab.recipes.groups import Optimizer

    network = torchvision.models.resnet18()
    found = build_optimizer(
        Optimizer(name="adam", lr=0.1, layer_decay=0.5, head_lr=0.3), network, ("fc.",)
    )
    rates = {
        id(parameter): group["peak"]
        for group in found.param_groups
        for parameter in group["params"]
    }
    named = dict(network.named_parameters())
    assert rates[id(named["fc.weight"])] == pytest.approx(0.3)
    assert rates[id(named["layer4.1.conv2.weight"])] == pytest.approx(0.05)
    assert rates[id(named["layer4.0.conv1.weight"])] == pytest.approx(0.05)
    assert rates[id(named["layer3.0.conv1.weight"])] == pytest.approx(0.025)
    assert rates[id(named["conv1.weight"])] == pytest.approx(0.1 * 0.5**6)


# The cache as a command


def test_the_cache_shows_and_prunes(learn, capsys):
    from reslab.cli import run_command

    learn("a", views=1)
    capsys.readouterr()
    run_command(["cache", "--json"])
    held = json.loads(capsys.readouterr().out)
    assert held["kinds"]["features"]["bytes"] == 96 * (512 * 4 + ENTRY_BYTES)
    (cache_folder() / "features" / "mine.txt").write_text("not reslab's")
    run_command(["cache", "--prune", "100KB"])
    assert "0.0 MB" in capsys.readouterr().out
    assert [path.name for path in (cache_folder() / "features").iterdir()] != []
    with pytest.raises(InputError, match="is no size"):
        run_command(["cache", "--prune", "much"])
