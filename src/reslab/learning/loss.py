"""What training minimises: cross entropy, smoothed and weighted as the recipe says."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from reslab.recipes.recipe import Recipe


def class_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weights of classes, up to the last that has a label (C,), that let each count as much as
    another; 1 in the mean over labels."""
    counts = torch.bincount(labels)
    return len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1)).float()


@dataclass(frozen=True)
class Loss:
    """Mean cross entropy of logits (n, classes), in nats.

    Targets are class indices (n,), or probabilities (n, classes) where a part of the step mixes
    pictures. weights: of each class up to the last that has a label, if they are not to count by
    their pictures.
    """

    label_smoothing: float = 0.0
    weights: torch.Tensor | None = None

    @classmethod
    def of(cls, recipe: Recipe, labels: torch.Tensor) -> "Loss":
        """A recipe's; `labels` (N,) are those of all training pictures."""
        balanced = recipe.class_weights == "balanced"
        return cls(recipe.label_smoothing, class_weights(labels) if balanced else None)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        each = F.cross_entropy(
            logits, targets, label_smoothing=self.label_smoothing, reduction="none"
        )
        weights = self.weights.to(each.device)
        # Classes after the last label are mixed into nothing.
        of = weights[targets] if targets.ndim == 1 else targets[:, : len(weights)] @ weights
        return (each * of).mean()


def hits(logits: torch.Tensor, targets: torch.Tensor) -> int:
    """How often the largest logit is the target's class, or its likeliest one."""
    wanted = targets if targets.ndim == 1 else targets.argmax(1)
    return int((logits.argmax(1) == wanted).sum())
