"""Where a network's residual branches end, for stochastic depth."""

from torch import nn

from reslab.errors import InputError
from reslab.networks.fast import StridedGroup
from reslab.networks.published import Cifar10Block, PlainBlock
from reslab.networks.small import BasicBlock

_MARK = "_chance_to_skip"  # an underscore: it is no part of what a frozen layer computes


def mark_branches(network: nn.Module, name: str, chance: float) -> None:
    """Note on the last layer of each residual branch with which chance it is skipped.

    The chance grows linearly with depth, to `chance` at the last branch: G. Huang et al.: Deep
    Networks with Stochastic Depth, ECCV 2016, arXiv 1603.09382. A branch that is frozen is never
    skipped. Raises InputError if the network has no residual branches that train.
    """
    ends = [(block, end) for block in network.modules() for end in _ends(block)]
    trained = 0
    for number, (block, end) in enumerate(ends, 1):
        if any(parameter.requires_grad for parameter in block.parameters()):
            setattr(end, _MARK, chance * number / len(ends))
            trained += 1
    if not trained:
        raise InputError(
            f"drop_path = {chance}: {name} has no residual branches that train and can be skipped;"
            " leave it out, or use a residual network such as small-resnet or resnet18"
        )


def marked(network: nn.Module) -> dict[nn.Module, float]:
    """The layers that were marked, with their chances."""
    return {layer: vars(layer)[_MARK] for layer in network.modules() if is_marked(layer)}


def is_marked(layer: nn.Module) -> bool:
    return _MARK in vars(layer)


def _ends(block: nn.Module) -> list[nn.Module]:
    """The last layer of each residual branch of a block: what it gives is added to the shortcut."""
    if isinstance(block, BasicBlock | StridedGroup):
        return [block.norm2]
    if isinstance(block, PlainBlock):
        return [block.second]
    if isinstance(block, Cifar10Block):
        return [block.body[-1]]
    # An EfficientNet's that changes shape, a MobileViT's.
    if not getattr(block, "has_skip", True) or getattr(block, "shortcut", block) is None:
        return []
    # timm's keep a place for it; its ResNets and torchvision's have none where nothing drops.
    layers = dict(block.named_children())
    places = [layers.get(name) for name in ("drop_path", "drop_path1", "drop_path2")]
    if found := [place for place in places if place is not None]:
        return found
    if "bn2" in layers and hasattr(block, "downsample"):
        return [layers.get("se") or layers.get("bn3") or layers["bn2"]]
    return []
