"""An exponential moving average of the weights, which is judged and kept in their place."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from reslab.learning.parts.part import Moment, Part
from reslab.recipes.recipe import Recipe


class MovingAverage(Part):
    """After step t the average moves by 1 - min(decay, (1 + t) / (10 + t)) towards the weights.

    The ramp lets a short run forget where it began: tf.train.ExponentialMovingAverage, with
    `num_updates`. B. Polyak, A. Juditsky: Acceleration of Stochastic Approximation by Averaging,
    SIAM J. Control Optim. 30 (1992), for why it helps. Batch norms' statistics are averaged too.
    """

    name = "ema"

    def __init__(self, decay: float, network: nn.Module) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "MovingAverage | None":
        return cls(recipe.ema_decay, network) if recipe.ema_decay else None

    @torch.no_grad()
    def weights(self, network: nn.Module, moment: Moment) -> None:
        count = moment.count
        # The first step's weights are taken whole: a head may have been solved since the start.
        pace = 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0
        own = self.network.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                own[name].lerp_(value, pace)
            else:
                own[name].copy_(value)

    def judged(self, network: nn.Module) -> nn.Module:
        return self.network

    def state(self) -> Mapping[str, torch.Tensor]:
        return self.network.state_dict()

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.network.load_state_dict(dict(tensors))
