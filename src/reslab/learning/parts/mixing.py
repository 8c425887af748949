"""Pictures of a batch mixed in pairs, and their labels in the same shares."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reslab.learning.parts.part import Moment, Part
from reslab.pictures import draws
from reslab.recipes.groups import Mixing as Settings
from reslab.recipes.recipe import Recipe


class Mixing(Part):
    """Mixup adds two pictures, CutMix puts a rectangle of one into the other; one share a batch.

    H. Zhang et al.: mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412.
    S. Yun et al.: CutMix, ICCV 2019, arXiv 1905.04899. Where features are cached, mixup is of them,
    at the one layer before which the network is cut: V. Verma et al.: Manifold Mixup, ICML 2019,
    arXiv 1806.05236.
    """

    name = "mix"
    mixes = True

    def __init__(self, settings: Settings, classes: int) -> None:
        self.settings = settings
        self.classes = classes

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "Mixing | None":
        wanted = recipe.mix.mixup or recipe.mix.cutmix
        return cls(recipe.mix, classes) if wanted else None

    def batch(
        self, x: torch.Tensor, targets: torch.Tensor, moment: Moment
    ) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = draws.distributions(moment.seed, self.name, moment.epoch, moment.step)
        partners = torch.from_numpy(drawn.permutation(len(x))).to(x.device)
        mixup, cutmix = self.settings.mixup, self.settings.cutmix
        cuts = bool(cutmix) and (not mixup or drawn.random() < 0.5)
        alpha = cutmix if cuts else mixup
        share = float(drawn.beta(alpha, alpha))
        if cuts:
            x, share = cut_in(x, x[partners], share, drawn)
        else:
            x = x.lerp(x[partners], 1 - share)
        labels = F.one_hot(targets, self.classes).float()
        return x, labels.lerp(labels[partners], 1 - share)


def cut_in(
    x: torch.Tensor, others: torch.Tensor, share: float, drawn: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Pictures (n, C, H, W) with a rectangle of others in them, and which share is their own.

    The rectangle's centre is anywhere in the picture, so that a part of it may lie beyond the edge:
    the share that is returned is exactly that of the pixels.
    """
    height, width = x.shape[-2:]
    half = np.sqrt(1 - share) / 2
    y, x0 = drawn.random() * height, drawn.random() * width
    top, bottom = (round(float(np.clip(y + way * half * height, 0, height))) for way in (-1, 1))
    left, right = (round(float(np.clip(x0 + way * half * width, 0, width))) for way in (-1, 1))
    x = x.clone()
    x[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return x, 1 - (bottom - top) * (right - left) / (height * width)
