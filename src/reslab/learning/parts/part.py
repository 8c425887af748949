"""A part of a training step: what it may do, where its randomness comes from, what it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from reslab.pictures import draws
from reslab.recipes.recipe import Recipe


@dataclass(frozen=True)
class Moment:
    """A step of a run. `steps` is how many an epoch has; all count from 0.

    piece: which piece of its batch, where the pieces are computed each on its own.
    """

    seed: int
    epoch: int
    step: int
    steps: int
    piece: int | None = None

    @property
    def count(self) -> int:
        """How many steps were made before."""
        return self.epoch * self.steps + self.step

    def generator(self, part: "Part") -> torch.Generator:
        """What a part draws in this step, whatever was drawn before it and elsewhere."""
        return draws.generator(*self.address(part.name))

    def address(self, purpose: str) -> tuple[int, str, *tuple[int, ...]]:
        """Where the randomness of this step, or of this piece of its batch, begins."""
        piece = () if self.piece is None else (self.piece,)
        return (self.seed, purpose, self.epoch, self.step, *piece)


class Part:
    """Each method is one place of a step, and does nothing unless a part has something to do there.

    What a part keeps from step to step goes through `state` and `load`, so that a checkpoint holds
    it and a resumed run goes on bit for bit.
    """

    name: ClassVar[str]  # its address for randomness, and its tensors' prefix in a checkpoint
    mixes: ClassVar[bool] = False  # whether `batch` lets pictures of a batch meet each other

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "Part | None":
        """The part as a recipe asks for it, or None if it does not."""
        return None

    def batch(
        self, x: torch.Tensor, targets: torch.Tensor, moment: Moment
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch, pictures (n, C, H, W) or features (n, ...), on the device.

        Targets are class indices (n,), or become probabilities (n, classes).
        """
        return x, targets

    def passing(self, moment: Moment) -> None:
        """Make ready for a batch, or a piece of it, to go through the network."""

    def gradients(self, network: nn.Module, moment: Moment) -> None:
        """Change the gradients, before the optimiser uses them."""

    def weights(self, network: nn.Module, moment: Moment) -> None:
        """Look at, or change, the weights after the optimiser's step."""

    def judged(self, network: nn.Module) -> nn.Module:
        """The network to judge and to keep in the place of the one that trains."""
        return network

    def state(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint must hold."""
        return {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `state` gave. Raises RuntimeError or KeyError if it does not fit."""
        if tensors:
            raise KeyError(f"{self.name} keeps nothing")
