"""What a recipe may add to a training step, a module each.

One more: a field of the recipe, a module here with a `Part`, and its line in `PARTS`.
"""

from torch import nn

from reslab.learning.parts.fold_heads import FoldHeads
from reslab.learning.parts.moving_average import MovingAverage
from reslab.learning.parts.part import Part
from reslab.recipes.recipe import Recipe

PARTS: tuple[type[Part], ...] = (MovingAverage, FoldHeads)  # in the order in which they act


def build_parts(recipe: Recipe, network: nn.Module) -> tuple[Part, ...]:
    """The parts that a recipe asks for, of a training of this network."""
    found = (kind.of(recipe, network) for kind in PARTS)
    return tuple(part for part in found if part is not None)
