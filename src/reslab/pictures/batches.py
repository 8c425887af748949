"""Batches of network input. A training batch is a function of (seed, epoch, step)."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch

from reslab.pictures import draws
from reslab.pictures.augmentation import augment, draw_for, erase
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import keep_to_one_core
from reslab.pictures.settings import Augmentation
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples

Batch = tuple[torch.Tensor, torch.Tensor]
Made = TypeVar("Made")


class Batches(ABC):
    """Batches of (input, class indices (n,)) of samples, in the seeded order of each epoch."""

    def __init__(self, samples: Samples, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.labels = torch.from_numpy(samples.labels)
        self._draw_keys = samples.draw_keys
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    @abstractmethod
    def inputs(self, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """What the network is given of these samples in this epoch: (n, ...)."""

    @property
    def waits(self) -> bool:
        """Whether making a batch means waiting for files."""
        return False

    def __len__(self) -> int:
        """Steps an epoch: as few as `batch_size` allows; no picture is dropped."""
        return -(-len(self.samples) // self.batch_size)

    @property
    def smallest(self) -> int:
        """How many pictures the smallest batch holds."""
        return len(self.samples) // len(self)

    def bounds(self, step: int) -> tuple[int, int]:
        """Where a step's pictures begin and end in the epoch's order.

        The batches of an epoch differ by one picture at most, the larger ones first. A small
        rest as the last batch would leave its own noise in batch-norm statistics just before
        the network is judged: 8 pictures after 703 batches of 64 cost the ResNet-18 on CIFAR-10
        8 points of accuracy.
        """
        least, larger = divmod(len(self.samples), len(self))
        return step * least + min(step, larger), (step + 1) * least + min(step + 1, larger)

    def order(self, epoch: int) -> torch.Tensor:
        """The rows of the samples in the order in which this epoch meets them."""
        known, rows = self._order
        if known != epoch:
            count = len(self.samples)
            if self.shuffle:
                rows = torch.randperm(count, generator=draws.generator(self.seed, "order", epoch))
            else:
                rows = torch.arange(count)
            self._order = (epoch, rows)
        return rows

    def dealt(self, batch_size: int, *, shuffle: bool) -> Self:
        """The same samples in batches of another size, in the order of the epoch or their own."""
        other = copy.copy(self)
        other.batch_size, other.shuffle = batch_size, shuffle
        other._order = (-1, torch.empty(0))
        return other

    def rows(self, epoch: int, step: int) -> torch.Tensor:
        """Which samples a step meets, in their order."""
        return self.order(epoch)[slice(*self.bounds(step))]

    def made(self, rows: torch.Tensor, epoch: int) -> Batch:
        return self.inputs(rows, epoch), self.labels[rows]

    def batch(self, epoch: int, step: int) -> Batch:
        return self.made(self.rows(epoch, step), epoch)

    def from_step(
        self,
        epoch: int,
        first: int,
        *,
        ahead: bool,
        of: Callable[[int, int], Made] | None = None,
    ) -> Iterator[Made]:
        """The batches of an epoch from step `first` on.

        ahead: make the next one while one is used, in a thread of its own. of: what is made of
        (epoch, step), in the place of a batch.
        """
        make: Callable[[int, int], Any] = self.batch if of is None else of
        if not ahead or first >= len(self):
            yield from (make(epoch, step) for step in range(first, len(self)))
            return
        with ThreadPoolExecutor(1, initializer=keep_to_one_core) as maker:
            coming = maker.submit(make, epoch, first)
            for step in range(first, len(self)):
                batch = coming.result()
                if step + 1 < len(self):
                    coming = maker.submit(make, epoch, step + 1)
                yield batch


class TrainingBatches(Batches):
    """Augmented pictures: input (n, C, H, W).

    `store` must give the pictures at `augmentation.resize` where that is set. `view_seed` decides
    the augmentation, if it is not to be the seed that decides the order; with `count` there are so
    many views of a picture, and epochs take them in turn.
    """

    def __init__(
        self,
        store: PixelStore,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        view_seed: int | None = None,
        count: int | None = None,
    ) -> None:
        super().__init__(store.samples, batch_size=batch_size, shuffle=shuffle, seed=seed)
        self.store = store
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.view_seed = seed if view_seed is None else view_seed
        self.count = count

    @property
    def waits(self) -> bool:
        return self.store.decodes

    def inputs(self, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        keys = self._draw_keys[rows.numpy()]
        view = epoch % self.count if self.count else epoch
        drawn = draw_for(self.augmentation, self.view_seed, view, keys)
        pixels = self.store.take(rows)
        return views(pixels, drawn, self.augmentation, self.preprocessing)


def views(
    pixels: torch.Tensor, drawn: np.ndarray, augmentation: Augmentation, target: Preprocessing
) -> torch.Tensor:
    """Network input (n, C, H, W) of uint8 pictures as drawn, from `draw_for`."""
    x = target.normalise(augment(augmentation, pixels, target.size, drawn))
    return erase(augmentation, x, drawn)


@dataclass(frozen=True)
class InOrder:
    """Batches of samples in their order, `size` at a time, each made when it is asked for.

    labels: class indices (N,) of all. inputs: what the network is given of some rows.
    """

    labels: torch.Tensor
    size: int
    inputs: Callable[[torch.Tensor], torch.Tensor]

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def rows(self, number: int) -> torch.Tensor:
        return torch.arange(number * self.size, min((number + 1) * self.size, len(self.labels)))

    def only(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """Some of the batches, by their numbers from 0."""
        for number in numbers:
            rows = self.rows(number)
            yield self.inputs(rows), self.labels[rows]

    def __iter__(self) -> Iterator[Batch]:
        return self.only(range(len(self)))


def evaluation_batches(store: PixelStore, preprocessing: Preprocessing, batch_size: int) -> InOrder:
    """Batches in the order of the samples, without augmentation, of a store that fits them."""
    labels = torch.from_numpy(np.asarray(store.samples.labels))
    return InOrder(labels, batch_size, lambda rows: preprocessing.normalise(store.take(rows)))
