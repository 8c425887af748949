"""Means that users of other trainers expect: what each does, and that a resume repeats it."""

import copy
import csv
import hashlib
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import TrivialAugmentWide

import reslab
from reslab.cli import main
from reslab.errors import InputError
from reslab.features.extraction import ViewSettings
from reslab.learning.loss import Loss
from reslab.learning.parts import build_parts
from reslab.learning.parts.clipping import Clipping
from reslab.learning.parts.growing import Growing, size_in, sizes_of
from reslab.learning.parts.mixing import Mixing, cut_in
from reslab.learning.parts.part import Moment
from reslab.learning.parts.stochastic_depth import StochasticDepth
from reslab.networks.catalogue import OURS, NetworkSpec, build_network
from reslab.networks.cutting import cut
from reslab.networks.model_file import read_tensors
from reslab.networks.stochastic_depth import mark_branches, marked
from reslab.pictures import draws
from reslab.pictures.augmentation import augment, draw_for
from reslab.pictures.batches import TrainingBatches
from reslab.pictures.content import KEY
from reslab.pictures.erasing import AREA, erased
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.names import Names
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.settings import Augmentation
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples
from reslab.pictures.trivial import OPERATIONS, STRENGTHS, trivial_augment
from reslab.recipes.recipe import Recipe
from reslab.training import rate_test, session, training

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = {"seed": 3, "epochs": 4, "batch_size": 16, "quiet": True, "precision": "fp32"}
TOGETHER = {
    "mix.mixup": 0.4,
    "mix.cutmix": 1,
    "augment.policy": "trivial-wide",
    "augment.erase": 0.5,
    "augment.flip_horizontal": 0.5,
    "optimizer.clip_norm": 0.5,
    "drop_path": 0.3,
    "progressive.start": 0.5,
    "progressive.multiple": 4,
    "patience": 3,
    "ema_decay": 0.9,
    "micro_batch": 7,
    "class_weights": "balanced",
}
MOMENTS = [Moment(1, epoch, step, 50) for epoch in range(2) for step in range(50)]


def recipe(**fields):
    return Recipe().with_fields({name.replace("__", "."): of for name, of in fields.items()})


def sha(run):
    return hashlib.sha256(run.model.read_bytes()).hexdigest()


def state_of(run):
    tensors, header = read_tensors(run.last_checkpoint)
    state = {name: value.numpy().tobytes() for name, value in tensors.items()}
    progress = {name: of for name, of in header["progress"].items() if "seconds" not in name}
    return sha(run), state, progress


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(10, 3, 12, 16), torch.arange(10) % 4


# All together


def test_all_together_go_on_bit_for_bit_from_many_places(split_photos, tmp_path, monkeypatch):
    kept, original, saves = tmp_path / "kept", session.save_checkpoint, itertools.count()

    def keeping(run, *given):
        original(run, *given)
        shutil.copytree(run.path, kept / str(next(saves)))

    monkeypatch.setattr(session, "save_checkpoint", keeping)
    settings = SETTINGS | {"fields": TOGETHER, "checkpoint_every": "1step"}
    whole = reslab.train(split_photos, out=tmp_path / "whole", **settings)
    monkeypatch.setattr(session, "save_checkpoint", original)
    assert all(np.isfinite(row["train_loss"]) for row in whole.history)
    folders = sorted(kept.iterdir(), key=lambda path: int(path.name))
    assert len(folders) >= 20
    for folder in folders[1::5]:
        assert state_of(reslab.resume(folder, quiet=True)) == state_of(whole), folder.name


@pytest.mark.parametrize("one", [
    "mix.mixup", "mix.cutmix", "augment.policy", "augment.erase", "optimizer.clip_norm",
    "drop_path", "progressive.start",
])  # fmt: skip
def test_each_changes_the_training(split_photos, tmp_path, one):
    """Alone, so that none is a field that nothing reads."""
    settings = SETTINGS | {"epochs": 2}
    plain = reslab.train(split_photos, out=tmp_path / "plain", **settings)
    fields = {one: TOGETHER[one]}
    if one == "progressive.start":
        fields["progressive.multiple"] = 4
    changed = reslab.train(split_photos, out=tmp_path / "changed", fields=fields, **settings)
    assert sha(plain) != sha(changed)


