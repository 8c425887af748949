"""Features of a frozen network: each view of each picture is computed once, and kept."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import fx, nn

from reslab.errors import InputError
from reslab.features.store import FeatureStore
from reslab.networks.folding import folded
from reslab.networks.inference import as_input
from reslab.pictures import draws
from reslab.pictures.augmentation import draw_for
from reslab.pictures.batches import Batches, InOrder, views
from reslab.pictures.cache import cache_folder, make_room
from reslab.pictures.content import KEY, keys_of
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import in_threads, memory_budget
from reslab.pictures.settings import Augmentation
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples

Wanted = tuple[Samples, tuple[int, ...]]  # pictures, and which views of each
Lacking = tuple[Samples, int, tuple[int, ...]]  # pictures, a row of them, and views of it
EVALUATION = -1  # the view of a picture that is not augmented
TOGETHER = 16  # views a forward pass
FORMAT = 2  # another one where the same key would stand for other numbers


@dataclass(frozen=True)
class ViewSettings:
    """What the views of a picture are: as in evaluation, or augmented by its own draws."""

    preprocessing: Preprocessing
    training: Preprocessing
    augmentation: Augmentation
    seed: int

    def keys(self, contents: np.ndarray, view: int) -> np.ndarray:
        """The names of a view of pictures with these content keys, both as `KEY` (N,)."""
        if view == EVALUATION:
            name = draws.address(0, "evaluation")
        else:
            name = draws.address(self.seed, "view", view, self.augmentation.name)
        halves = (draws.mixed(contents[half] ^ np.uint64(name)) for half in ("draw", "rest"))
        return keys_of(*halves)

    def inputs(self, samples: Samples, row: int, wanted: tuple[int, ...]) -> torch.Tensor:
        """These views of a picture, which is decoded once for the augmented ones: (V, C, H, W)."""
        parts = []
        if EVALUATION in wanted:
            pixels = PixelStore(samples, self.preprocessing).read(row)
            parts.append(self.preprocessing.normalise(pixels[None]))
        augmented = [view for view in wanted if view != EVALUATION]
        if augmented:
            pixels = PixelStore(samples, self.training).read(row)
            key = samples.keys["draw"][row : row + 1]
            drawn = [draw_for(self.augmentation, self.seed, view, key) for view in augmented]
            repeated = pixels.expand(len(augmented), -1, -1, -1)
            parts.append(
                views(repeated, np.concatenate(drawn), self.augmentation, self.preprocessing)
            )
        return torch.cat(parts)


class NoRoomError(InputError):
    """Features can be kept neither in the cache nor in memory."""


class _Unsaved(dict[tuple[int, int], np.ndarray]):
    """Features by their names, which the cache could not take."""


# Of each frozen part, as long as anything has them: a run asks for the same ones several times.
_UNSAVED: WeakValueDictionary[str, _Unsaved] = WeakValueDictionary()


class Features:
    """What a frozen network makes of views of pictures, from the cache where it is known.

    before: the frozen part, in evaluation mode. `shape` is that of its output for one picture.
    Vectors are kept in float32, feature maps in float16.
    """

    def __init__(
        self, before: fx.GraphModule, settings: ViewSettings, precision: str, device: str
    ) -> None:
        self._before = before
        self._settings = settings
        self._precision = precision
        self._device = device
        record = settings.preprocessing
        self.shape = _output_shape(before, (record.channels, *record.size))
        vectors = len(self.shape) == 1
        dtype = "<f4" if vectors else "<f2"
        self._dtype = torch.float32 if vectors else torch.float16
        made_by = torch.__version__, device.split(":")[0], precision
        digest = _digest(before, FORMAT, record.model_dump_json(), dtype, *made_by)
        self._store = FeatureStore(cache_folder() / "features" / digest, self.shape, dtype)
        self._unsaved = _UNSAVED.setdefault(digest, _Unsaved())
        self._held: dict[tuple[int, int], torch.Tensor] = {}
        self.computed = self.damaged = 0
        self.relative_error = self._store.recall_error()
        self.cannot_save: str | None = None

    def missing(self, wanted: Iterable[Wanted]) -> list[Lacking]:
        """(samples, row, views) of what must be computed; a damaged value counts as missing."""
        seen: set[tuple[int, int]] = set(self._unsaved)
        lacking = []
        for samples, of in wanted:
            table = np.empty((len(samples), len(of)), dtype=bool)
            names = np.empty((len(samples), len(of)), dtype=KEY)
            for column, view in enumerate(of):
                names[:, column] = self._settings.keys(samples.keys, view)
                places = self._store.find(names[:, column])
                table[:, column] = places < 0
                found = np.flatnonzero(places >= 0)
                whole = self._store.undamaged(places[found])
                table[found[~whole], column] = True
                self.damaged += int((~whole).sum())
            for row in np.flatnonzero(table.any(axis=1)).tolist():
                # Equal files are one picture.
                new = [c for c in np.flatnonzero(table[row]) if names[row, c].item() not in seen]
                seen |= {names[row, c].item() for c in new}
                if new:
                    lacking.append((samples, row, tuple(of[c] for c in new)))
        return lacking

    def look_again(self) -> None:
        """Find what other processes have kept meanwhile."""
        self._store.refresh()

    def make_room(self, count: int) -> int:
        """How many bytes so many more features take; the cache makes room for them.

        `cannot_save` says why where it cannot. Raises InputError if there is no memory either.
        """
        needed = count * self._store.item_bytes
        try:
            self._store.folder.mkdir(parents=True, exist_ok=True)
            if not make_room(self._store.folder, needed):
                self.cannot_save = "the cache may not grow by so much"
        except OSError as error:
            self.cannot_save = f"{error.filename}: {error.strerror}"
        if self.cannot_save and needed > memory_budget():
            raise NoRoomError(
                f"the features take {needed / 1e9:,.1f} GB and cannot be kept ({self.cannot_save}):"
                " set fewer --views, --train-from a later layer, --features online, or a folder"
                " with more room by RESLAB_CACHE"
            )
        return needed

    def compute(self, lacking: list[Lacking]) -> Iterator[int]:
        """Compute what is missing, and yield after each pass how many views it was: they are safe.

        Raises InputError where a picture can no longer be read.
        """
        network: Callable[[torch.Tensor], torch.Tensor] | None = None
        for names, x in self._passes(lacking):
            if network is None:
                network = self._ready(x)
            with torch.inference_mode():
                found = network(as_input(x, self._device))[: len(names)].to(self._dtype).cpu()
            if not bool(found.isfinite().all()):
                raise InputError(
                    "the frozen part's outputs are not finite, or too large to be kept in half"
                    " precision; are its weights damaged? --features online keeps none"
                )
            self._keep(names, found.numpy())
            self.computed += len(names)
            yield len(names)
        if lacking:
            self._store.refresh()

    def _passes(self, lacking: list[Lacking]) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """(names, input) of one forward pass after another, decoded by threads meanwhile."""

        def made(
            item: Lacking,
        ) -> list[tuple[np.void, torch.Tensor]]:
            samples, row, of = item
            content = samples.keys[row : row + 1]
            names = [self._settings.keys(content, view)[0] for view in sorted(of)]
            return list(
                zip(names, self._settings.inputs(samples, row, tuple(sorted(of))), strict=True)
            )

        each = (view for made_of in in_threads(made, lacking, ahead=TOGETHER) for view in made_of)
        while together := list(islice(each, TOGETHER)):
            names, pictures = zip(*together, strict=True)
            # Always as many: convolutions choose their algorithm by the batch's size, and a
            # picture's features are not to depend on what else was computed with it.
            padding = pictures[-1:] * (TOGETHER - len(pictures))
            yield (
                np.array([name.item() for name in names], dtype=KEY),
                torch.stack([*pictures, *padding]),
            )

    def _ready(self, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The frozen part as it computes fastest: batch norms folded, in bf16 if chosen."""
        few = as_input(x[:8], self._device)
        network = folded(self._before, few[:1])
        if self._precision == "fp32":
            return network
        network16 = copy.deepcopy(network).to(torch.bfloat16)
        with torch.inference_mode():
            exact = network(few)
            try:
                found = network16(few.bfloat16()).float()
            except RuntimeError as error:  # a layer that computes in float32 inside
                reason = str(error).strip().splitlines()[0]
                raise InputError(
                    f"the frozen part cannot compute in bf16 ({reason}); set --precision fp32"
                ) from None
        self.relative_error = float((found - exact).norm() / exact.norm().clamp(min=1e-12))
        self._store.remember_error(self.relative_error)
        return lambda x: network16(x.bfloat16())

    def _keep(self, names: np.ndarray, values: np.ndarray) -> None:
        if self.cannot_save is None:
            try:
                self._store.put(names, values)
                return
            except OSError as error:
                self.cannot_save = f"{error.filename or self._store.folder}: {error.strerror}"
        kept = len(self._unsaved) * self._store.item_bytes
        if kept + values.nbytes > memory_budget():
            raise NoRoomError(
                f"features cannot be kept ({self.cannot_save}), and there is no memory for them:"
                " make room, name another folder by RESLAB_CACHE, or set --features online"
            )
        for name, value in zip(names.tolist(), values, strict=True):
            self._unsaved[name] = value

    def take(self, samples: Samples, view: int, rows: torch.Tensor) -> torch.Tensor:
        """Features of a view of these rows, float32 (n, *shape). They must have been computed."""
        place = (id(samples), view)
        if place not in self._held:
            held = sum(one.nbytes for one in self._held.values())
            needed = len(samples) * self._store.item_bytes
            if held + needed > memory_budget():
                return self._read(samples, view, rows, again=True).float()
            self._held[place] = self._read(samples, view, torch.arange(len(samples)))
        return self._held[place][rows].float()

    def _read(
        self, samples: Samples, view: int, rows: torch.Tensor, *, again: bool = False
    ) -> torch.Tensor:
        """Features as they are kept. again: they were looked at long ago, and are once more."""
        names = self._settings.keys(samples.keys[rows.numpy()], view)
        places = self._store.find(names)
        out = torch.empty((len(names), *self.shape), dtype=self._dtype)
        known = places >= 0
        if again:
            known[known] = self._store.undamaged(places[known])
        out[torch.from_numpy(known)] = self._store.read(places[known])
        for row in np.flatnonzero(~known).tolist():
            if names[row].item() not in self._unsaved:
                raise InputError(
                    "features were deleted from the cache, or damaged, while they were in use;"
                    " `reslab resume` computes them again"
                )
            out[row] = torch.from_numpy(self._unsaved[names[row].item()])
        return out


