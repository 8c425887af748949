"""Training pictures that start small and grow to their full size over the epochs."""

import torch
import torch.nn.functional as F
from torch import nn

from reslab.learning.parts.part import Moment, Part
from reslab.recipes.recipe import Recipe

Size = tuple[int, int]


def size_in(recipe: Recipe, epoch: int, full: Size) -> Size:
    """(height, width) of training pictures in an epoch, of pictures whose full size is `full`."""
    settings = recipe.progressive
    share = epoch / (settings.until * recipe.epochs)
    if share >= 1:
        return full
    scale = settings.start + (1 - settings.start) * share
    step = settings.multiple
    height, width = (min(side, max(1, round(side * scale / step)) * step) for side in full)
    return height, width


def sizes_of(recipe: Recipe, full: Size) -> list[Size]:
    """The sizes that the epochs of a run have, the smallest first."""
    if recipe.progressive.start == 1:
        return [full]
    return sorted({size_in(recipe, epoch, full) for epoch in range(recipe.epochs)})


class Growing(Part):
    """Batches are made smaller by area, whatever size they come in; evaluation is not touched.

    J. Howard in fast.ai's DAWNBench entries of 2018; M. Tan, Q. Le: EfficientNetV2, ICML 2021,
    arXiv 2104.00298, section 4, for the linear growth.
    """

    name = "grow"

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "Growing | None":
        return cls(recipe) if recipe.progressive.start < 1 else None

    def batch(
        self, x: torch.Tensor, targets: torch.Tensor, moment: Moment
    ) -> tuple[torch.Tensor, torch.Tensor]:
        full = (int(x.shape[-2]), int(x.shape[-1]))
        size = size_in(self.recipe, moment.epoch, full)
        if size == full:
            return x, targets
        return F.interpolate(x, size, mode="bilinear", antialias=True), targets
