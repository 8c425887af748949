"""The loop itself: what chooses the best weights, and that dropout has an address too."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from reslab.judging.metrics import Judged, measured, score, wilson_interval
from reslab.learning.loop import train_epochs
from reslab.learning.optimizers import build_optimizer
from reslab.learning.state import Progress, TrainingState, reach_milestone
from reslab.pictures.batches import TrainingBatches
from reslab.pictures.content import keys_of
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.names import Names
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples
from reslab.recipes.recipe import Recipe

RECORD = Preprocessing(size=(4, 4), channels=1, mean=(0,), std=(1,))


def scored(accuracy: float, sharpness: float = 1.0):
    """A score of 100 pictures of two classes; a sharper network has a lower loss where right."""
    labels = torch.zeros(100, dtype=torch.long)
    logits = torch.zeros(100, 2)
    right = round(100 * accuracy)
    logits[:right, 0] = sharpness
    logits[right:, 1] = 0.1
    return score(logits, labels)


def ends(*epochs):
    """Which of the epochs, given as {split: score}, are chosen as the best so far."""
    progress = Progress()
    chosen = []
    for scores in epochs:
        progress.seen = 1
        chosen.append(reach_milestone(progress, scores, {"epoch": 0}, 0.0).best)
    return chosen, progress.best_epoch


def test_validation_chooses_and_the_test_split_never_does():
    better_on_test = {"validation": scored(0.6), "test": scored(0.9)}
    worse_on_test = {"validation": scored(0.7), "test": scored(0.5)}
    assert ends(worse_on_test, better_on_test) == ([True, False], 0)
    assert ends(better_on_test, worse_on_test) == ([True, True], 1)


def test_of_equal_accuracies_the_lower_loss_is_best_and_of_equal_losses_the_first():
    dull, sharp = {"validation": scored(0.8)}, {"validation": scored(0.8, 3.0)}
    assert ends(dull, sharp, dull, sharp) == ([True, True, False, False], 1)


def test_without_validation_the_last_epoch_is_kept():
    assert ends({"test": scored(0.9)}, {"test": scored(0.1)}) == ([True, True], 1)


class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2))

    def forward(self, x):
        return self.layers(x)


def training(lr: float = 0.1, before: TrainingState | None = None):
    """A state and its loop over 8 equal pictures: a new one, or one going on from `before`."""
    pixels = torch.full((8, 1, 4, 4), 200, dtype=torch.uint8)
    keys = np.arange(8).astype(np.uint64)
    data = Samples(
        Names.of("abcdefgh"), np.arange(8) % 2, pixels=HeldPixels(pixels), keys=keys_of(keys, keys)
    )
    recipe = Recipe(epochs=1, batch_size=2).with_fields({"optimizer.lr": lr})
    batches = TrainingBatches(
        PixelStore(data, RECORD), RECORD, recipe.augment, batch_size=2, shuffle=False, seed=0
    )
    network = before.network if before else WithDropout()
    state = TrainingState(network, build_optimizer(recipe.optimizer, network, ()))
    if before:
        state.progress = before.progress
    return state, train_epochs(state, recipe, batches, {}, "cpu")


def losses(events, count):
    return [event.loss for event in itertools.islice(events, count)]


def test_dropout_is_drawn_anew_each_step():
    """Every batch is the same and the weights hardly move: only dropout can differ."""
    means = losses(training(lr=1e-12)[1], 4)
    single = np.diff([0.0, *(mean * (step + 1) for step, mean in enumerate(means))])
    assert len({round(loss, 6) for loss in single}) == 4


def test_dropout_is_the_same_after_a_resume():
    whole = losses(training()[1], 4)
    state, events = training()
    part = losses(events, 2)
    torch.rand(1000)  # whatever else draws in between
    assert part + losses(training(before=state)[1], 2) == whole


def test_scores_are_what_they_say():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 0])
    found = score(logits, labels)
    assert (found.n, found.correct, found.accuracy) == (4, 3, 0.75)
    expected = -logits.log_softmax(1)[range(4), [0, 1, 1, 0]].mean().item()
    assert found.loss == pytest.approx(expected)
    judged = Judged(Samples(Names.of("abcd"), labels.numpy()), ("cat", "dog"))
    assert measured(logits, labels, judged)["class_accuracy"] == {"cat": 1.0, "dog": 0.5}
    # Wilson's interval for 8 of 10, from the formula worked by hand.
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
