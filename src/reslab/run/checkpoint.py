"""The state of a run as one safetensors file with a JSON header."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from reslab.disk import write_keeping
from reslab.errors import InputError
from reslab.learning.state import Progress, TrainingState
from reslab.networks.model_file import read_tensors, tensor_file
from reslab.recipes.recipe import Recipe
from reslab.run.folder import Run

FORMAT = 1
# The place of the weights may have moved: what they hold is compared where it still matters.
_MAY_CHANGE = ("checkpoint_every", "weights")


def save_checkpoint(run: Run, state: TrainingState, recipe: Recipe, fingerprint: str) -> None:
    """Write the network, the optimiser, the parts and the progress; the state before it stays too.

    Raises OSError naming the file; what was saved before is then as it was.
    """
    tensors = {f"network.{key}": value for key, value in state.network.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            if value is not None:
                tensors[f"optimizer.{index}.{key}"] = value
    for part in state.parts:
        tensors |= {f"part.{part.name}.{key}": value for key, value in part.state().items()}
    header = {
        "format": FORMAT,
        "progress": asdict(state.progress),
        "fingerprint": fingerprint,
        "recipe": recipe.model_dump(mode="json"),
        "run": run.info.get("id"),
    }
    write_keeping(run.last_checkpoint, run.previous_checkpoint, tensor_file(tensors, header))


def load_checkpoint(run: Run, state: TrainingState, recipe: Recipe, fingerprint: str) -> str | None:
    """Bring a freshly built state to where the newest sound checkpoint stands.

    Returns what the user should hear if that is not the last one. Raises InputError if there is
    none, or if it belongs to another run, to other data or to another recipe.
    """
    problems = []
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if not path.exists():
            continue
        try:
            tensors, header = read_tensors(path)
        except InputError as error:
            problems.append(str(error))
            continue
        _refuse_foreign(path, header, run, recipe, fingerprint)
        _restore(path, tensors, header, state)
        if not problems:
            return None
        # The next save is not to put it in the place of the sound one.
        run.last_checkpoint.unlink(missing_ok=True)
        return f"{problems[0]}; going on from {path.name}, saved before it"
    raise InputError(f"{run.path}: no checkpoint to go on from; train anew", problems)


def _refuse_foreign(
    path: Path, header: dict[str, Any], run: Run, recipe: Recipe, fingerprint: str
) -> None:
    """Raise InputError unless a checkpoint was saved by this run, with this recipe and data."""
    if header.get("format") != FORMAT or "progress" not in header:
        raise InputError(f"{path}: not a checkpoint of this version of reslab")
    if header.get("fingerprint") != fingerprint:
        raise InputError(f"{path}: the data has changed since this run began; train anew")
    if header.get("run") != run.info.get("id"):
        raise InputError(f"{path}: saved by another run; put this run's own checkpoint back")
    saved = header.get("recipe")
    if saved is None:  # 0.1.0 did not note it
        return
    try:
        before = Recipe.model_validate(saved).by_dotted_name()
    except ValidationError:
        raise InputError(f"{path}: its recipe is not one of this version of reslab") from None
    now = recipe.by_dotted_name()
    changed = [
        f"{name} = {now[name]!r} where the run has {before[name]!r}"
        for name in now
        if now[name] != before[name]
        and name not in _MAY_CHANGE
        and not (name == "epochs" and now[name] == run.info.get("extended_to"))
    ]
    if changed:
        raise InputError(
            f"{run.path}/recipe.toml: changed since the run began; put it back, or train anew:",
            changed,
        )


def _restore(
    path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any], state: TrainingState
) -> None:
    network = _below("network.", tensors)
    slots: dict[int, dict[str, object]] = {}
    for key, value in _below("optimizer.", tensors).items():
        index, slot = key.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    of_parts = _below("part.", tensors)
    groups = state.optimizer.state_dict()["param_groups"]
    try:
        state.network.load_state_dict(network)
        state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        for part in state.parts:
            part.load(_below(f"{part.name}.", of_parts))
        state.progress = Progress(**header["progress"])
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: does not fit the run's recipe ({reason})") from None


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin so, under the rest of their names."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


class CheckpointClock:
    """Whether a checkpoint is due, by the recipe's `checkpoint_every`."""

    def __init__(self, every: str) -> None:
        self.unit = every.lstrip("0123456789")
        self.count = int(every.removesuffix(self.unit))
        self.unit = self.unit.rstrip("s")
        self.steps = self.epochs = 0
        self.last = time.monotonic()

    def due(self, epoch_ended: bool) -> bool:
        if epoch_ended:
            self.epochs += 1
        else:
            self.steps += 1
        due = {
            "epoch": epoch_ended and self.epochs % self.count == 0,
            "step": not epoch_ended and self.steps % self.count == 0,
            "min": time.monotonic() - self.last >= 60 * self.count,
        }[self.unit]
        if due:
            self.last = time.monotonic()
        return due
