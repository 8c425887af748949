"""What the fast recipes are made of: whitening, Muon, averaged views, micro-batches, flips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reslab
from reslab.learning.loop import gradients_of
from reslab.learning.loss import Loss
from reslab.learning.optimizers import Muon, build_optimizer, orthogonalised
from reslab.learning.state import TrainingState
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.networks.fast import Whitening
from reslab.networks.inference import averaged
from reslab.pictures.augmentation import augment, draw_for
from reslab.pictures.data_source import DataSource
from reslab.pictures.settings import Augmentation
from reslab.recipes.files import load_recipe
from reslab.recipes.groups import Optimizer
from reslab.recipes.recipe import Recipe
from reslab.training import preparation
from reslab.training.preparation import fit_first_layer, prepare, smallest_pass

KEYS = np.arange(40).astype(np.uint64) * np.uint64(7919)


def test_whitening_decorrelates_patches():
    noise = torch.randn(64, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    x = F.avg_pool2d(noise, 3, stride=1, padding=1) + noise[:, :1]  # correlated in every way
    layer = Whitening(3)
    layer.fit(x)
    y = layer(x).double()
    flat = y.permute(1, 0, 2, 3).flatten(1)[:12]
    covariance = flat @ flat.T / flat.shape[1]
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 0.01
    assert covariance.diag().min() > 0.9
    assert covariance.diag().max() < 1.01
    torch.testing.assert_close(y[:, 12:], -y[:, :12])
    assert not layer.weight.requires_grad


def test_whitening_is_computed_in_fp32_under_autocast():
    layer = Whitening(3)
    layer.fit(torch.rand(16, 3, 12, 12))
    x = torch.rand(4, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x).bfloat16())


def test_orthogonalised_keeps_the_directions_and_evens_the_sizes():
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 90), (90, 24)):
        matrix = torch.randn(shape, generator=generator)
        found = orthogonalised(matrix)
        assert found.shape == matrix.shape
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = left.T @ found @ right.T
        sizes = inner.diag()
        assert (inner - torch.diag(sizes)).abs().max() < 1e-4
        assert sizes.min() > 0.3
        assert sizes.max() < 1.3


def test_the_iteration_is_the_published_quintic():
    x = torch.randn(8, 20, dtype=torch.float64)
    expected = x / x.norm()
    for _ in range(3):
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalised(x), expected)


def test_muon_trains_convolutions_by_matrices_and_the_rest_by_sgd():
    network = build_network(NetworkSpec("cifar10-fast", 10, 3, (32, 32)), 0)
    settings = load_recipe("cifar10-fast").optimizer
    optimizer = build_optimizer(settings, network, ("7.",))
    assert isinstance(optimizer, Muon)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    kinds = {
        (group["orthogonal"], group["peak"]): {names[id(p)] for p in group["params"]}
        for group in optimizer.param_groups
    }
    assert {name.split(".")[-2] for name in kinds[True, settings.lr]} == {"conv1", "conv2"}
    assert kinds[False, settings.head_lr] == {"7.weight"}
    assert {name.split(".")[-2] for name in kinds[False, settings.bias_lr]} == {
        "norm1",
        "norm2",
        "0",
    }
    trained = {name for names in kinds.values() for name in names}
    assert "0.bias" in kinds[False, settings.bias_lr]
    assert "0.weight" not in trained


def test_muons_sgd_is_torchs():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    settings = Optimizer(name="muon", lr=0.1, momentum=0.6, sgd_momentum=0.8, weight_decay=0.01)
    one = build_optimizer(settings, ours, ())
    two = torch.optim.SGD(
        theirs.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1
    )
    x, labels = torch.randn(16, 5), torch.randint(0, 3, (16,))
    for _ in range(4):
        for network, optimizer in ((ours, one), (theirs, two)):
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels).backward()
            optimizer.step()
    for mine, plain in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, plain)


def test_micro_batches_sum_to_the_gradient_of_the_batch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, labels = torch.randn(10, 1, 4, 4), torch.randint(0, 3, (10,))
    plain = torch.autocast("cpu", torch.bfloat16, enabled=False)
    found = {}
    for passes in (1, 3, 10):
        network.zero_grad()
        result = gradients_of(network, x, labels, Loss(0.1), passes, 10, plain)
        found[passes] = (*result, network[1].weight.grad.clone())
    for passes in (3, 10):
        assert found[passes][0] == pytest.approx(found[1][0], rel=1e-6)
        assert found[passes][1] == found[1][1]
        torch.testing.assert_close(found[passes][2], found[1][2])


def test_views_are_averaged_by_their_weights():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1)[:, :2] + len(seen)

    x = torch.arange(2 * 36, dtype=torch.float32).view(2, 1, 6, 6)
    assert torch.equal(averaged(Watching(), x, "none"), x.flatten(1)[:, :2] + 1)
    seen.clear()
    averaged(Watching(), x, "flip")
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1], x.flip(-1))
    seen.clear()
    found = averaged(Watching(), x, "flip-shift")
    up_left = F.pad(x, (1, 0, 1, 0), mode="reflect")[..., :6, :6]
    down_right = F.pad(x, (0, 1, 0, 1), mode="reflect")[..., 1:, 1:]
    expected = [
        view for shifted in (x, up_left, down_right) for view in (shifted, shifted.flip(-1))
    ]
    for mine, view in zip(seen, expected, strict=True):
        assert torch.equal(mine, view)
    scores = [view.flatten(1)[:, :2] + place + 1 for place, view in enumerate(expected)]
    weights = [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    torch.testing.assert_close(found, sum(w * s for w, s in zip(weights, scores, strict=True)))


def test_alternating_flips_show_each_picture_both_ways():
    settings = Augmentation(flip_horizontal=0.5, flip_alternating=True)
    ramp = torch.arange(8, dtype=torch.uint8).expand(40, 1, 8, 8).contiguous()
    epochs = [
        augment(settings, ramp, (8, 8), draw_for(settings, 3, epoch, KEYS))[:, 0, 0, 0] == 7
        for epoch in range(4)
    ]
    assert 8 < int(epochs[0].sum()) < 32
    assert torch.equal(epochs[1], ~epochs[0])
    assert torch.equal(epochs[2], epochs[0])
    assert torch.equal(epochs[3], ~epochs[0])
    anew = Augmentation(flip_horizontal=0.5)
    drawn = [draw_for(anew, 3, epoch, KEYS)[:, 1] < 0.5 for epoch in range(2)]
    assert (drawn[0] == drawn[1]).any()


def test_reflected_shifts_are_those_of_a_padded_picture():
    settings = Augmentation(shift=0.25, edge="reflect", flip_horizontal=0.5, flip_vertical=0.5)
    pixels = torch.randint(0, 256, (40, 3, 8, 12), dtype=torch.uint8)
    drawn = draw_for(settings, 0, 0, KEYS)
    found = augment(settings, pixels, (8, 12), drawn)
    padded = F.pad(pixels.float(), (3, 3, 2, 2), mode="reflect").to(torch.uint8)
    for row in range(40):
        across = 3 + int(np.rint(3 * (2 * drawn[row, 5] - 1)))
        down = 2 + int(np.rint(2 * (2 * drawn[row, 7] - 1)))
        expected = padded[row, :, down : down + 8, across : across + 12]
        if drawn[row, 1] < 0.5:
            expected = expected.flip(-1)
        if drawn[row, 2] < 0.5:
            expected = expected.flip(-2)
        assert torch.equal(found[row], expected)


def small(**more):
    return load_recipe("cifar10-fast").with_fields(
        {"epochs": 2, "batch_size": 24, "micro_batch": 8, "precision": "fp32",
         "preprocess.size": 16, "split.test": 0.3, **more}
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_with_muon_goes_on_bit_for_bit(photos, tmp_path, precision):
    """Orthogonal momentum, micro-batches, whitening and averaging survive a stop in an epoch."""
    import safetensors.torch

    from reslab.training import training

    recipe = small(precision=precision)
    whole = reslab.train(photos, recipe=recipe, out=tmp_path / "whole", quiet=True)
    steps = training.train_epochs

    def stopped(state: TrainingState, *given):
        for number, event in enumerate(steps(state, *given)):
            yield event
            if number == 1:
                raise KeyboardInterrupt

    training.train_epochs = stopped
    recipe = small(precision=precision, checkpoint_every="1step")
    try:
        with pytest.raises(KeyboardInterrupt):
            reslab.train(photos, recipe=recipe, out=tmp_path / "part", quiet=True)
    finally:
        training.train_epochs = steps
    part = reslab.resume(tmp_path / "part", quiet=True)
    one, two = (safetensors.torch.load_file(run.model) for run in (whole, part))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert part.test["accuracy"] == whole.test["accuracy"]
    assert part.test["without_averaging"] == whole.test["without_averaging"]


def test_the_run_records_the_precision_it_settled_on(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "choose_precision", lambda *given, **more: ("bf16", "because"))
    run = reslab.train(photos, recipe=small(precision="auto"), out=tmp_path / "run", quiet=True)
    assert run.recipe().precision == run.info["precision"] == "bf16"
    assert run.info["precision_reason"] == "because"


def test_the_model_carries_its_averaging(photos, tmp_path):
    run = reslab.train(photos, recipe=small(), out=tmp_path / "run", quiet=True)
    assert run.test["averaging"] == "flip-shift"
    found = reslab.evaluate(run.path, photos, quiet=True)
    assert found.loss == pytest.approx(run.test["loss"], rel=1e-5)
    assert found.loss != pytest.approx(run.test["without_averaging"]["loss"], rel=1e-3)
    classifier = reslab.Classifier.load(run.path)
    paths = [photos / path for path in found.samples.paths]
    for guess, logits in zip(classifier.predict(paths), found.logits, strict=True):
        assert guess.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)


def whitening(data, seed, **more):
    prepared = prepare(DataSource.named(data).read(), small(seed=seed, **more))
    return prepared.network[0].weight.clone(), prepared


def test_whitening_has_its_address(photos, monkeypatch):
    """The pictures it learns from depend on the seed alone, and no global stream is touched."""
    monkeypatch.setattr(preparation, "WHITENED", 5)
    one, prepared = whitening(photos, 1)
    state = torch.random.get_rng_state()
    fit_first_layer(prepared.network, prepared.batches, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(prepared.network[0].weight, one)
    assert not torch.equal(whitening(photos, 2)[0], one)


@pytest.mark.parametrize("part", ["all", "head"])
def test_a_warm_start_keeps_its_whitening(photos, tmp_path, part):
    """The layers after it were trained on these very directions."""
    run = reslab.train(photos, recipe=small(epochs=1), out=tmp_path / "run", quiet=True)
    before = reslab.Classifier.load(run.path).model.network[0].weight
    after, _ = whitening(photos, 7, weights=str(run.model), train_from=part, features="online")
    assert torch.equal(after, before)


def test_no_pass_holds_one_picture():
    """26 pictures in batches of 13 in parts of 4: parts of 4 and 3, not one of 1."""

    class Batches:
        smallest = 13

    recipe = Recipe(batch_size=13, micro_batch=4)
    assert smallest_pass(recipe, Batches()) == 3
    assert smallest_pass(recipe.model_copy(update={"parts": 2}), Batches()) == 3
    assert smallest_pass(recipe.model_copy(update={"micro_batch": None}), Batches()) == 13
    sizes = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x):
            sizes.append(len(x))
            return self.layer(x.flatten(1))

    plain = torch.autocast("cpu", torch.bfloat16, enabled=False)
    x, labels = torch.randn(13, 1, 4, 4), torch.zeros(13).long()
    gradients_of(Watching(), x, labels, Loss(), 4, 13, plain)
    assert sizes == [4, 3, 3, 3]