def test_none_of_them_is_on_by_itself():
    assert build_parts(Recipe(), nn.Linear(2, 2), 2) == ()
    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    drawn = draw_for(Augmentation(), 0, 0, np.ones(1, np.uint64))
    assert augment(Augmentation(), pixels, (4, 4), drawn) is pixels


# Mixing


@pytest.mark.parametrize("settings", [{"mix__mixup": 0.4}, {"mix__cutmix": 1.0},
                                      {"mix__mixup": 0.4, "mix__cutmix": 1.0}])  # fmt: skip
def test_mixed_labels_are_the_shares_of_the_pictures(settings):
    """Picture k is all k, so that each result says by itself what it was made of."""
    x = torch.arange(10).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    part = Mixing.of(recipe(**settings), nn.Linear(1, 1), 10)
    kinds = set()
    for moment in MOMENTS:
        found, labels = part.batch(x, torch.arange(10), moment)
        assert torch.allclose(labels.sum(1), torch.ones(10))
        assert bool((labels >= 0).all())
        mean = found.mean(dim=(1, 2, 3))
        torch.testing.assert_close(mean, labels @ torch.arange(10).float(), atol=1e-4, rtol=0)
        kinds.add(bool((found == found.round()).all()) and len(found.unique()) > 1)
        again, _ = part.batch(x, torch.arange(10), moment)
        assert torch.equal(found, again)
    if len(settings) == 2:
        assert kinds == {True, False}


def test_the_cut_area_is_exactly_the_share_and_follows_it(batch):
    x = torch.zeros(2, 3, 40, 60)
    others = torch.ones_like(x)
    drawn = draws.distributions(0, "test")
    wanted, got = [], []
    for share in np.linspace(0.05, 0.95, 19).repeat(20):
        found, own = cut_in(x, others, float(share), drawn)
        assert own == pytest.approx(1 - found.mean().item(), abs=1e-6)
        assert own >= share - 0.05  # what lies beyond the edge is not cut
        wanted.append(share)
        got.append(own)
    assert not x.any()
    assert np.corrcoef(wanted, got)[0, 1] > 0.75


def test_mixup_of_cached_features_trains_a_head(tmp_path, split_photos, monkeypatch):
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    settings = SETTINGS | {"network": "resnet18", "weights": tmp_path / "w.pth", "epochs": 2}
    fields = {"train_from": "head", "preprocess.size": 32}
    plain = reslab.train(split_photos, out=tmp_path / "p", fields=fields, **settings)
    mixed = reslab.train(
        split_photos, out=tmp_path / "m", fields=fields | {"mix.mixup": 1.0}, **settings
    )
    assert sha(plain) != sha(mixed)
    assert mixed.info["features"]["computed"] == 0  # the same ones


# TrivialAugment and erasing


def test_each_trivial_operation_is_torchvisions():
    theirs = TrivialAugmentWide()
    names = list(theirs._AUGMENTATION_SPACE)
    torch.manual_seed(1)
    picture = torch.randint(0, 256, (3, 40, 48), dtype=torch.uint8)
    assert len(names) == len(OPERATIONS) == 14
    for which, name in enumerate(names):
        magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
        for level in (0, 7, 16, 30):
            for sign in (0.2, 0.8):
                drawn = [(which + 0.5) / 14, (level + 0.5) / STRENGTHS, sign]
                found = trivial_augment(picture[None], np.array([drawn]))[0]
                levels = magnitudes(STRENGTHS, 40, 48)
                magnitude = 0.0 if levels is None else float(levels[level])
                magnitude *= -1 if signed and sign < 0.5 else 1
                expected = theirs._apply_image_or_video_transform(
                    picture, name, magnitude, interpolation=theirs.interpolation, fill=theirs._fill
                )
                assert found.dtype == torch.uint8
                # A strength on the line between two values may round either way.
                same = (found.int() - expected.int()).abs() <= 1
                assert same.float().mean() > 0.99, (name, level, sign)


