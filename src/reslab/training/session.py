"""A run while a process works on it: what the steps of its story hand to each other."""

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from reslab.errors import InputError, InterruptedRunError
from reslab.features.solving import strengths
from reslab.judging.calibration import Calibration
from reslab.learning.device import lacks_memory
from reslab.learning.optimizers import build_optimizer
from reslab.learning.parts import build_parts
from reslab.learning.state import TrainingState
from reslab.networks.catalogue import head_prefix
from reslab.networks.model_file import Model, SplitOrigin, read_tensors, save_model
from reslab.processes import LostProcessError, team
from reslab.run.checkpoint import load_checkpoint, save_checkpoint
from reslab.run.display import Display
from reslab.run.folder import Run
from reslab.training.preparation import Prepared
from reslab.training.run_files import Outcome, write_files


def new_state(prepared: Prepared, device: str) -> TrainingState:
    """The state before the first step, on the device."""
    recipe = prepared.recipe
    network, trained = prepared.network.to(device), prepared.trained.to(device)
    head = head_prefix(recipe.network, network)
    optimizer = build_optimizer(recipe.optimizer, trained, head)
    parts = build_parts(recipe, trained, prepared.spec.classes)
    return TrainingState(trained, optimizer, parts)


@dataclass
class Session:
    """A run, what it works with, and where it stands; `began` is when, by time.perf_counter.

    stage: which one of a plan this is, if any: its best weights are kept whole, and published.
    save_plan: writes that plan, as far as it has been carried out.
    """

    run: Run
    prepared: Prepared
    device: str
    display: Display
    began: float
    state: TrainingState
    stage: int | None = None
    save_plan: Callable[[], None] | None = None

    @classmethod
    def open(
        cls, run: Run, prepared: Prepared, device: str, display: Display, began: float
    ) -> "Session":
        """With a state as it is before the first step."""
        return cls(run, prepared, device, display, began, new_state(prepared, device))

    def start(self, *, fresh: bool) -> None:
        """Save the first state, or go back to the last one that was saved."""
        run, recipe = self.run, self.prepared.recipe
        run.clear_leftovers()
        if fresh:
            self.save()
        else:
            with team().leader_first():  # which does away with a damaged one
                self.restore()
            run.cut_history(self.state.progress.history_lines)
            run.write_recipe(recipe)
        run.write_info(status="running", process=f"process {os.getpid()} on {platform.node()}")

    def save(self) -> None:
        """Make the state safe on the disk."""
        prepared = self.prepared
        if self.save_plan is not None:
            self.save_plan()  # first: it says how the state was come to
        if self.run.writes:
            save_checkpoint(self.run, self.state, prepared.recipe, prepared.fingerprint)

    def restore(self) -> None:
        """Go back to the last state that was saved, and keep its weights if they were the best."""
        prepared, state = self.prepared, self.state
        warning = load_checkpoint(self.run, state, prepared.recipe, prepared.fingerprint)
        if warning:
            self.display.warn(warning)
        # A kill may have come between the state and these.
        if state.progress.best and state.progress.step == 0:
            self.keep_best()

    def model(self, calibration: Calibration | None = None) -> Model:
        """What the model file says beside its weights."""
        calibration = calibration or Calibration()
        prepared = self.prepared
        origin = SplitOrigin(
            fingerprint=prepared.fingerprint,
            **prepared.recipe.splitting._asdict(),
        )
        return Model(
            prepared.network,
            prepared.spec,
            prepared.pictures.classes,
            prepared.preprocessing,
            origin,
            prepared.recipe.averaging,
            calibration.temperature,
            calibration.held,
        )

    def keep_best(self) -> None:
        """Keep the weights as they are now: they are the best so far."""
        if not self.run.writes:
            return
        weights = dict(self.state.judged.state_dict())
        if self.stage is not None:
            weights = self.prepared.network.state_dict() | weights
        save_model(self.run.best_checkpoint, weights, self.model())
        if self.stage is not None:
            self.publish_best()

    def append_history(self, record: dict[str, Any]) -> None:
        """Add a record to the history."""
        self.run.append_history(record if self.stage is None else record | {"stage": self.stage})

    def best_weights(self) -> dict[str, torch.Tensor]:
        """The best weights so far, of what trained."""
        return read_tensors(self.run.best_checkpoint)[0]

    def publish_best(self, calibration: Calibration | None = None) -> None:
        """Write the model file of the best weights so far."""
        if not self.run.writes:
            return
        state = self.prepared.network.state_dict() | self.best_weights()
        save_model(self.run.model, state, self.model(calibration))

    def standing(self) -> dict[str, Any]:
        """How far the run has come, for run.json: in epochs, or in strengths of a solved head.

        Seconds are wall-clock seconds over all the sessions of a run.
        """
        recipe, progress, earlier = self.prepared.recipe, self.state.progress, self.run.info
        solved = None
        if recipe.solves and progress.best_epoch >= 0:
            solved = strengths(recipe.epochs)[progress.best_epoch]
        called: dict[str, Any] = {
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "stopped_early": progress.epoch < recipe.epochs
            and progress.waited_out(recipe.patience),
        }
        if recipe.solves:
            called = {"strengths": progress.epoch, "best_strength": solved, "best_epoch": None}
        seconds = earlier["seconds"]
        return called | {
            "seconds": seconds
            | {
                "train": progress.train_seconds,
                "evaluate": progress.evaluate_seconds,
                "total": seconds.get("total", 0.0) + time.perf_counter() - self.began,
            },
        }

    def note_features(self, name: str, report: dict[str, Any]) -> None:
        """Put a report of features into run.json, on top of what a stopped session computed."""
        seconds = self.run.info["seconds"]
        seconds["features"] += report.pop("seconds")
        report["computed"] += self.run.info.get(name, {}).get("computed", 0)
        self.run.write_info(**{name: report}, seconds=seconds)

    def leave_usable(self) -> None:
        """Publish what there is of a run that ends early: the best model so far, the curves."""
        if self.run.writes and self.run.best_checkpoint.exists():
            self.publish_best()
            write_files(Outcome(self.run, self.prepared.pictures), finished=False)

    def interrupted(self, number: int) -> InterruptedRunError:
        """The error to raise after a signal; what is done is left usable."""
        progress = self.state.progress
        self.leave_usable()
        self.run.write_info(status="interrupted", **self.standing())
        done = f"in epoch {progress.epoch} after {progress.step} steps"
        if self.prepared.recipe.solves:
            done = f"after {progress.epoch} strengths"
        return InterruptedRunError(
            f"stopped {done}; the state is saved. Go on with: reslab resume {self.run.path}",
            number,
        )

    @contextmanager
    def failing_safely(self) -> Iterator[None]:
        """Record a run that cannot go on as failed, and keep its best model so far."""
        try:
            yield
        except (InputError, MemoryError, RuntimeError, OSError) as error:
            if isinstance(error, InputError):
                problem = error
            elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._without_room(error) from None
            elif lacks_memory(error):
                problem = InputError(
                    "there is not enough memory; the last good state is kept. Set a smaller"
                    " --batch-size, or --micro-batch, which leaves the steps as they are; where a"
                    " part is frozen, fewer --views"
                )
            else:
                raise
            if not isinstance(problem, LostProcessError):  # which leaves no time
                self.leave_usable()
            self.run.write_info(status="failed", error=str(problem))
            raise problem from None

    def _without_room(self, error: OSError) -> InputError:
        """What to raise of a full disk."""
        problem = InputError(
            f"{error.filename or self.run.path}: {error.strerror}; what was saved before is kept."
            f" Make room, then go on with: reslab resume {self.run.path}"
        )
        with suppress(OSError):
            self.run.write_info(status="failed", error=str(problem))
        return problem
