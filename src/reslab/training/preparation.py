"""From DATA and a recipe to what the loop needs: full splits, full preprocessing, a network."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from reslab.errors import InputError
from reslab.features.freezing import check_solvable, freeze
from reslab.learning.parts.growing import sizes_of
from reslab.learning.precision import choose_precision
from reslab.networks.catalogue import OURS, NetworkSpec, build_network
from reslab.networks.cutting import Cut
from reslab.networks.fast import Whitening
from reslab.networks.pretrained import load_pretrained
from reslab.networks.stochastic_depth import mark_branches
from reslab.pictures import draws
from reslab.pictures.batches import Batch, Batches, TrainingBatches, evaluation_batches
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import Track, untracked
from reslab.pictures.splitting import Folds, complete_splits, folds_of, kept_together, split_notes
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Pictures
from reslab.processes import team
from reslab.recipes.recipe import Recipe
from reslab.training.inputs import complete_inputs, preprocessing_of, training_target

WHITENED = 5000  # pictures that a whitening layer learns from, at most


@dataclass(frozen=True)
class Prepared:
    """All that is settled before the first step.

    trained: the network, or its part after the cut where what comes before it is cached.
    pixels: training pictures as augmented; `batches` are these, or the cached features of them.
    evaluation: for each split, how to get batches of it for `trained`.
    folds: of the training pictures, where these judge instead of a validation split.
    """

    pictures: Pictures
    carved: tuple[str, ...]
    folds: Folds | None
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


def prepare(
    pictures: Pictures,
    recipe: Recipe,
    track: Track = untracked,
    *,
    held_back: Sequence[str] = (),
    fill: bool = True,
) -> Prepared:
    """Split, settle, build and load. Raises InputError before anything is written.

    held_back: splits that are not to be seen. fill: decode pictures now that all epochs need, not
    when they are first taken.
    """
    fingerprint = pictures.fingerprint()
    whole, carved = complete_splits(pictures, recipe.splitting, track)
    whole = whole.with_notes(*split_notes(whole)).holding_back(*held_back)
    folds, unjudged = cross_validation(whole, recipe, track)
    whole = whole.with_notes(*unjudged)
    recipe = complete_inputs(recipe, whole)
    preprocessing = preprocessing_of(recipe)
    spec = NetworkSpec(
        recipe.network, len(whole.classes), preprocessing.channels, preprocessing.size
    )
    network = _network(spec, recipe)
    parts, note = freeze(network, recipe)
    check_solvable(network, recipe)
    _refuse_without_effect(network, spec, recipe, whole)
    if recipe.drop_path:
        mark_branches(network, recipe.network, recipe.drop_path)
    whole = whole.with_notes(*note)
    cached = _cached(parts, recipe)
    stores = _stores(whole, recipe, preprocessing)
    for name, store in () if cached else stores.items():
        with team().leader_first():
            store.fill(track=track, what=f"reading {name}") if fill else store.fill_as_read()
    batches = _training_batches(stores["train"], recipe, preprocessing)
    whole = whole.with_notes(*{store.note for store in stores.values() if store.note})
    if recipe.weights == "none":
        fit_first_layer(network, batches, recipe.seed)
    _refuse_lone_picture(network, spec, recipe, batches)
    return Prepared(
        pictures=whole,
        carved=carved,
        folds=folds,
        recipe=recipe,
        preprocessing=preprocessing,
        spec=spec,
        network=network,
        trained=cached.after if cached else network,
        cut=cached,
        pixels=batches,
        batches=batches,
        evaluation={
            name: partial(evaluation_batches, store, preprocessing, recipe.eval_batch_size)
            for name, store in stores.items()
        },
        fingerprint=fingerprint,
    )


def _cached(parts: Cut | None, recipe: Recipe) -> Cut | None:
    """The parts whose features are to be cached, if any."""
    if parts is None or recipe.features != "cached":
        return None
    if recipe.averaging != "none":
        raise InputError(
            f"averaging = {recipe.averaging!r} computes views of its own; it goes with"
            " --features online, or --averaging none"
        )
    return parts


def cross_validation(
    pictures: Pictures, recipe: Recipe, track: Track
) -> tuple[Folds | None, tuple[str, ...]]:
    """The folds that a recipe asks for, and what to note: classes that no fold can judge.

    Raises InputError where folds have no place.
    """
    if not recipe.folds:
        return None, ()
    if not recipe.solves:
        raise InputError(
            f"--folds {recipe.folds} is for a head that is solved and alone trains: set"
            " --train-from head --head solved, as the recipe photos does, or leave --folds out"
        )
    if "validation" in pictures.splits:
        raise InputError(
            f"--folds {recipe.folds}: {pictures.name} has a validation split of its own, which"
            " judges; leave --folds out, or move its pictures to train"
        )
    train = pictures.train()
    numbers = kept_together(train, recipe.split.together, track)
    folds = folds_of(train, recipe.folds, recipe.split.seed, numbers)
    names = unjudged_classes(folds, pictures)
    if not len(folds.judged):
        raise InputError(
            f"--folds {recipe.folds}: no class of {pictures.name} has two different training"
            " pictures, so none can be judged by what the others teach; leave --folds out and set"
            " --split.validation 0"
        )
    if not names:
        return folds, ()
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return folds, (
        f"{len(names)} of the classes have one training picture each (or copies of one), which no"
        f" fold can judge, so the validation score leaves them out: {shown}",
    )


def unjudged_classes(folds: Folds, pictures: Pictures) -> list[str]:
    """The classes with training pictures of which none can be judged out of its fold."""
    labels = pictures.splits["train"].labels
    left = set(labels.tolist()) - set(labels[folds.judged].tolist())
    return [pictures.classes[label] for label in sorted(left)]


def _network(spec: NetworkSpec, recipe: Recipe) -> nn.Module:
    """The network with the weights that the recipe starts from."""
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
    return network


def _refuse_without_effect(
    network: nn.Module, spec: NetworkSpec, recipe: Recipe, pictures: Pictures
) -> None:
    """Refuse what this data or this network leaves no room for. Raises InputError."""
    if recipe.patience is not None and "validation" not in pictures.splits:
        raise InputError(
            f"patience = {recipe.patience}: there is no validation split to say when to stop; set"
            " --split.validation, or leave patience out"
        )
    smaller = [size for size in sizes_of(recipe, spec.size) if size != spec.size]
    height, width = spec.size
    if recipe.progressive.start < 1 and not smaller:
        raise InputError(
            f"progressive.start = {recipe.progressive.start}: no epoch would have a size below"
            f" {height}x{width}; set a smaller --progressive.multiple than"
            f" {recipe.progressive.multiple}, or more --epochs"
        )
    for size in smaller:
        try:
            _try_once(network, replace(spec, size=size))
        except InputError as error:
            raise InputError(
                f"progressive.start = {recipe.progressive.start}: {error}; leave it out, or use a"
                " network that pools over the whole picture, such as small-resnet or resnet18"
            ) from None


def _stores(
    pictures: Pictures, recipe: Recipe, preprocessing: Preprocessing
) -> dict[str, PixelStore]:
    target = training_target(preprocessing, recipe.training_augmentation)
    return {
        name: PixelStore(samples, target if name == "train" else preprocessing)
        for name, samples in pictures
    }


def _training_batches(
    store: PixelStore, recipe: Recipe, preprocessing: Preprocessing
) -> TrainingBatches:
    return TrainingBatches(
        store,
        preprocessing,
        recipe.training_augmentation,
        batch_size=recipe.batch_size,
        shuffle=recipe.shuffle,
        seed=recipe.seed,
        view_seed=recipe.augmentation_seed,
        count=recipe.views if recipe.frozen else None,
    )


def with_precision(prepared: Prepared, device: str) -> tuple[Prepared, str]:
    """The precision settled, so that the run's recipe gives the same run again, and why."""
    recipe, pixels = prepared.recipe, prepared.pixels
    views = recipe.epochs * len(pixels.samples)
    if prepared.cut is not None:
        views = sum(prepared.pictures.counts().values()) + recipe.views * len(pixels.samples)
    # Of a deep frozen network few pictures are enough, and pictures must be decoded for this.
    count = (
        8
        if recipe.frozen
        else min(recipe.micro_batch or recipe.batch_size // (recipe.parts or 1), 64)
    )
    rows = torch.arange(min(count, len(pixels.samples)))
    network = prepared.network.to(device)
    precision, reason = team().led(
        lambda: choose_precision(
            recipe.precision,
            network,
            lambda: (pixels.inputs(rows, epoch=0), pixels.labels[rows]),
            (len(rows), prepared.spec.channels, *prepared.spec.size),
            views // len(rows),
            device,
            train_mode=recipe.norms_learn,
            folds=recipe.folds_norms,
        )
    )
    return replace(prepared, recipe=recipe.with_fields({"precision": precision})), reason


def with_learning(prepared: Prepared, recipe: Recipe) -> Prepared:
    """The same preparation for a recipe that differs in how it learns alone; nothing is read.

    The network is the same one, as it stands.
    """
    recipe = recipe.model_copy(update={"preprocess": prepared.recipe.preprocess})
    size, shuffle = recipe.batch_size, recipe.shuffle
    pixels = prepared.pixels.dealt(size, shuffle=shuffle)
    _refuse_lone_picture(prepared.network, prepared.spec, recipe, pixels)
    batches = prepared.batches.dealt(size, shuffle=shuffle)
    return replace(prepared, recipe=recipe, pixels=pixels, batches=batches)


def smallest_pass(recipe: Recipe, batches: TrainingBatches) -> int:
    """How many pictures go through the network together, at least."""
    parts = recipe.parts or 1
    largest = -(-batches.smallest // parts)
    passes = -(-largest // (recipe.micro_batch or largest))
    return batches.smallest // parts // passes


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


def _refuse_lone_picture(
    network: nn.Module, spec: NetworkSpec, recipe: Recipe, batches: TrainingBatches
) -> None:
    """Refuse a batch of one where batch norm would have one value a channel to go by."""
    if recipe.parts is not None and batches.smallest < recipe.parts and not recipe.solves:
        raise InputError(
            f"parts = {recipe.parts}: a batch may hold {batches.smallest} pictures, which leaves a"
            " part empty; set a larger --batch-size, or fewer --parts"
        )
    if smallest_pass(recipe, batches) > 1 or not recipe.norms_learn:
        return
    shapes = copy.deepcopy(network).to("meta").train()
    try:
        shapes(torch.empty(1, spec.channels, *sizes_of(recipe, spec.size)[0], device="meta"))
    except ValueError:
        raise InputError(
            f"with --batch-size {recipe.batch_size} a batch holds one picture, which the batch norm"
            f" of {spec.name} cannot train on at this size; set a larger --batch-size"
        ) from None