def test_trivial_draws_all_operations_and_depend_on_the_sample_alone():
    settings = Augmentation(policy="trivial-wide", erase=0.5, flip_horizontal=0.5)
    torch.manual_seed(0)
    keys = np.arange(1, 301, dtype=np.uint64)
    drawn = draw_for(settings, 5, 2, keys)
    assert set((drawn[:, 14] * 14).astype(int)) == set(range(14))
    pixels = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    content = np.zeros(300, KEY)
    content["draw"] = keys
    data = Samples(
        Names.of(map(str, keys)), np.zeros(300, int), pixels=HeldPixels(pixels), keys=content
    )
    record = Preprocessing(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)

    def of(rows, batch_size):
        batches = TrainingBatches(PixelStore(data, record), record, settings,
                                  batch_size=batch_size, shuffle=False, seed=5)  # fmt: skip
        torch.rand(7)  # the global stream decides nothing
        return batches.inputs(torch.tensor(rows), 2)

    whole = of(range(300), 300)
    for rows in ([7], [299, 0, 7], list(range(100, 120))):
        assert torch.equal(of(rows, 10), whole[rows])
    # A view of a photo whose features are frozen goes through the same place.
    views = ViewSettings(record, record, settings, seed=5)
    assert torch.equal(views.inputs(data, 7, (2,))[0], whole[7])


def test_grey_pictures_take_every_operation():
    pixels = torch.randint(0, 256, (14, 1, 20, 20), dtype=torch.uint8)
    drawn = np.stack([(np.arange(14) + 0.5) / 14, np.full(14, 0.9), np.full(14, 0.1)], axis=1)
    assert trivial_augment(pixels, drawn).shape == pixels.shape


