"""From DATA and a recipe to what the loop needs: full splits, full preprocessing, a network."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.errors import InputError
from reslab.learning.recipe import Inputs, Recipe, load_recipe
from reslab.networks.catalogue import OURS, NetworkSpec, build_network, head_prefix
from reslab.networks.cutting import Cut, UncuttableError, cut
from reslab.networks.fast import Whitening
from reslab.networks.pretrained import load_pretrained, pretrained_preprocessing
from reslab.pictures import draws
from reslab.pictures.batches import Batch, Batches, TrainingBatches, evaluation_batches
from reslab.pictures.decoding import decode
from reslab.pictures.files import has_control_characters
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import Track, in_threads, read_picture, untracked, with_keys
from reslab.pictures.settings import SMALL, Augmentation
from reslab.pictures.sources import open_pictures
from reslab.pictures.splitting import complete_splits, split_notes
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Pictures, Samples

_PEEKED = 64
_LARGE = 2048  # pixels a side: beyond it a JPEG's exact size decides nothing
_STATISTICS_FROM = 2000
WHITENED = 5000  # pictures that a whitening layer learns from, at most


@dataclass(frozen=True)
class DataSource:
    """How the user named the data; it stands in run.json so that a resume finds it again."""

    data: str
    test: str | None = None
    val: str | None = None
    root: str | None = None
    data_root: str | None = None
    leave_out: bool = False

    @classmethod
    def named(
        cls,
        data: str | Path,
        test: str | Path | None = None,
        val: str | Path | None = None,
        root: str | Path | None = None,
        data_root: str | Path | None = None,
        leave_out: bool = False,
    ) -> "DataSource":
        """From what the user gave: paths or text."""

        def whole(item: str | Path | None) -> str | None:
            # A run may be resumed from another folder.
            return None if item is None else str(Path(item).expanduser().absolute())

        # What does not exist is a built-in set, or a mistake to be named as it was written.
        exists = Path(data).expanduser().exists()
        named = whole(data) if exists else str(data)
        return cls(named or "", whole(test), whole(val), whole(root), whole(data_root), leave_out)

    def read(self, track: Track = untracked) -> Pictures:
        """Open the data and check every picture. Raises InputError with all that is wrong."""
        pictures = open_pictures(
            self.data, test=self.test, val=self.val, root=self.root, data_root=self.data_root
        )
        if len(pictures.classes) < 2:
            only = ", ".join(pictures.classes)
            raise InputError(f"{pictures.name}: only one class, {only!r}; a classifier needs two")
        strange = [repr(name) for name in pictures.classes if has_control_characters(name)]
        if strange:
            raise InputError(f"{pictures.name}: control characters in names of classes:", strange)
        return with_keys(pictures, leave_out=self.leave_out, track=track)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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


@dataclass(frozen=True)
class Prepared:
    """All that is settled before the first step.

    trained: the network, or its part after the cut where what comes before it is cached.
    pixels: training pictures as augmented; `batches` are these, or the cached features of them.
    evaluation: for each split, how to get batches of it for `trained`.
    """

    pictures: Pictures
    carved: tuple[str, ...]
    recipe: Recipe
    preprocessing: Preprocessing
    spec: NetworkSpec
    network: nn.Module
    trained: nn.Module
    cut: Cut | None
    pixels: TrainingBatches = field(repr=False)
    batches: Batches = field(repr=False)
    evaluation: dict[str, Callable[[], Iterable[Batch]]] = field(repr=False)
    fingerprint: str

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters and buffers that must not change."""
        learning = {name for name, p in self.network.named_parameters() if p.requires_grad}
        return tuple(
            name
            for name in self.network.state_dict()
            if name not in learning and not self.recipe.norms_learn
        )


