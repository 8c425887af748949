"""Each published network, optimiser and training step against a plain-PyTorch statement of it.

The statements are written from the publications' description and share no code with reslab.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reslab.learning.loop import train_epochs
from reslab.learning.optimizers import build_optimizer
from reslab.learning.state import TrainingState
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.pictures.batches import TrainingBatches
from reslab.pictures.content import keys_of
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.names import Names
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples
from reslab.recipes.files import load_recipe
from reslab.training.preparation import freeze, preprocessing_of


class PlainResblock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.a1, self.a2 = nn.Conv2d(20, 30, 5, padding=2), nn.Conv2d(30, 20, 3, padding=1)
        self.conv2 = nn.Conv2d(20, 15, 3)
        self.b1, self.b2 = nn.Conv2d(15, 30, 5, padding=2), nn.Conv2d(30, 15, 3, padding=1)
        self.fc = nn.Linear(375, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(x + self.a2(self.a1(x)))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(x + self.b2(self.b1(x)))
        return self.fc(x.view(len(x), -1))


class PlainResnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5)
        self.a1, self.a2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.b1, self.b2 = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(x + self.a2(F.relu(self.a1(x))))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(x + self.b2(F.relu(self.b1(x))))
        return self.fc(x.view(len(x), -1))


class PlainCnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(1600, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.view(len(x), -1))))


class PlainCifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2)
        self.stem_norm = nn.BatchNorm2d(64, eps=0.001)
        self.layers = nn.ModuleList()
        width = 64
        for stage, out in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                self.layers += [
                    nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.Conv2d(out, out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                ]
                if stride == 2:
                    self.layers.append(nn.Conv2d(width, out, 1, stride=2))
                width = out
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        layers = list(self.layers)
        while layers:
            conv1, norm1, conv2, norm2 = layers[:4]
            del layers[:4]
            y = F.relu(norm1(conv1(x)))
            y = F.relu(norm2(conv2(y)))
            if conv1.stride == (2, 2):
                x = layers.pop(0)(x)
            x = F.relu(x + y)
        return self.fc(F.avg_pool2d(x, 3).flatten(1))


class PlainPhotos(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 16, 5, padding=2)
        self.c2, self.c3 = nn.Conv2d(16, 32, 5, padding=2), nn.Conv2d(32, 32, 5, padding=2)
        self.c4 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc = nn.Linear(64 * 64 * 64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(F.relu(self.c3(F.relu(self.c2(x)))), 2)
        return self.fc(F.relu(self.c4(x)).flatten(1))


def plain_resnet152():
    import torchvision

    network = torchvision.models.resnet152(weights=None)
    network.fc = nn.Linear(2048, 10)
    return network


# recipe: (statement, parameters counted by hand, size, channels, optimiser, mean, std)
PUBLISHED = {
    "mnist-resblock": (
        PlainResblock, 42_790, (28, 28), 1,
        lambda p: torch.optim.Adam(p, lr=0.001), 0.0, 1.0,
    ),
    "mnist-resnet": (
        PlainResnet, 41_514, (28, 28), 1,
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5), 0.1307, 0.3081,
    ),
    "mnist-cnn": (
        PlainCnn, 121_930, (28, 28), 1,
        lambda p: torch.optim.SGD(p, lr=0.01), 0.0, 1.0,
    ),
    "cifar10-resnet18": (
        PlainCifar, 11_180_810, (96, 96), 3,
        lambda p: torch.optim.SGD(p, lr=0.01), 0.5, 0.5,
    ),
    "photos-cnn": (
        PlainPhotos, 2_712_394, (256, 256), 3,
        lambda p: torch.optim.Adam(p, lr=0.001), None, None,
    ),
}  # fmt: skip


def with_same_weights(ours: nn.Module, plain: nn.Module) -> None:
    """Copy our initial weights into the statement, in the order in which layers are declared."""
    sizes = [tuple(p.shape) for p in plain.parameters()]
    mine = {}
    for parameter in ours.parameters():
        mine.setdefault(tuple(parameter.shape), []).append(parameter)
    with torch.no_grad():
        for parameter, size in zip(plain.parameters(), sizes, strict=True):
            parameter.copy_(mine[size].pop(0))
    assert not any(mine.values())


def samples(count: int, channels: int, size: tuple[int, int]) -> Samples:
    rng = np.random.default_rng(5)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, channels, *size), dtype=np.uint8))
    labels = rng.integers(0, 10, count)
    keys = rng.integers(0, 2**63, count).astype(np.uint64)
    return Samples(
        Names.of(map(str, range(count))),
        labels,
        pixels=HeldPixels(pixels),
        keys=keys_of(keys, keys),
    )


def build(name: str):
    recipe = load_recipe(name)
    size = recipe.preprocess.size
    network = build_network(NetworkSpec(recipe.network, 10, recipe.preprocess.channels, size), 3)
    return recipe, network


@pytest.mark.parametrize("name", PUBLISHED)
def test_forward_pass_and_parameter_count(name):
    statement, count, size, channels, *_ = PUBLISHED[name]
    recipe, ours = build(name)
    plain = statement()
    assert recipe.preprocess.size == size
    assert sum(p.numel() for p in ours.parameters()) == count
    assert sum(p.numel() for p in plain.parameters()) == count
    with_same_weights(ours, plain)
    x = torch.randn(2, channels, *size)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


class InDouble(nn.Module):
    """A network computing in float64.

    In float32 two orders of summation differ by half a percent after four steps of a network with
    batch norm, which would hide a real difference; measured in float64 they agree to 7 digits.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, x):
        return self.network(x.double())


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_steps(name):
    """Same initial weights, same pictures: the same losses over several steps."""
    statement, _, size, channels, optimiser, mean, std = PUBLISHED[name]
    recipe, ours = build(name)
    plain = statement()
    with_same_weights(ours, plain)
    # Fewer of the large pictures, for time.
    steps = (8, recipe.batch_size) if channels == 1 else (3, 4)
    recipe = recipe.with_fields({"batch_size": steps[1], "epochs": 1, "shuffle": False})
    from reslab.pictures.settings import Augmentation

    augmented = recipe.augment
    recipe = recipe.model_copy(update={"augment": Augmentation()})
    data = samples(steps[0] * steps[1], channels, size)
    preprocessing = preprocessing_of(recipe)
    batches = TrainingBatches(
        PixelStore(data, preprocessing), preprocessing, recipe.augment,
        batch_size=steps[1], shuffle=False, seed=0,
    )  # fmt: skip
    ours = InDouble(ours)
    state = TrainingState(ours, build_optimizer(recipe.optimizer, ours, ()))
    sums = [
        event.loss * (event.step + 1) * steps[1]
        for event in train_epochs(state, recipe, batches, {}, "cpu")
        if hasattr(event, "loss")
    ]
    losses = np.diff([0.0, *sums]) / steps[1]
    if mean is None:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    plain = InDouble(plain)
    step = optimiser(plain.parameters())
    expected = []
    plain.train()
    for start in range(0, len(data), steps[1]):
        x = (data.pixels.shared[start : start + steps[1]].float() / 255 - mean) / std
        loss = F.cross_entropy(plain(x), torch.from_numpy(data.labels[start : start + steps[1]]))
        step.zero_grad()
        loss.backward()
        step.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert expected[-1] != pytest.approx(expected[0], rel=1e-3)
    assert augmented.colours == name.startswith("photos")


