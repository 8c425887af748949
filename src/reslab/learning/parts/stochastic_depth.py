"""Residual branches that are skipped by chance while training."""

from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from reslab.learning.parts.part import Moment, Part
from reslab.networks.stochastic_depth import marked
from reslab.recipes.recipe import Recipe

_HOOKS: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()


class StochasticDepth(Part):
    """In a step each picture skips each residual branch with its own chance.

    What passes is scaled up, so that the mean stays: G. Huang et al.: Deep Networks with Stochastic
    Depth, ECCV 2016, arXiv 1603.09382, there for a batch at a time. Outside a step nothing is
    skipped. Unlike dropout it does so in pretrained layers too, which train in evaluation mode.
    """

    name = "depth"

    def __init__(self, chances: dict[nn.Module, float]) -> None:
        self._drawn: torch.Generator | None = None
        for layer, chance in chances.items():
            # Of a training before, which may have ended in the middle of a step.
            if layer in _HOOKS:
                _HOOKS[layer].remove()
            _HOOKS[layer] = layer.register_forward_hook(_Skip(self, chance))

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "StochasticDepth | None":
        return cls(marked(network)) if recipe.drop_path else None

    def passing(self, moment: Moment) -> None:
        self._drawn = moment.generator(self)

    def gradients(self, network: nn.Module, moment: Moment) -> None:
        self._drawn = None

    def skipping(self, out: torch.Tensor, chance: float) -> torch.Tensor:
        """A branch's output (N, ...), skipped and scaled by picture; as it is outside a step."""
        if self._drawn is None:
            return out
        kept = (torch.rand(len(out), generator=self._drawn) >= chance).float() / (1 - chance)
        return out * kept.to(out.device, out.dtype).view(-1, *[1] * (out.ndim - 1))


class _Skip:
    """What follows the last layer of a branch."""

    def __init__(self, part: StochasticDepth, chance: float) -> None:
        self.part = part
        self.chance = chance

    def __deepcopy__(self, memo: object) -> "_Skip":
        # A copy of the network, such as an average of it, is in no step.
        return _Skip(StochasticDepth({}), self.chance)

    def __call__(self, layer: nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        return self.part.skipping(out, self.chance)
