"""What is said of one picture: its prediction, and where the network looked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from reslab.judging.overlay import overlay

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Guess:
    """A class and the probability the model gives it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one picture; `top` holds the likeliest classes, best first.

    probability: of the likeliest class.
    unknown: whether that is below what was asked for; `label` is then "unknown".
    set: with a coverage asked for, the classes among which the picture's own is, best first.
    """

    path: str
    label: str
    probability: float
    top: tuple[Guess, ...]
    unknown: bool | None = None
    set: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": g.label, "probability": g.probability} for g in self.top],
        }
        if self.unknown is not None:
            found["unknown"] = self.unknown
        if self.set is not None:
            found["set"] = list(self.set)
        return found


@dataclass(frozen=True)
class Asked:
    """How a table of probabilities is to be told.

    top: how many classes to name.
    unknown_below: the probability below which the likeliest class is not believed.
    least: the probability from which a class belongs to the set; None if no set is wanted.
    temperature: of the probabilities.
    """

    top: int
    unknown_below: float | None
    least: float | None
    temperature: float


@dataclass(frozen=True)
class Explanation:
    """Which places of a picture speak for a class.

    map: float32 (H, W) of the network's input size, from 0 to 1 where most speaks for it; all 0 if
        nothing does. layer: where in the network it was taken.
    pixels: what the network saw, uint8 (H, W, C).
    """

    path: str
    label: str
    probability: float
    layer: str
    map: np.ndarray
    pixels: np.ndarray

    def overlay(self) -> Image.Image:
        """The picture as the network saw it, with the map over it."""
        return overlay(self.pixels, self.map)


def told(name: str, row: np.ndarray, classes: tuple[str, ...], asked: Asked) -> Prediction:
    """What one picture's probabilities (classes,) say, told as asked."""
    order = np.argsort(-row, kind="stable")
    guesses = tuple(Guess(classes[index], float(row[index])) for index in order[: asked.top])
    best = guesses[0]
    unknown, members = None, None
    if asked.unknown_below is not None:
        unknown = best.probability < asked.unknown_below
    if asked.least is not None:
        # The likeliest belongs to it even where no class has enough: no answer helps nobody.
        count = max(1, int((row >= asked.least).sum()))
        members = tuple(classes[index] for index in order[:count])
    label = UNKNOWN if unknown else best.label
    return Prediction(name, label, best.probability, guesses, unknown, members)
