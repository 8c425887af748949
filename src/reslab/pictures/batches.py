"""Batches of network input. A training batch is a function of (seed, epoch, step)."""

from collections.abc import Iterator

import numpy as np
import torch

from reslab.pictures import draws
from reslab.pictures.augmentation import augment
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import PixelStore
from reslab.pictures.settings import Augmentation

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainingBatches:
    """Batches of (input (n, C, H, W), class indices (n,)) in the seeded order of each epoch.

    `store` must hold the pictures at `augmentation.resize` where that is set.
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
    ) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.labels = torch.from_numpy(store.samples.labels)
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Steps an epoch; the last batch may be smaller, none is dropped."""
        return -(-len(self.store) // self.batch_size)

    def order(self, epoch: int) -> torch.Tensor:
        """The rows of the samples in the order in which this epoch meets them."""
        if self._order[0] != epoch:
            count = len(self.store)
            if self.shuffle:
                rows = torch.randperm(count, generator=draws.generator(self.seed, "order", epoch))
            else:
                rows = torch.arange(count)
            self._order = (epoch, rows)
        return self._order[1]

    def batch(self, epoch: int, step: int) -> Batch:
        rows = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        return self.inputs(rows, epoch), self.labels[rows]

    def inputs(self, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """Network input of these samples as this epoch sees them: (n, C, H, W)."""
        pixels = self.store.take(rows)
        if self.augmentation.resize:
            pixels = self.store.target.fit(pixels)
        else:
            pixels = self.preprocessing.fit(pixels)
        keys = self.store.samples.keys[rows.numpy()]
        start = draws.address(self.seed, "augment", epoch)
        views = augment(self.augmentation, pixels, self.preprocessing.size, start, keys)
        return self.preprocessing.normalise(views)


def evaluation_batches(
    store: PixelStore, preprocessing: Preprocessing, batch_size: int
) -> Iterator[Batch]:
    """Batches in the order of the samples, without augmentation."""
    labels = torch.from_numpy(np.asarray(store.samples.labels))
    for start in range(0, len(store), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(store)))
        yield preprocessing(store.take(rows)), labels[rows]
