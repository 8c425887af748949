"""A training batch is a function of (seed, epoch, step), and every picture counts once."""

import numpy as np
import pytest
import torch

from reslab.pictures.batches import TrainingBatches, evaluation_batches
from reslab.pictures.content import keys_of
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.names import Names
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.settings import Augmentation
from reslab.pictures.sources import open_pictures
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples

RECORD = Preprocessing(size=(4, 4), channels=1, mean=(0,), std=(1,))


def batches(count=100, batch_size=32, shuffle=True, seed=0, augmentation=None):
    """Samples whose pixels all hold the sample's own number."""
    numbers = torch.arange(count, dtype=torch.uint8)
    pixels = numbers.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    keys = np.arange(count).astype(np.uint64)
    samples = Samples(
        Names.of(map(str, range(count))),
        np.arange(count),
        pixels=HeldPixels(pixels),
        keys=keys_of(keys, keys),
    )
    return TrainingBatches(
        PixelStore(samples, RECORD), RECORD, augmentation or Augmentation(),
        batch_size=batch_size, shuffle=shuffle, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize(("count", "size"), [(100, 32), (64, 64), (65, 64), (5, 64), (7, 1)])
def test_every_picture_once_an_epoch_in_even_batches(count, size):
    found = batches(count, size)
    parts = [found.batch(3, step) for step in range(len(found))]
    sizes = [len(labels) for _, labels in parts]
    assert len(found) == -(-count // size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) == found.smallest
    assert sizes == sorted(sizes, reverse=True)
    labels = torch.cat([labels for _, labels in parts])
    assert sorted(labels.tolist()) == list(range(count))
    for x, labels in parts:
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), labels)


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    one, two = batches(), batches()
    for epoch, step in [(5, 2), (0, 0), (5, 1)]:  # any order, as a resumed run would ask
        assert torch.equal(one.batch(epoch, step)[1], two.batch(epoch, step)[1])
    orders = {
        tuple(batches(seed=seed).order(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_not_shuffled_means_in_the_order_of_the_data():
    found = batches(shuffle=False)
    assert found.order(7).tolist() == list(range(100))


def test_augmentation_changes_with_the_epoch_and_repeats_with_the_address():
    found = batches(seed=2, augmentation=Augmentation(shift=0.5))
    x, labels = found.batch(0, 0)
    again, _ = batches(seed=2, augmentation=Augmentation(shift=0.5)).batch(0, 0)
    assert torch.equal(x, again)
    later = found.inputs(labels, epoch=1)
    assert not torch.equal(later, found.inputs(labels, epoch=0))


@pytest.mark.parametrize("first", [0, 2, 3, 4])
def test_batches_made_ahead_are_the_same_batches(first):
    found = batches(augmentation=Augmentation(shift=0.5, brightness=0.1))
    for ahead in (True, False):
        coming = list(found.from_step(2, first, ahead=ahead))
        assert len(coming) == 4 - first
        for step, (x, labels) in enumerate(coming, first):
            alone = found.batch(2, step)
            assert torch.equal(x, alone[0])
            assert torch.equal(labels, alone[1])


def test_making_ahead_ends_with_who_asked(monkeypatch):
    """A loop that is left takes its thread with it, and an error is the loop's own."""
    import threading

    found = batches()
    before = threading.active_count()
    ahead = found.from_step(0, 0, ahead=True)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before
    monkeypatch.setattr(found, "inputs", lambda rows, epoch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(found.from_step(0, 0, ahead=True))
    assert threading.active_count() == before


def test_evaluation_is_in_order_and_plain():
    store = batches(10).store
    parts = list(evaluation_batches(store, RECORD, 4))
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(10))


def test_a_picture_that_is_kept_as_read_is_read_once(photos, monkeypatch):
    samples = open_pictures(photos).splits["train"]
    target = Preprocessing(size=(8, 8), channels=3, mean=(0,) * 3, std=(1,) * 3)
    plain = PixelStore(samples, target)
    kept = PixelStore(samples, target).fill_as_read()
    original, read = kept.read, []
    monkeypatch.setattr(kept, "read", lambda row: (read.append(row), original(row))[1])
    for rows in ([3, 1, 3], [1, 5], list(range(len(samples)))):
        assert kept.decodes
        rows = torch.tensor(rows)
        assert torch.equal(kept.take(rows), plain.take(rows))
    assert sorted(read) == list(range(len(samples)))
    assert not kept.decodes
