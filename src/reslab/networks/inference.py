"""Forward passes without gradients."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from reslab.pictures.batches import Batch
from reslab.pictures.settings import Averaging

VIEWS: dict[Averaging, int] = {"none": 1, "flip": 2, "flip-shift": 6}  # that an average is over


def logits_of(
    network: nn.Module, batches: Iterable[Batch], device: str, averaging: Averaging = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, classes), float32 on the CPU, in evaluation mode, and the labels (N,).

    The network's mode is put back afterwards, module by module.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            parts = [
                (averaged(network, as_input(x, device), averaging).cpu(), labels)
                for x, labels in batches
            ]
    finally:
        for module, training in modes.items():
            module.training = training
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(labels)


def averaged(network: nn.Module, x: torch.Tensor, averaging: Averaging) -> torch.Tensor:
    """Logits (N, classes) of pictures (N, C, H, W), float32, averaged over views of each.

    "flip": the picture and its mirror image. "flip-shift": those with half of the weight, and
    both moved by a pixel up and left, and down and right, with the other half (K. Jordan,
    arXiv 2404.00498, section 3.5).
    """

    def plain(view: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(view)
        return logits.float()

    def both(view: torch.Tensor) -> torch.Tensor:
        return (plain(view) + plain(view.flip(-1))) / 2

    if averaging == "none":
        return plain(x)
    if averaging == "flip":
        return both(x)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return both(x) / 2 + (both(padded[..., :-2, :-2]) + both(padded[..., 2:, 2:])) / 4


def as_input(x: torch.Tensor, device: str) -> torch.Tensor:
    """A batch on the device; pictures channels last: a step was 1.13 times as fast (LOG.md)."""
    if x.ndim != 4:
        return x.to(device)
    return x.to(device, memory_format=torch.channels_last)
