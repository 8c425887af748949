"""A network on one page: layers, shapes, parameters, operations."""

from pathlib import Path

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.networks.catalogue import (
    OURS,
    TORCHVISION,
    NetworkSpec,
    build_network,
    default_input,
)
from reslab.networks.measuring import NetworkSummary, measure
from reslab.networks.model_file import load_model
from reslab.recipes.files import load_recipe, recipe_names

_MOST_CLASSES = 1_000_000


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
    return measure(network, spec, head_only=head_only)


def _parse_size(text: str) -> tuple[int, int]:
    sides = text.replace("x", ",").split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"--size {text}: such as 96, or 96,128 for height and width")
    return int(sides[0]), int(sides[-1])
