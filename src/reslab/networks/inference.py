"""Forward passes without gradients."""

from collections.abc import Iterable

import torch
from torch import nn

from reslab.pictures.batches import Batch


def logits_of(network: nn.Module, batches: Iterable[Batch], device: str) -> torch.Tensor:
    """Logits (N, classes), float32 on the CPU, in evaluation mode.

    The network's mode is put back afterwards, module by module.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            parts = [network(as_input(x, device)).float().cpu() for x, _ in batches]
    finally:
        for module, training in modes.items():
            module.training = training
    return torch.cat(parts)


def as_input(x: torch.Tensor, device: str) -> torch.Tensor:
    """A batch on the device, channels last: a training step was 1.13 times as fast (LOG.md)."""
    return x.to(device, memory_format=torch.channels_last)
