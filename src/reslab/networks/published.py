"""The networks of the five publications, layer for layer.

Where an activation and a maximum pooling follow each other, the pooling comes first, whichever the
publication has first: a rectifier keeps the order of numbers, so that values and gradients are the
same to the last digit, and it has a quarter of them to see to.

Each maps (N, C, H, W) to logits (N, classes). The input's size decides the width of the linear
layer; at the published size it is the published one.
"""

import torch
import torch.nn.functional as F
from torch import nn


def flat_features(trunk: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """How many numbers a trunk gives for one picture (C, H, W). Raises RuntimeError if too small.

    The trunk is only traced for shapes: nothing is computed and no random number drawn.
    """
    was_training = trunk.training
    shapes = {name: value.to("meta") for name, value in trunk.state_dict().items()}
    trunk.eval()
    out = torch.func.functional_call(
        trunk, shapes, (torch.empty(1, channels, *size, device="meta"),)
    )
    trunk.train(was_training)
    return int(out.numel())


class PlainBlock(nn.Module):
    """relu(x + second(between(first(x)))): a residual block without normalisation."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, *, relu_between: bool) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.relu_between = relu_between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        if self.relu_between:
            y = F.relu(y)
        return F.relu(x + self.second(y))


def mnist_resblock(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """Two convolutions, each followed by a residual block that widens to 30 channels within.

    The block has no activation between its convolutions: as published.
    """

    def block(width: int) -> PlainBlock:
        return PlainBlock(
            nn.Conv2d(width, 30, 5, padding=2),
            nn.Conv2d(30, width, 3, padding=1),
            relu_between=False,
        )

    trunk = nn.Sequential(
        *[nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.ReLU(), block(20)],
        *[nn.Conv2d(20, 15, 3), nn.MaxPool2d(2), nn.ReLU(), block(15)],
        nn.Flatten(),
    )
    return trunk.append(nn.Linear(flat_features(trunk, channels, size), classes))


def mnist_resnet(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """Two convolutions, each followed by a residual block of two 3x3 convolutions."""

    def block(width: int) -> PlainBlock:
        return PlainBlock(
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            relu_between=True,
        )

    trunk = nn.Sequential(
        *[nn.Conv2d(channels, 16, 5), nn.MaxPool2d(2), nn.ReLU(), block(16)],
        *[nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.ReLU(), block(32)],
        nn.Flatten(),
    )
    return trunk.append(nn.Linear(flat_features(trunk, channels, size), classes))


def mnist_cnn(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """Two convolutions and two linear layers: the plain network to compare with."""
    trunk = nn.Sequential(
        *[nn.Conv2d(channels, 32, 3), nn.MaxPool2d(2), nn.ReLU()],
        *[nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU()],
        nn.Flatten(),
    )
    features = flat_features(trunk, channels, size)
    return trunk.extend([nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes)])


class Cifar10Block(nn.Module):
    """relu(shortcut(x) + relu(norm(conv(relu(norm(conv(x)))))))

    The second normalisation is followed by an activation before the sum too, and a projection
    has a bias and no normalisation: as published, unlike He et al. (arXiv 1512.03385).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if projects else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def cifar10_resnet18(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """Four stages of two blocks; all convolutions and the linear layer start Xavier-uniform."""
    stages: list[nn.Module] = []
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        stages += [Cifar10Block(inputs, outputs, stride), Cifar10Block(outputs, outputs, 1)]
        inputs = outputs
    trunk = nn.Sequential(
        nn.Conv2d(channels, 64, 7, stride=2),
        nn.BatchNorm2d(64, eps=1e-3),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        *stages,
        nn.AvgPool2d(3),
        nn.Flatten(),
    )
    network = trunk.append(nn.Linear(flat_features(trunk, channels, size), classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return network


def photos_cnn(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """Three convolution stages and one linear layer over 64 maps of a quarter of the size."""

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU()]

    trunk = nn.Sequential(
        *[*conv(channels, 16), nn.MaxPool2d(2)],
        *[*conv(16, 32), *conv(32, 32), nn.MaxPool2d(2)],
        *conv(32, 64),
        nn.Flatten(),
    )
    return trunk.append(nn.Linear(flat_features(trunk, channels, size), classes))