class FeatureBatches(Batches):
    """Cached views in the place of augmented pictures: epoch e sees view e mod `views`."""

    def __init__(
        self,
        features: Features,
        samples: Samples,
        count: int,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        super().__init__(samples, batch_size=batch_size, shuffle=shuffle, seed=seed)
        self.features = features
        self.views = training_views(count)

    def inputs(self, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        return self.features.take(self.samples, self.views[epoch % len(self.views)], rows)


def training_views(count: int) -> tuple[int, ...]:
    """The views of a training picture that are kept for a recipe's `views`."""
    return tuple(range(count)) if count else (EVALUATION,)


def evaluation_features(features: Features, samples: Samples, batch_size: int) -> InOrder:
    """Batches of the evaluation view, in the order of the samples."""
    labels = torch.from_numpy(samples.labels)
    return InOrder(labels, batch_size, partial(features.take, samples, EVALUATION))


def _output_shape(before: nn.Module, picture: tuple[int, ...]) -> tuple[int, ...]:
    """What the frozen part makes of a picture of this shape, found without computing it."""
    shadow = copy.deepcopy(before).to("meta")
    with torch.inference_mode():
        found: torch.Tensor = shadow(torch.empty(1, *picture, device="meta"))
    return tuple(found.shape[1:])


def _digest(before: fx.GraphModule, *facts: object) -> str:
    """Names what a frozen part computes: its code, its weights, and what else is decisive."""
    digest = hashlib.blake2b(repr((before.code, *facts)).encode(), digest_size=16)
    for name, module in before.named_modules():
        settings = {key: value for key, value in vars(module).items() if key[0] != "_"}
        settings.pop("training", None)  # it computes in evaluation mode, whatever it is in now
        plain = {k: v for k, v in settings.items() if isinstance(v, int | float | str | tuple)}
        digest.update(f"{name} {type(module).__name__} {sorted(plain.items())}".encode())
    held = dict(before.named_buffers()) | before.state_dict()  # some buffers are in no state
    for name, value in held.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
