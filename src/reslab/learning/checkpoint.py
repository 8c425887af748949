"""The state of a run as one safetensors file with a JSON header."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import safetensors.torch

from reslab.errors import InputError
from reslab.learning.loop import Progress, TrainingState
from reslab.networks.model_file import read_tensors
from reslab.writing import write_safely

FORMAT = 1


def save_checkpoint(path: Path, state: TrainingState, fingerprint: str) -> None:
    """Write the network, the optimiser and the progress; the old file stays until it is done."""
    tensors = {f"network.{key}": value for key, value in state.network.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            if value is not None:
                tensors[f"optimizer.{index}.{key}"] = value
    header = {"format": FORMAT, "progress": asdict(state.progress), "fingerprint": fingerprint}
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_safely(path, safetensors.torch.save(plain, {"reslab": json.dumps(header)}))


def load_checkpoint(path: Path, state: TrainingState, fingerprint: str) -> None:
    """Bring a freshly built state to where the checkpoint stands.

    Raises InputError if the file is damaged or belongs to other data or another network.
    """
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT or "progress" not in header:
        raise InputError(f"{path}: not a checkpoint of this version of reslab")
    if header.get("fingerprint") != fingerprint:
        raise InputError(f"{path}: the data has changed since this run began; train anew")
    network = {
        key.removeprefix("network."): value
        for key, value in tensors.items()
        if key.startswith("network.")
    }
    slots: dict[int, dict[str, object]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".", 2)
            slots.setdefault(int(index), {})[slot] = value
    groups = state.optimizer.state_dict()["param_groups"]
    try:
        state.network.load_state_dict(network)
        state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        state.progress = Progress(**header["progress"])
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: does not fit the run's recipe ({reason})") from None


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