def test_resnet152_trains_its_head_only():
    """The frozen ResNet-152: the same loss as the statement, and the backbone bit-identical."""
    recipe = load_recipe("photos-resnet152").with_fields(
        {"batch_size": 2, "epochs": 1, "preprocess.size": 64, "augment.resize": 64,
         "preprocess.mean": "0.485,0.456,0.406", "preprocess.std": "0.229,0.224,0.225"}
    )  # fmt: skip
    from reslab.pictures.settings import Augmentation

    recipe = recipe.model_copy(update={"augment": Augmentation()})
    ours = build_network(NetworkSpec("resnet152", 10, 3, (64, 64)), 3)
    plain = plain_resnet152()
    plain.load_state_dict(ours.state_dict())
    freeze(ours, recipe)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    data = samples(6, 3, (64, 64))
    preprocessing = preprocessing_of(recipe)
    batches = TrainingBatches(
        PixelStore(data, preprocessing), preprocessing, recipe.augment,
        batch_size=2, shuffle=False, seed=0,
    )  # fmt: skip
    trained = [p for p in ours.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 2048 * 10 + 10
    state = TrainingState(ours, build_optimizer(recipe.optimizer, ours, ("fc.",)))
    events = list(train_epochs(state, recipe, batches, {}, "cpu"))
    after = ours.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}
    # The statement: frozen including batch-norm statistics, Adam on the head.
    plain.eval()
    step = torch.optim.Adam(plain.fc.parameters(), lr=0.001)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    total = 0.0
    for start in range(0, 6, 2):
        with torch.no_grad():
            x = (data.pixels.shared[start : start + 2].float() / 255 - mean) / std
        loss = F.cross_entropy(plain(x), torch.from_numpy(data.labels[start : start + 2]))
        step.zero_grad()
        loss.backward()
        step.step()
        total += loss.item() * 2
    assert events[-1].record["train_loss"] == pytest.approx(total / 6, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "optimizer", "loop"),
    [
        ("mnist-resblock", ("adam", 0.001, 0), (64, 1000, 10, False)),
        ("mnist-resnet", ("sgd", 0.01, 0.5), (64, 1000, 10, True)),
        ("mnist-cnn", ("sgd", 0.01, 0), (32, 1000, 5, False)),
        ("cifar10-resnet18", ("sgd", 0.01, 0), (64, 128, 20, True)),
        ("photos-resnet152", ("adam", 0.001, 0), (64, 64, 20, True)),
        ("photos-cnn", ("adam", 0.001, 0), (64, 64, 20, True)),
    ],
)
def test_training_settings(name, optimizer, loop):
    recipe = load_recipe(name)
    found = recipe.optimizer
    assert (found.name, found.lr, found.momentum) == optimizer
    assert found.weight_decay == 0
    assert (recipe.batch_size, recipe.eval_batch_size, recipe.epochs, recipe.shuffle) == loop
    assert recipe.schedule.name == "constant"
    assert recipe.label_smoothing == 0
    assert recipe.split.validation == (0.1 if name.startswith("photos") else 5000)


def test_photo_augmentation_settings():
    augment = load_recipe("photos-resnet152").augment
    assert augment == load_recipe("photos-cnn").augment
    assert augment.model_dump() == {
        "resize": (300, 300), "rotate": 45, "zoom": 1, "shift": 0, "edge": "black",
        "flip_horizontal": 0.5, "flip_alternating": False, "flip_vertical": 0.5,
        "brightness": 0.2, "contrast": 0.1, "saturation": 0.1, "hue": 0.1, "grey": 0.1,
        "policy": "none", "erase": 0,
    }  # fmt: skip


def test_initial_weights_follow_the_publications():
    """Xavier-uniform for CIFAR-10's convolutions and linear layer, torch's default elsewhere."""
    _, network = build("cifar10-resnet18")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
            bound = (6 / (fan_in + fan_out)) ** 0.5
            largest = layer.weight.abs().max().item()
            assert 0.98 * bound < largest <= bound * 1.0001
    _, network = build("mnist-cnn")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.9 * bound < layer.weight.abs().max().item() <= bound * 1.0001
