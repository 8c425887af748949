"""What a recipe may add to a training step, a module each.

One more: a field of the recipe, a module here with a `Part`, and its line in `PARTS`.
"""

from torch import nn

from reslab.learning.parts.clipping import Clipping
from reslab.learning.parts.fold_heads import FoldHeads
from reslab.learning.parts.growing import Growing
from reslab.learning.parts.mixing import Mixing
from reslab.learning.parts.moving_average import MovingAverage
from reslab.learning.parts.part import Part
from reslab.learning.parts.stochastic_depth import StochasticDepth
from reslab.recipes.recipe import Recipe

# In the order in which they act.
PARTS: tuple[type[Part], ...] = (
    MovingAverage,
    FoldHeads,
    Growing,
    Mixing,
    StochasticDepth,
    Clipping,
)


def build_parts(recipe: Recipe, network: nn.Module, classes: int) -> tuple[Part, ...]:
    """The parts that a recipe asks for, of a training of this network on so many classes."""
    found = (kind.of(recipe, network, classes) for kind in PARTS)
    return tuple(part for part in found if part is not None)