def prepare(pictures: Pictures, recipe: Recipe, track: Track = untracked) -> Prepared:
    """Split, settle, build and load. Raises InputError before anything is written."""
    fingerprint = pictures.fingerprint()
    split = recipe.split
    whole, carved = complete_splits(
        pictures, validation=split.validation, test=split.test, seed=split.seed
    )
    whole = whole.with_notes(*split_notes(whole))
    recipe = complete_inputs(recipe, whole)
    preprocessing = preprocessing_of(recipe)
    spec = NetworkSpec(
        recipe.network, len(whole.classes), preprocessing.channels, preprocessing.size
    )
    if recipe.frozen and recipe.weights == "none":
        raise InputError(
            f"train_from = {recipe.train_from!r} needs weights that have learned something: name"
            " them with --weights, or train all with --train-from all"
        )
    network = build_network(spec, recipe.seed)
    if recipe.weights != "none":
        load_pretrained(network, recipe.network, recipe.weights)
    network = network.to(memory_format=torch.channels_last)
    _try_once(network, spec)
    parts, note = freeze(network, recipe)
    whole = whole.with_notes(*note)
    cached = parts is not None and recipe.features == "cached"
    if cached and recipe.averaging != "none":
        raise InputError(
            f"averaging = {recipe.averaging!r} computes views of its own; it goes with"
            " --features online, or --averaging none"
        )
    augment = recipe.training_augmentation
    stores = {
        name: PixelStore(
            samples,
            training_target(preprocessing, augment) if name == "train" else preprocessing,
        )
        for name, samples in whole
    }
    if not cached:
        for name, store in stores.items():
            store.fill(track=track, what=f"reading {name}")
    batches = TrainingBatches(
        stores["train"],
        preprocessing,
        augment,
        batch_size=recipe.batch_size,
        shuffle=recipe.shuffle,
        seed=recipe.seed,
        view_seed=recipe.augmentation_seed,
        count=recipe.views if recipe.frozen else None,
    )
    whole = whole.with_notes(*{store.note for store in stores.values() if store.note})
    if recipe.weights == "none":
        fit_first_layer(network, batches, recipe.seed)
    if smallest_pass(recipe, batches) == 1 and recipe.norms_learn:
        _refuse_lone_picture(network, spec, recipe.batch_size)
    return Prepared(
        pictures=whole,
        carved=carved,
        recipe=recipe,
        preprocessing=preprocessing,
        spec=spec,
        network=network,
        trained=parts.after if cached and parts else network,
        cut=parts if cached else None,
        pixels=batches,
        batches=batches,
        evaluation={
            name: partial(evaluation_batches, store, preprocessing, recipe.eval_batch_size)
            for name, store in stores.items()
        },
        fingerprint=fingerprint,
    )


def freeze(network: nn.Module, recipe: Recipe) -> tuple[Cut | None, tuple[str, ...]]:
    """Let nothing train before the recipe's layer: the two parts, or None, and what to note.

    A network that cannot be cut has no parts; its head can still train alone.
    """
    if not recipe.frozen:
        return None, ()
    head = head_prefix(recipe.network, network)
    try:
        if recipe.train_from != "head":
            parts = cut(network, recipe.train_from)
        else:
            parts = cut_head(network, recipe)
    except UncuttableError as error:
        if recipe.train_from != "head":
            raise InputError(f"--train-from {recipe.train_from}: {error}") from None
        _let_train(network, [key for key, _ in network.named_parameters() if key.startswith(head)])
        return None, (
            f"{recipe.network} cannot be cut before its head ({error}): its frozen part is computed"
            " in every epoch",
        )
    _let_train(network, parts.after.state_dict())
    return parts, ()


def cut_head(network: nn.Module, recipe: Recipe) -> Cut:
    """The network cut before its last layer, the one that knows the classes.

    Raises UncuttableError.
    """
    heads = head_prefix(recipe.network, network)
    if len(heads) != 1:
        raise UncuttableError(f"it has {len(heads)} heads")
    return cut(network, heads[0].rstrip("."))


def _let_train(network: nn.Module, names: Iterable[str]) -> None:
    learning = set(names)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in learning)


def smallest_pass(recipe: Recipe, batches: TrainingBatches) -> int:
    """How many pictures go through the network together, at least."""
    passes = -(-batches.smallest // (recipe.micro_batch or batches.smallest))
    return batches.smallest // passes


def fit_first_layer(network: nn.Module, batches: TrainingBatches, seed: int) -> None:
    """Let a whitening layer learn from some training pictures, drawn by the seed."""
    for layer in network.modules():
        if isinstance(layer, Whitening):
            count = len(batches.store)
            rows = torch.randperm(count, generator=draws.generator(seed, "whitening"))
            rows = rows[:WHITENED]
            plain = batches.preprocessing(batches.store.take(rows))
            layer.fit(plain)


def _try_once(network: nn.Module, spec: NetworkSpec) -> None:
    """Pass a picture's shape through, so that what does not fit is said before the long read."""
    try:
        # Shapes alone cost a second of torch's imports, a deep network's pass more than that.
        device = "cpu" if spec.name in OURS else "meta"
        once = copy.deepcopy(network).to(device).eval()
        with torch.inference_mode():
            found = once(torch.zeros(1, spec.channels, *spec.size, device=device))
    except Exception as error:  # each library has its own checks
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        height, width = spec.size
        raise InputError(f"{spec.name} takes no input of {height}x{width} ({reason})") from None
    if not isinstance(found, torch.Tensor) or found.shape != (1, spec.classes):
        raise InputError(f"{spec.name} gives no scores of {spec.classes} classes")


def _refuse_lone_picture(network: nn.Module, spec: NetworkSpec, batch_size: int) -> None:
    """Refuse a batch of one where batch norm would have one value a channel to go by."""
    shapes = copy.deepcopy(network).to("meta").train()
    try:
        shapes(torch.empty(1, spec.channels, *spec.size, device="meta"))
    except ValueError:
        raise InputError(
            f"with --batch-size {batch_size} a batch holds one picture, which the batch norm of"
            f" {spec.name} cannot train on at this size; set a larger --batch-size"
        ) from None


def training_target(preprocessing: Preprocessing, augment: Augmentation) -> Preprocessing:
    """What training pictures are brought to before augmentation."""
    if augment.resize is None:
        return preprocessing
    return preprocessing.model_copy(update={"size": augment.resize, "mode": "squash"})
