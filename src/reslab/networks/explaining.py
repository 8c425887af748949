"""Where a network looks: Grad-CAM at its last layer that still has places."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.errors import NoPlacesError
from reslab.networks.exported import ExportedNetwork
from reslab.networks.inference import as_input


def spatial_layer(network: nn.Module, x: torch.Tensor) -> str:
    """The name of the last layer whose output for x (N, C, H, W) is maps (N, channels, h, w).

    Raises NoPlacesError where there is none: nothing but vectors, or tokens as a transformer has.
    """
    names = {module: name for name, module in network.named_modules()}
    found: list[str] = []

    def note(module: nn.Module, given: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        if _are_maps(shape, x.shape):
            found.append(names[module])
        elif (len(shape) == 3 and shape[1] > 1) or (len(shape) == 4 and shape[2] * shape[3] > 1):
            found.clear()  # it goes on with tokens, or with places in another order

    handles = [module.register_forward_hook(note) for module in names if names[module]]
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    if not found and isinstance(network, ExportedNetwork):
        raise NoPlacesError(
            "an ONNX export does not show its layers, so there is nothing to show: explain the run"
            " it was exported from"
        )
    if not found:
        raise NoPlacesError(
            "this network has no layer whose outputs are places of the picture, so there is nothing"
            " to show: Grad-CAM needs convolutions up to the last pooling"
        )
    return found[-1]


def _are_maps(shape: tuple[int, ...], picture: torch.Size) -> bool:
    """Whether an output's last two sides are a coarser picture's."""
    if len(shape) != 4 or shape[0] != picture[0]:
        return False
    height, width = picture[-2:]
    h, w = shape[-2:]
    fits = 1 <= h <= height and 1 <= w <= width and h * w > 1
    return fits and abs(h * width - w * height) <= max(height, width)


def grad_cam(
    network: nn.Module, x: torch.Tensor, classes: torch.Tensor, layer: str, device: str = "cpu"
) -> np.ndarray:
    """How much each place of x (N, C, H, W) speaks for its class of `classes` (N,).

    Returns float32 (N, H, W): 0 where a place says nothing for it, 1 where it says most. It is all
    0 if no place speaks for the class.
    R. Selvaraju and others: Grad-CAM, arXiv 1610.02391; of the log odds of the class against all
    others in the place of its score, so that what speaks for every class alike marks nothing.
    """
    from captum.attr import LayerGradCam

    network.eval()
    chosen = network.get_submodule(layer)
    wanted = classes.to(device)[:, None]

    def log_odds(inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(inputs).float()
        others = logits.scatter(1, wanted, -torch.inf)
        return logits.gather(1, wanted)[:, 0] - others.logsumexp(1)

    with _only_inputs_learn(network), torch.enable_grad():
        method = LayerGradCam(log_odds, chosen)
        marks = method.attribute(as_input(x, device).requires_grad_(), relu_attributions=True)
    maps = nn.functional.interpolate(
        marks.detach().float().cpu(), x.shape[-2:], mode="bilinear", align_corners=False
    )[:, 0]
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return np.asarray((maps / highest.clamp(min=1e-30)).numpy())


@contextmanager
def _only_inputs_learn(network: nn.Module) -> Iterator[None]:
    """No parameter collects gradients inside the block."""
    learning = [p for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
