"""Optimisers over groups of parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from reslab.recipes.groups import Optimizer


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for convolutions, SGD with Nesterov momentum for all else.

    A convolution's weight is first brought to the norm sqrt(outputs); its momentum, seen as a
    matrix (outputs, inputs x height x width), is orthogonalised by a quintic Newton-Schulz
    iteration, and the step is `lr` times that. K. Jordan et al.: Muon,
    kellerjordan.github.io/posts/muon, in the form of cifar10-airbench.
    torch.optim.Muon takes matrices alone and leaves their norm to grow.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, nesterov: bool) -> None:
        super().__init__(groups, {"nesterov": nesterov, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the parameters; a closure that gives the loss is called first, as by torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(
        self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"]
        if not group["orthogonal"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        momentum.mul_(group["momentum"]).add_(gradient)
        if group["nesterov"] or not group["orthogonal"]:
            step = gradient.add(momentum, alpha=group["momentum"])
        else:
            step = momentum
        if group["orthogonal"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp(min=1e-12))
            step = orthogonalised(step.flatten(1)).view(step.shape)
        parameter.add_(step, alpha=-group["lr"])


def orthogonalised(matrix: torch.Tensor, iterations: int = 3) -> torch.Tensor:
    """A matrix of about the same singular vectors, the singular values moved towards 1.

    The coefficients of the quintic make its slope at zero steep; values end up in about
    [0.5, 1.5] from where three iterations reach them, which trains as well as exact ones.
    """
    x = matrix / matrix.norm().clamp(min=1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    # The iteration is a polynomial in this square matrix, so the wide one is needed only twice.
    gram = wide @ wide.T
    whole = identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(iterations):
        part = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        whole = part @ whole
        gram = part @ gram @ part
    found: torch.Tensor = whole @ wide
    return found if x.shape[0] <= x.shape[1] else found.T


def build_optimizer(
    settings: Optimizer, network: nn.Module, head: tuple[str, ...]
) -> torch.optim.Optimizer:
    """The optimiser over the parameters that train.

    head: how the names of the last layer's parameters begin. Each group's "peak" is its largest
    learning rate; a step sets "lr" to a share of it.
    """
    groups = _groups(settings, network, head)
    if settings.name == "muon":
        return Muon(groups, nesterov=settings.nesterov)
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay)


def _groups(settings: Optimizer, network: nn.Module, head: tuple[str, ...]) -> list[dict[str, Any]]:
    """The trained parameters by how they are trained; those of a group keep their order."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    blocks = list(dict.fromkeys(block_of(name) for name, _ in network.named_parameters()))
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        peak = settings.lr
        if name.startswith(head):
            peak = settings.head_lr or peak
        elif name.endswith("bias"):
            peak = settings.bias_lr or peak
        peak *= settings.layer_decay ** (len(blocks) - 1 - blocks.index(block_of(name)))
        orthogonal = settings.name == "muon" and parameter.ndim == 4
        found.setdefault((peak, orthogonal), []).append(parameter)
    groups = []
    for (peak, orthogonal), parameters in found.items():
        group: dict[str, Any] = {"params": parameters, "peak": peak, "lr": peak}
        if settings.name == "muon":
            group["orthogonal"] = orthogonal
            group["momentum"] = settings.momentum if orthogonal else settings.sgd_momentum
            group["weight_decay"] = 0.0 if orthogonal else settings.weight_decay / peak
        groups.append(group)
    return groups


def block_of(parameter: str) -> str:
    """The block of layers a parameter stands in: layer4 of layer4.1.conv2.weight, or blocks.5."""
    first, *rest = parameter.split(".")
    numbered = not first[-1].isdecimal() and len(rest) > 1 and rest[0].isdecimal()
    return f"{first}.{rest[0]}" if numbered else first
