"""A network on one page: layers, shapes, parameters, operations."""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.networks.catalogue import (
    OURS,
    TORCHVISION,
    NetworkSpec,
    build_network,
    default_input,
    head_prefix,
)
from reslab.networks.model_file import load_model
from reslab.recipes.files import load_recipe, recipe_names

_MOST_CLASSES = 1_000_000


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


def summarise(
    name: str | Path,
    *,
    classes: int | None = None,
    size: str | None = None,
    channels: int | None = None,
) -> NetworkSummary:
    """The summary of a network, a recipe's network, or a model's, by name or path."""
    text = str(name)
    head_only = False
    is_recipe = text in recipe_names() or Path(text).suffix == ".toml"
    is_network = text in OURS or text in TORCHVISION
    if user_path(text).exists() and not (is_recipe or is_network):
        given = {"--classes": classes, "--size": size, "--channels": channels}
        if any(value is not None for value in given.values()):
            raise InputError(f"{text}: a model has its own classes, size and channels")
        if text.endswith(".onnx"):
            raise InputError(f"{text}: an export; ask for the summary of the model it came from")
        model = load_model(text)
        network, spec = model.network, model.spec
    else:
        network_name = text
        own_channels, own_size = None, None
        if is_recipe:
            recipe = load_recipe(text)
            network_name, head_only = recipe.network, recipe.train_from == "head"
            own_channels, own_size = recipe.preprocess.channels, recipe.preprocess.size
        default_channels, default_size = default_input(network_name)
        if classes is not None and not 1 <= classes <= _MOST_CLASSES:
            raise InputError(f"--classes {classes}: from 1 to {_MOST_CLASSES:,}")
        if channels not in (None, 1, 3):
            raise InputError(f"--channels {channels}: 1 or 3")
        spec = NetworkSpec(
            network_name,
            10 if classes is None else classes,
            channels or own_channels or default_channels,
            own_size or default_size if size is None else _parse_size(size),
        )
        network = build_network(spec, seed=0)
    return _measure(network, spec, head_only)


def _parse_size(text: str) -> tuple[int, int]:
    sides = text.replace("x", ",").split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"--size {text}: such as 96, or 96,128 for height and width")
    return int(sides[0]), int(sides[-1])


def _measure(network: torch.nn.Module, spec: NetworkSpec, head_only: bool) -> NetworkSummary:
    from torchinfo import summary as measure

    shape = (1, spec.channels, *spec.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            found = measure(network, input_size=shape, verbose=0, device="cpu", mode="eval")
        except RuntimeError:
            height, width = spec.size
            raise InputError(f"{spec.name} takes no input of {height}x{width}") from None
    names = {id(module): name for name, module in network.named_modules()}
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
