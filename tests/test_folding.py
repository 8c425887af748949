"""Folding changes the work, not the function."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import reslab
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.networks.folding import folded, folded_in_each_pass


def lived_in(network):
    """Batch norms with statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            layer.bias.data.normal_(0, 0.3, generator=generator)
    return network.eval()


def norms(network):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize(
    ("name", "channels", "size", "left"),
    [
        ("resnet18", 3, 64, 0),
        ("small-resnet", 1, 28, 0),
        ("cifar10-resnet18", 3, 96, 0),
        ("mnist-fast", 1, 28, 0),
        ("cifar10-fast", 3, 32, 3),  # a pooling stands between a convolution and its norm
    ],
)
def test_the_same_function(name, channels, size, left):
    network = lived_in(build_network(NetworkSpec(name, 10, channels, (size, size)), 0))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(4, channels, size, size)
    found = folded(network, x[:1])
    assert norms(found) == left
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_timms_norms_with_activations_fold_too():
    network = lived_in(timm.create_model("tf_efficientnet_lite0", num_classes=5))
    x = torch.randn(2, 3, 64, 64)
    found = folded(network, x[:1])
    assert norms(found) == 0
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [lambda one, two: one(), lambda one, two: two()])
def test_a_convolution_used_twice_is_left_alone(kind):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y).flatten(1)

    class Again(Twice):
        def forward(self, x):
            return (self.norm(self.conv(x)) + self.conv(2 * x)).flatten(1)

    network = lived_in(kind(Twice, Again))
    found = folded(network, torch.randn(1, 1, 8, 8))
    assert norms(found) == 1
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_training_with_frozen_statistics_learns_the_same(name):
    spec = NetworkSpec(name, 5, 3, (64, 64))
    network = lived_in(build_network(spec, 0)).double()
    x, labels = torch.randn(4, 3, 64, 64).double(), torch.arange(4)
    found = folded_in_each_pass(network, x[:1])
    assert found is not network
    assert {id(p) for p in found.parameters()} == {id(p) for p in network.parameters()}

    def gradients(of):
        network.zero_grad()
        F.cross_entropy(of(x), labels).backward()
        return {key: p.grad.clone() for key, p in network.named_parameters()}

    expected = gradients(network)
    names = set(network.state_dict())
    for key, gradient in gradients(found).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-6, atol=1e-9)
    with torch.no_grad():  # the weights that it computes with are those of now
        network.get_parameter(next(iter(expected))).mul_(1.5)
        torch.testing.assert_close(found(x), network(x))
    assert set(network.state_dict()) == names


def test_an_average_is_judged_as_it_is_now(split_photos, weights, tmp_path):
    """What is judged in each epoch are the weights that are kept, folding or not."""
    run = reslab.train(
        split_photos, out=tmp_path / "run", network="resnet18", weights=weights, seed=1, epochs=3,
        train_from="layer4", features="online", batch_size=8, precision="fp32", quiet=True,
        ema_decay=0.5, head="trained", lr=1e-5,
        fields={"preprocess.size": 32, "augment.resize": 36},
    )  # fmt: skip
    kept = run.history[run.info["best_epoch"]]
    assert kept["validation_loss"] == pytest.approx(run.info["validation"]["loss"], rel=1e-3)


def test_what_cannot_be_traced_stays_as_it_is():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x):
            y = self.layers(x).flatten(1)
            return y if y.sum() > 0 else -y

    network = lived_in(Deciding())
    assert folded(network, torch.randn(1, 1, 8, 8)) is network
    assert folded_in_each_pass(network, torch.randn(1, 1, 8, 8)) is network
