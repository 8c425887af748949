"""Networks by name: ours, torchvision's ResNets and ResNeXts, and timm's."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from reslab.errors import InputError, nearest
from reslab.networks.fast import cifar10_fast, mnist_fast
from reslab.networks.published import (
    cifar10_resnet18,
    mnist_cnn,
    mnist_resblock,
    mnist_resnet,
    photos_cnn,
)
from reslab.networks.small import small_resnet
from reslab.pictures import draws

Build = Callable[[int, int, tuple[int, int]], nn.Sequential]

# Name: (how to build it, channels and size it was made for).
OURS: dict[str, tuple[Build, int, tuple[int, int]]] = {
    "mnist-resblock": (mnist_resblock, 1, (28, 28)),
    "mnist-resnet": (mnist_resnet, 1, (28, 28)),
    "mnist-cnn": (mnist_cnn, 1, (28, 28)),
    "cifar10-resnet18": (cifar10_resnet18, 3, (96, 96)),
    "photos-cnn": (photos_cnn, 3, (256, 256)),
    "small-resnet": (small_resnet, 3, (32, 32)),
    "mnist-fast": (mnist_fast, 1, (28, 28)),
    "cifar10-fast": (cifar10_fast, 3, (32, 32)),
}
TORCHVISION = (
    *["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"],
    *["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"],
    *["wide_resnet50_2", "wide_resnet101_2"],
)


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network again: it travels in the model file."""

    name: str
    classes: int
    channels: int
    size: tuple[int, int]


def default_input(name: str) -> tuple[int, tuple[int, int]]:
    """(channels, (height, width)) a network was made for. Raises InputError for no such name."""
    if name in OURS:
        return OURS[name][1:]
    if name in TORCHVISION:
        return 3, (224, 224)
    return 3, timm_config(name).size


def head_prefix(name: str, network: nn.Module) -> tuple[str, ...]:
    """How the parameters of the last layer, the one that knows the classes, may begin."""
    if name in OURS:  # a sequence that ends with its linear layer
        return (f"{[child for child, _ in network.named_children()][-1]}.",)
    return ("fc.",) if name in TORCHVISION else timm_config(name).heads


def build_network(spec: NetworkSpec, seed: int | None = None) -> nn.Module:
    """The network of a spec, with weights drawn from the seed.

    Without a seed torchvision's and our networks have no memory of their own yet (device meta):
    load a state into them. Raises InputError if the size does not suit the network.
    """
    if seed is None and (spec.name in OURS or spec.name in TORCHVISION):
        with torch.device("meta"), _NothingDrawn():
            return _build(spec)
    if seed is None:  # timm keeps some buffers out of the state: its networks must really be built
        with torch.device("cpu"):
            return _build(spec)
    with draws.torch_stream(seed, "initial weights"):
        return _build(spec)


_DRAW = (
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
)


class _NothingDrawn(TorchFunctionMode):
    """Inside it initial weights are not drawn: tensors on device meta have none.

    Else each draw would go through torch's compiler, whose import takes a second (torchvision
    imports it all the same).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in _DRAW:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _build(spec: NetworkSpec) -> nn.Module:
    if spec.name in OURS:
        try:
            return OURS[spec.name][0](spec.classes, spec.channels, spec.size)
        except RuntimeError:
            height, width = spec.size
            raise InputError(
                f"pictures of {height}x{width} are too small for network {spec.name};"
                " a larger size is needed (in training --preprocess.size)"
            ) from None
    if spec.channels != 3:
        raise InputError(f"network {spec.name} takes 3 channels; set --preprocess.channels 3")
    if spec.name in TORCHVISION:
        import torchvision

        network: nn.Module = torchvision.models.get_model(
            spec.name, weights=None, num_classes=spec.classes
        )
        return network
    timm_config(spec.name)
    import timm

    built: nn.Module = timm.create_model(
        spec.name.removeprefix("timm:"), pretrained=False, num_classes=spec.classes
    )
    for name, layer in built.named_modules():
        # timm draws some heads from a range meant for its own long schedules.
        if f"{name}.".startswith(head_prefix(spec.name, built)) and isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return built


@dataclass(frozen=True)
class TimmConfig:
    """What timm says of a network's weights: how they want their pictures, and where they are."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_fraction: float
    heads: tuple[str, ...]
    source: str


def timm_config(name: str) -> TimmConfig:
    """timm's record of a network. Raises InputError if neither we nor timm know the name."""
    import timm

    plain = name.removeprefix("timm:")
    # With a colon or a slash timm would look in a folder or on a hub.
    known_form = re.fullmatch(r"[\w.-]+", plain) is not None
    config = None
    if known_form:
        try:
            config = timm.models.get_pretrained_cfg(plain, allow_unregistered=True)
        except RuntimeError:  # a network that it knows, with a tag that it does not
            held = timm.list_pretrained(f"{plain.split('.')[0]}.*")
            raise InputError(f"network {name}: no such weights{nearest(plain, held)}") from None
    if config is None and not (known_form and timm.is_model(plain)):
        known = (*OURS, *TORCHVISION, *timm.list_models())
        hint = nearest(name, known).split("; choose")[0]
        raise InputError(
            f"network {name!r} is unknown{hint}; it is one of {', '.join(OURS)}, a torchvision"
            " ResNet such as resnet50, or any network of timm by its name"
        )
    if config is None:
        raise InputError(f"network {name}: timm has no pretrained weights of it")
    named = config.classifier or ()
    heads = (named,) if isinstance(named, str) else named
    interpolation = config.interpolation if config.interpolation != "random" else "bilinear"
    return TimmConfig(
        size=(int(config.input_size[1]), int(config.input_size[2])),
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=interpolation,
        crop_fraction=min(1.0, float(config.crop_pct or 1)),
        heads=tuple(f"{head}." for head in heads),
        source=str(config.hf_hub_id or config.url or "timm's hub"),
    )
