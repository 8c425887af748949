"""A network's layers, shapes, parameters and operations."""

import copy
import warnings
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from reslab.errors import InputError
from reslab.networks.catalogue import NetworkSpec, head_prefix


@dataclass(frozen=True)
class Layer:
    """One layer: its output shape for a batch of one, parameters and multiply-adds."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class NetworkSummary:
    network: str
    input: tuple[int, int, int, int]
    classes: int
    parameters: int
    trained: int
    multiply_adds: int
    layers: tuple[Layer, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The layers as text, a line each."""
        rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
        for layer in self.layers:
            shape = "x".join(str(side) for side in layer.output)
            counts = f"{layer.parameters:,}", f"{layer.multiply_adds:,}"
            rows.append((layer.name, layer.kind, shape, *counts))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = []
        for row in rows:
            left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join([*left, *right]))
        shape = "x".join(str(side) for side in self.input)
        lines += [
            "",
            f"network      {self.network}, input {shape}, {self.classes} classes",
            f"parameters   {self.parameters:,}, of which the recipe trains {self.trained:,}"
            if self.trained != self.parameters
            else f"parameters   {self.parameters:,}",
            f"operations   {self.multiply_adds:,} multiply-adds a picture",
        ]
        return "\n".join(lines)


def measure(network: nn.Module, spec: NetworkSpec, *, head_only: bool = False) -> NetworkSummary:
    """Pass one picture's shape through a network. Raises InputError if it does not take it."""
    from torchinfo import summary

    shape = (1, spec.channels, *spec.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            # torchinfo moves what it is given, which may stand on another device.
            copied = copy.deepcopy(network)
            found = summary(copied, input_size=shape, verbose=0, device="cpu", mode="eval")
        except RuntimeError:
            height, width = spec.size
            raise InputError(f"{spec.name} takes no input of {height}x{width}") from None
    names = {id(module): name for name, module in copied.named_modules()}
    layers = tuple(
        Layer(
            name=names[layer.layer_id],
            kind=layer.class_name,
            output=tuple(layer.output_size),
            parameters=layer.num_params,
            multiply_adds=int(layer.macs),
        )
        for layer in found.summary_list
        if layer.is_leaf_layer
    )
    parameters = sum(p.numel() for p in network.parameters())
    trained = parameters
    if head_only:
        head = head_prefix(spec.name, network)
        trained = sum(p.numel() for k, p in network.named_parameters() if k.startswith(head))
    return NetworkSummary(
        network=spec.name,
        input=shape,
        classes=spec.classes,
        parameters=parameters,
        trained=trained,
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        layers=layers,
    )
