"""Heads of cross-validation: what each fold's has come to on the path, and what they said."""

from collections.abc import Mapping

import torch
from torch import nn

from reslab.features.freezing import only_linear
from reslab.learning.parts.part import Part
from reslab.recipes.recipe import Recipe


class FoldHeads(Part):
    """A head for each fold, solved without it; each strength starts from the one before.

    best_logits: what they said of the pictures left out of each (n, classes), at the best strength.
    """

    name = "folds"

    def __init__(self, inputs: int, classes: int) -> None:
        self.inputs, self.classes = inputs, classes
        self.heads: dict[int, nn.Linear] = {}
        self.best_logits = torch.empty(0, classes)

    @classmethod
    def of(cls, recipe: Recipe, network: nn.Module, classes: int) -> "FoldHeads | None":
        if not recipe.folds:
            return None
        head = only_linear(network)
        return cls(head.in_features, head.out_features)

    def without(self, fold: int) -> nn.Linear:
        """The head that does not know a fold, on the CPU."""
        if fold not in self.heads:
            # Built without drawing; the problem is convex, so zeros are as good a start as any.
            head = nn.Linear(self.inputs, self.classes, device="meta").to_empty(device="cpu")
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            self.heads[fold] = head
        return self.heads[fold]

    def state(self) -> Mapping[str, torch.Tensor]:
        found = {"best_logits": self.best_logits}
        for fold, head in self.heads.items():
            found |= {f"{fold}.{key}": value for key, value in head.state_dict().items()}
        return found

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if tensors["best_logits"].shape[1:] != (self.classes,):
            raise KeyError("best_logits")
        self.best_logits = tensors["best_logits"]
        for fold in sorted({int(key.split(".")[0]) for key in tensors if key != "best_logits"}):
            own = {key: tensors[f"{fold}.{key}"] for key in ("weight", "bias")}
            self.without(fold).load_state_dict(own)
