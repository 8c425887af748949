"""Where trials are trained: the data read once, a frozen part's features computed once.

A trial is the training that `reslab train` would make of its recipe, without a folder of its own
and without the test split, which is not even here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from reslab.learning.state import Milestone, Progress, Step
from reslab.pictures.table import Pictures
from reslab.recipes.recipe import Recipe
from reslab.run.display import Display
from reslab.training.preparation import Prepared, prepare, with_learning, with_precision
from reslab.training.session import new_state
from reslab.training.training import events_of
from reslab.training.transfer import start_from_solved_head, with_features

# What a training goes by, and no preparation before it.
_LEARNS = ("optimizer.", "schedule.")
_LEARN = ("epochs", "batch_size", "micro_batch", "shuffle", "label_smoothing", "ema_decay",
          "class_weights")  # fmt: skip


class Bench:
    """Trains one recipe after another on the same pictures; of the last, `progress` says how far
    it has come, and `judged` on how many pictures it is judged."""

    def __init__(
        self, pictures: Pictures, device: str, display: Display, stop: Callable[[], None]
    ) -> None:
        splits = {name: samples for name, samples in pictures if name != "test"}
        self._pictures = replace(pictures, splits=splits)
        self._device = device
        self._display = display
        self._stop = stop
        self._last: Prepared | None = None
        self._asked = Recipe()
        self._initial: dict[str, torch.Tensor] = {}
        self.progress = Progress()
        self.judged = 0

    def ready(self, recipe: Recipe) -> Prepared:
        """The preparation of a recipe, its network as before the first step."""
        recipe = judged_as_split(recipe)
        if self._last is not None and _prepares_alike(self._asked, recipe):
            prepared = with_learning(self._last, recipe)
            prepared.trained.load_state_dict(self._initial)
        else:
            self._last = None  # its memory is wanted
            prepared = prepare(self._pictures, recipe, self._display.track)
            prepared.network.to(self._device)
            if prepared.cut is not None:
                prepared, _ = with_features(prepared, self._device, self._display, self._stop)
            state = prepared.trained.state_dict()
            self._initial = {name: value.clone() for name, value in state.items()}
            self._last, self._asked = prepared, recipe
        return prepared

    def settled(self, recipe: Recipe) -> str:
        """The precision that a recipe comes to on this machine."""
        prepared = prepare(self._pictures, judged_as_split(recipe), self._display.track)
        return with_precision(prepared, self._device)[0].recipe.precision

    def events(self, recipe: Recipe) -> Iterator[Step | Milestone]:
        """Train a recipe to its end, unless the caller leaves; `progress` has the best so far."""
        prepared = self.ready(recipe)
        state = new_state(prepared, self._device)
        self.progress = state.progress
        if prepared.recipe.frozen_start:
            start_from_solved_head(prepared, self._device, self._display, self._stop)
        judged = {}
        if prepared.folds is not None:
            self.judged = len(prepared.folds.judged)
        else:
            judged = {"validation": prepared.evaluation["validation"]}
            self.judged = len(prepared.pictures.splits["validation"])
        yield from events_of(prepared, state, judged, self._device)


def judged_as_split(recipe: Recipe) -> Recipe:
    """The recipe for pictures that are split already, so that nothing is carved again."""
    return recipe.with_fields({"split.validation": 0, "split.test": 0})


def _prepares_alike(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes differ in how they learn alone."""
    before, now = one.by_dotted_name(), other.by_dotted_name()
    return all(
        before[name] == now[name] or name in _LEARN or name.startswith(_LEARNS) for name in now
    )