@pytest.mark.parametrize("size", [(32, 32), (50, 90)])
def test_what_is_erased_is_one_rectangle_of_the_papers_area(size):
    drawn = draws.uniform(draws.address(0, "erase"), np.arange(2000, dtype=np.uint64), 5)
    found = erased(torch.ones(2000, 3, *size), 0.4, drawn)
    gone = (found == 0).all(1)
    assert torch.equal(gone, (found == 0).any(1))
    hit = gone.flatten(1).any(1)
    assert 0.36 < hit.float().mean() < 0.44
    areas = gone[hit].float().mean(dim=(1, 2))
    assert areas.min() > AREA[0] * 0.7  # rounded to whole pixels
    assert areas.max() < AREA[1] * 1.1
    assert 0.15 < areas.mean() < 0.20
    boxes = gone[hit].any(1).sum(1) * gone[hit].any(2).sum(1)
    assert torch.equal(boxes, gone[hit].sum(dim=(1, 2)))
    middle = gone[hit].float().mean(0)
    assert middle[0, 0] < middle[size[0] // 2, size[1] // 2]


def test_views_of_before_keep_their_names():
    """What was cached by a version without these fields is found again."""
    name = json.loads(Augmentation(rotate=3).name)
    assert not {"policy", "erase"} & name.keys()
    assert Augmentation(erase=0.5).name != Augmentation().name
    first = draw_for(Augmentation(), 6, 1, np.arange(5, dtype=np.uint64))[:, :16]
    before = draws.uniform(draws.address(6, "augment", 1), np.arange(5, dtype=np.uint64), 16)
    assert np.array_equal(first, before)


# Clipping, depth, growing


def test_the_norm_of_all_gradients_is_bounded():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    part = Clipping.of(recipe(optimizer__clip_norm=0.5), network, 2)
    network(torch.ones(2, 3)).sum().mul(10).backward()
    before = [p.grad.clone() for p in network.parameters()]
    part.gradients(network, MOMENTS[0])
    norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()
    assert norm == pytest.approx(0.5, rel=1e-4)
    ratios = [(p.grad / b)[b != 0] for p, b in zip(network.parameters(), before, strict=True)]
    assert torch.cat([r.flatten() for r in ratios]).std() < 1e-6  # the direction stays
    shorter = [p.grad.mul_(0.5).clone() for p in network.parameters()]
    part.gradients(network, MOMENTS[0])  # what is short enough is left as it is
    assert all(torch.equal(p.grad, s) for p, s in zip(network.parameters(), shorter, strict=True))


@pytest.mark.parametrize(
    ("name", "branches"),
    [("small-resnet", 6), ("cifar10-resnet18", 8), ("mnist-resnet", 2), ("mnist-fast", 2),
     ("resnet18", 8), ("resnet50", 16), ("timm:resnet26", 8), ("tf_efficientnet_lite0", 9),
     ("vit_tiny_patch16_224", 24), ("convnext_atto", 12), ("seresnet18", 8),
     ("mobilevitv2_050", 19)],  # its first three shrink or widen, and have no shortcut
)  # fmt: skip
def test_every_residual_branch_is_skipped_by_its_depth(name, branches):
    channels, size = OURS[name][1:] if name in OURS else (3, (224, 224))
    network = build_network(NetworkSpec(name, 5, channels, size), seed=0)
    mark_branches(network, name, 0.6)
    chances = list(marked(network).values())
    assert len(chances) == branches
    assert chances == pytest.approx([0.6 * (n + 1) / branches for n in range(branches)])


def test_a_network_is_cut_with_the_branches_that_may_be_skipped():
    """Where squeeze and excitation, which is followed inside else, ends a branch."""
    network = build_network(NetworkSpec("seresnet18", 5, 3, (224, 224)), seed=0)
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # those of branches' ends begin at nought
    mark_branches(network, "seresnet18", 0.5)
    StochasticDepth.of(recipe(drop_path=0.5), network, 5)  # as for a head that is solved first
    chances = list(marked(network).values())
    after = cut(network, "layer3").after
    assert list(marked(after).values()) == chances[4:]
    part = StochasticDepth.of(recipe(drop_path=0.5), after, 5)
    x = torch.rand(8, 128, 28, 28)
    plain = after(x)
    part.passing(MOMENTS[0])
    assert not torch.equal(after(x), plain)


def test_a_skipped_branch_leaves_the_shortcut_and_the_mean_stays():
    network = build_network(NetworkSpec("small-resnet", 5, 3, (16, 16)), seed=0).eval()
    block = network[4]  # of equal width: the shortcut is the input
    nn.init.ones_(block.norm2.weight)
    mark_branches(network, "small-resnet", 0.5)
    part = StochasticDepth.of(recipe(drop_path=0.5), network, 5)
    chance = marked(network)[block.norm2]
    x = torch.rand(1, 32, 8, 8).expand(4000, -1, -1, -1)
    branch = block(x[:1]) - x[:1]
    plain = block.norm2(block.conv2(block.norm1(block.conv1(x[:1])).relu()))
    part.passing(MOMENTS[0])
    found = block.norm2(block.conv2(block.norm1(block.conv1(x)).relu()))
    skipped = (found == 0).flatten(1).all(1)
    assert skipped.float().mean().item() == pytest.approx(chance, abs=0.03)
    torch.testing.assert_close(found[~skipped][:1], plain / (1 - chance))
    part.gradients(network, MOMENTS[0])
    assert torch.equal(block(x[:1]) - x[:1], branch)  # outside a step nothing is skipped


def test_a_training_that_broke_off_in_a_step_skips_nothing_of_the_next():
    """As a trial of a search that diverged, on the network that the others use too."""
    network = build_network(NetworkSpec("small-resnet", 5, 3, (16, 16)), seed=0).eval()
    mark_branches(network, "small-resnet", 0.9)
    for layer in marked(network):
        nn.init.ones_(layer.weight)
    x = torch.rand(64, 3, 16, 16)
    plain = network(x)
    broken = StochasticDepth.of(recipe(drop_path=0.9), network, 5)
    broken.passing(MOMENTS[0])
    assert not torch.equal(network(x), plain)
    average = copy.deepcopy(network)  # which is made before the part that skips
    after = StochasticDepth.of(recipe(drop_path=0.9), network, 5)
    assert torch.equal(network(x), plain)
    assert torch.equal(average(x), plain)
    after.passing(MOMENTS[0])
    assert not torch.equal(network(x), plain)


def test_classes_after_the_last_label_are_weighed_too():
    """Pictures of them may stand in what is held out alone."""
    labels = torch.tensor([0, 0, 0, 1])
    loss = Loss.of(recipe(class_weights="balanced"), labels)
    logits = torch.randn(2, 4)
    mixed = torch.tensor([[0.25, 0.75, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    weights = torch.tensor([4 / (2 * 3), 4 / 2])
    each = -(mixed * logits.log_softmax(1)).sum(1)
    expected = (each * (mixed[:, :2] @ weights)).mean()
    torch.testing.assert_close(loss(logits, mixed), expected)


def test_pretrained_layers_are_skipped_too_and_frozen_ones_are_not(tmp_path, split_photos):
    """They train in evaluation mode, in which dropout does nothing."""
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    settings = SETTINGS | {"network": "resnet18", "weights": tmp_path / "w.pth", "epochs": 1}
    fields = {"train_from": "layer4", "preprocess.size": 32, "head": "trained"}
    plain = reslab.train(split_photos, out=tmp_path / "p", fields=fields, **settings)
    fields["drop_path"] = 0.5
    skipping = reslab.train(split_photos, out=tmp_path / "s", fields=fields, **settings)
    assert sha(plain) != sha(skipping)
    assert skipping.info["features"]["computed"] == 0  # the frozen part is the same
    network = build_network(NetworkSpec("resnet18", 3, 3, (32, 32)), seed=0)
    for layer, parameter in network.named_parameters():
        parameter.requires_grad_(layer.startswith(("layer4", "fc")))
    mark_branches(network, "resnet18", 0.8)
    assert list(marked(network).values()) == pytest.approx([0.7, 0.8])


def test_pictures_grow_by_multiples_to_the_full_size(batch):
    asked = recipe(progressive__start=0.5, progressive__until=0.5, epochs=10)
    sizes = [size_in(asked, epoch, (224, 160)) for epoch in range(10)]
    # Half is 112 x 80, and 3.5 and 2.5 times 32 round to even.
    assert sizes[0] == (128, 64)
    assert sizes[5:] == [(224, 160)] * 5
    assert all(a <= b for a, b in itertools.pairwise(sizes))
    assert all(side % 32 == 0 for size in sizes for side in size)
    assert sizes_of(asked, (224, 160))[0] == sizes[0]
    assert sizes_of(Recipe(), (224, 160)) == [(224, 160)]
    part = Growing.of(recipe(progressive__start=0.5, progressive__multiple=4), nn.Linear(1, 1), 2)
    x, targets = batch
    assert part.batch(x, targets, Moment(0, 0, 0, 5))[0].shape == (10, 3, 8, 8)
    assert part.batch(x, targets, Moment(0, 9, 0, 5))[0] is x


# Patience


def test_patience_ends_a_run_that_gets_no_better(split_photos, tmp_path, monkeypatch, capfd):
    """With a rate of next to nothing the first epoch stays the best or close to it."""
    fields = {"optimizer.lr": 1e-30, "schedule.name": "constant", "patience": 2,
              "network": "mnist-cnn", "preprocess.size": 28, "preprocess.channels": 1,
              "optimizer.weight_decay": 0}  # fmt: skip
    settings = SETTINGS | {"epochs": 30, "fields": fields, "quiet": False}
    whole = reslab.train(split_photos, out=tmp_path / "w", **settings)
    best = whole.info["best_epoch"]
    assert len(whole.history) == whole.info["epochs"] == best + 3
    assert whole.info["stopped_early"] is True
    assert f"after {best + 3} of 30 epochs" in capfd.readouterr().err
    assert reslab.resume(whole.path).finished
    assert "its patience of 2 epochs has ended" in capfd.readouterr().err
    with pytest.raises(InputError, match="patience ends the run here"):
        reslab.resume(whole.path, epochs=40, quiet=True)
    original = training.train_epochs

    def stopping(*given):
        yield from itertools.islice(original(*given), 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_epochs", stopping)
    with pytest.raises(KeyboardInterrupt):
        reslab.train(split_photos, out=tmp_path / "p", **settings)
    monkeypatch.setattr(training, "train_epochs", original)
    assert state_of(reslab.resume(tmp_path / "p", quiet=True)) == state_of(whole)


def test_a_patient_run_may_go_further_as_if_it_had_never_ended(split_photos, tmp_path):
    settings = SETTINGS | {"fields": {"schedule.name": "constant", "patience": 20}}
    long = reslab.train(split_photos, out=tmp_path / "l", **settings | {"epochs": 4})
    short = reslab.train(split_photos, out=tmp_path / "s", **settings | {"epochs": 2})
    assert short.info["stopped_early"] is False
    assert sha(reslab.resume(short.path, epochs=4, quiet=True)) == sha(long)


def test_sizes_that_span_the_run_refuse_more_epochs(split_photos, tmp_path):
    fields = {"schedule.name": "constant", "progressive.start": 0.5, "progressive.multiple": 4}
    found = reslab.train(split_photos, out=tmp_path / "r", fields=fields, **SETTINGS)
    with pytest.raises(InputError, match="sizes span the whole run"):
        reslab.resume(found.path, epochs=9, quiet=True)


# The range test


def test_a_range_test_suggests_and_trains_nothing(split_photos, tmp_path, monkeypatch, capfd):
    found = reslab.find_lr(split_photos, out=tmp_path / "r", batch_size=16, quiet=True)
    assert 1e-4 < found.suggested < 1
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["lr.csv", "lr.png"]
    with (tmp_path / "r" / "lr.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rates) == len(found.losses)
    words = ["train", str(split_photos), "--find-lr", "--batch-size", "16", "--quiet", "--json",
             "--out", str(tmp_path / "r")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["reslab", *words])
    main()
    assert json.loads(capfd.readouterr().out)["suggested"] == found.suggested
    # A run may take the folder afterwards.
    assert reslab.train(split_photos, out=tmp_path / "r", **SETTINGS | {"epochs": 1}).finished


def test_a_range_test_works_with_training_pictures_alone(split_photos, tmp_path, monkeypatch):
    seen = []
    original = rate_test.new_state

    def noting(prepared, device):
        seen.append((prepared.pictures.counts(), prepared.evaluation.keys()))
        return original(prepared, device)

    monkeypatch.setattr(rate_test, "new_state", noting)
    reslab.find_lr(split_photos, out=tmp_path / "1", batch_size=16, quiet=True)
    # The same pictures as a training has: what is carved from them is left out.
    counts = {"train": 65, "validation": 0, "test": 0}
    assert [(found, set(held_out)) for found, held_out in seen] == [(counts, {"train"})]


def test_a_range_test_of_a_head_on_features(tmp_path, split_photos):
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    found = reslab.find_lr(
        split_photos, out=tmp_path / "r", quiet=True, network="resnet18", recipe="photos-resnet152",
        weights=tmp_path / "w.pth", fields={"preprocess.size": 32, "augment.resize": 36},
    )  # fmt: skip
    assert found.suggested > 0
