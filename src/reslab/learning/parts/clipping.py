"""Gradients that are too long are shortened."""

from torch import nn

from reslab.learning.parts.part import Moment, Part
from reslab.recipes.recipe import Recipe


class Clipping(Part):
    """The norm of all gradients together is brought down to a limit before the optimiser's step.

    R. Pascanu, T. Mikolov, Y. Bengio: On the difficulty of training recurrent neural networks,
    ICML 2013, arXiv 1211.5063.
    """

    name = "clip"

    def __init__(self, limit: float) -> None:
        self.limit = limit

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "Clipping | None":
        return cls(recipe.optimizer.clip_norm) if recipe.optimizer.clip_norm else None

    def gradients(self, network: nn.Module, moment: Moment) -> None:
        nn.utils.clip_grad_norm_(network.parameters(), self.limit)
