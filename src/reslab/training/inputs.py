"""What a network is to see: the recipe's preprocessing, completed by the weights' or the data's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reslab.disk import refuse_unwritable_name, user_path
from reslab.errors import InputError
from reslab.networks.catalogue import OURS
from reslab.networks.pretrained import pretrained_preprocessing
from reslab.pictures.decoding import decode
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import in_threads, read_picture
from reslab.pictures.settings import SMALL, Augmentation
from reslab.pictures.table import Pictures, Samples
from reslab.recipes.files import load_recipe
from reslab.recipes.groups import Inputs
from reslab.recipes.recipe import Recipe

_PEEKED = 64
_LARGE = 2048  # pixels a side: beyond it a JPEG's exact size decides nothing
_STATISTICS_FROM = 2000


@dataclass(frozen=True)
class Peek:
    """What a look at a few pictures of train says."""

    size: tuple[int, int]
    uniform: bool
    grey: bool

    @property
    def small(self) -> bool:
        return max(self.size) <= SMALL


def peek(pictures: Pictures) -> Peek:
    """Look at up to 64 pictures spread over train: the median size, and whether all are grey."""
    samples = pictures.train()
    found = [
        read_picture(samples, row, 3, lambda data: decode(data, 3, _LARGE))
        for row in _spread(len(samples), _PEEKED)
    ]
    sizes = np.array([tuple(pixels.shape[-2:]) for pixels in found])
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    return Peek(
        size=(height, width),
        uniform=bool((sizes == sizes[0]).all()),
        grey=all(bool((pixels == pixels[:1]).all()) for pixels in found),
    )


def _spread(count: int, most: int) -> list[int]:
    rows = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    return [int(row) for row in np.unique(rows)]


def default_recipe(pictures: Pictures) -> Recipe:
    """The recipe for users who name none: by the pictures' size."""
    return load_recipe("small-resnet" if peek(pictures).small else "photos")


def complete_inputs(recipe: Recipe, pictures: Pictures) -> Recipe:
    """The recipe with its preprocessing settled: its own, else the weights', else the data's."""
    own = recipe.preprocess.model_dump(exclude_none=True)
    published = None
    if recipe.weights != "none":
        published = pretrained_preprocessing(recipe.network)
    base: dict[str, Any] = published.model_dump() if published else {}
    if "size" in own and "mode" not in own:
        # A size of one's own does not go with the crop that the weights' size came from.
        base.pop("mode", None)
    settled = base | own
    if "size" not in settled or "channels" not in settled:
        look = peek(pictures)
        grey = look.grey and recipe.network in OURS
        settled.setdefault("channels", 1 if grey else 3)
        settled.setdefault("size", look.size if look.small or look.uniform else (SMALL, SMALL))
    if settled.get("mode", "squash") != "crop":
        settled.pop("crop_fraction", None)
    if "mean" not in settled or "std" not in settled:
        mean, std = _statistics(pictures.splits["train"], settled)
        settled.setdefault("mean", mean)
        settled.setdefault("std", std)
    try:
        full = Preprocessing.model_validate(settled)
    except ValueError as error:
        problem = str(error).split("Value error, ")[-1].split(" [type")[0]
        raise InputError(f"[preprocess] of the recipe: {problem}") from None
    return recipe.model_copy(update={"preprocess": Inputs(**full.model_dump())})


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """The contract of a recipe whose inputs are complete."""
    return Preprocessing.model_validate(recipe.preprocess.model_dump(exclude_none=True))


def _statistics(
    samples: Samples, settled: dict[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of up to 2,000 training pictures, in [0, 1]."""
    channels = settled["channels"]
    plain = settled | {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    rows = _spread(len(samples), _STATISTICS_FROM)
    record = Preprocessing.model_validate(plain)

    def fitted(row: int) -> torch.Tensor:
        pixels = read_picture(samples, row, channels, record.read)
        return record.fit(pixels[None])[0]  # held pixels are still as they were read

    for found in in_threads(fitted, rows):
        pixels = found.double() / 255
        total += pixels.mean(dim=(1, 2))
        squares += (pixels * pixels).mean(dim=(1, 2))
    mean = total / len(rows)
    std = (squares / len(rows) - mean * mean).clamp(min=0).sqrt()
    std = torch.where(std < 1e-3, torch.ones_like(std), std)
    return (
        tuple(round(value, 4) for value in mean.tolist()),
        tuple(round(value, 4) for value in std.tolist()),
    )


def training_target(preprocessing: Preprocessing, augment: Augmentation) -> Preprocessing:
    """What training pictures are brought to before augmentation."""
    if augment.resize is None:
        return preprocessing
    return preprocessing.model_copy(update={"size": augment.resize, "mode": "squash"})


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with its weights' whole path: the run may be resumed from another folder."""
    if recipe.weights in ("none", "pretrained"):
        return recipe
    whole = user_path(recipe.weights).absolute()
    refuse_unwritable_name(whole, "--weights")
    return recipe.with_fields({"weights": str(whole)})
