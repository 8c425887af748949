"""Residual networks built for time to accuracy."""

import torch
import torch.nn.functional as F
from torch import nn


class Whitening(nn.Conv2d):
    """A 2x2 convolution that decorrelates the patches of a picture, each sign on its own.

    Its weights are the eigenvectors of the patches' covariance, scaled by one over the square
    root of the eigenvalues, and their negatives: computed from pictures by `fit`, never trained;
    the bias is.
    Method: T. Swenson, hlb-CIFAR10; K. Jordan, arXiv 2404.00498, section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, 2)
        self.bias = nn.Parameter(torch.zeros(8 * channels))
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, x: torch.Tensor) -> None:
        """Set the weights from normalised pictures (N, C, H, W)."""
        channels = x.shape[1]
        total = torch.zeros(4 * channels, 4 * channels, dtype=torch.float64)
        for part in torch.split(x, 100):  # patches take four times the pictures' memory
            patches = F.unfold(part, 2).transpose(0, 1).flatten(1)
            total += (patches @ patches.T).double()
        values, vectors = torch.linalg.eigh(total / (len(x) * (x[0, 0, 1:, 1:].numel())))
        # The floor keeps directions that hardly vary from being blown up into noise.
        scaled = (vectors / (values.clamp(min=0) + 5e-4).sqrt()).T.view(-1, channels, 2, 2)
        self.weight.copy_(torch.cat([scaled, -scaled]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The weights differ by orders of magnitude and their products nearly cancel: in bf16 the
        # weak directions would be rounding noise.
        kind = x.device.type
        if not torch.amp.is_autocast_available(kind):  # such as "meta", where shapes alone count
            return super().forward(x)
        with torch.autocast(kind, enabled=False):
            y = super().forward(x.float())
        return y.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else y


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[: min(inputs, outputs)])  # what comes in passes through at first
    return conv


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=momentum)
    norm.weight.requires_grad_(False)  # the next convolution is free to scale
    return norm


class PooledGroup(nn.Module):
    """A convolution and a pooling to half the size, then one residual convolution."""

    def __init__(self, inputs: int, outputs: int, momentum: float) -> None:
        super().__init__()
        self.conv1 = _conv3(inputs, outputs)
        self.norm1 = _norm(outputs, momentum)
        self.conv2 = _conv3(outputs, outputs)
        self.norm2 = _norm(outputs, momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return x + F.gelu(self.norm2(self.conv2(x)))


def cifar10_fast(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """A whitening layer and three pooled groups of 64, 256 and 256 channels.

    After K. Jordan's airbench94 (arXiv 2404.00498; github.com/KellerJordan/cifar10-airbench), with
    the second convolution of each group made residual. Any input of 9 pixels a side or more.
    """
    if min(size) < 9:
        raise RuntimeError("three poolings leave nothing of such a picture")
    momentum = 0.06
    head = nn.Linear(256, classes, bias=False)
    nn.init.normal_(head.weight, std=1 / 256)
    return nn.Sequential(
        Whitening(channels),
        nn.GELU(),
        PooledGroup(8 * channels, 64, momentum),
        PooledGroup(64, 256, momentum),
        PooledGroup(256, 256, momentum),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        head,
    )


class StridedGroup(nn.Module):
    """A convolution to half the size, then one residual convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place, which is a twentieth of a step: no gradient needs what batch norm gave.
        x = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(x)).add_(x))


def mnist_fast(classes: int, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """Three halvings, to 16, 32 and 64 channels, the last two followed by a residual convolution.

    The strides come early, so that almost all of its 1.6 million multiplications a picture are
    spent on 49 places and less.
    """
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        StridedGroup(16, 32),
        StridedGroup(32, 64),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
