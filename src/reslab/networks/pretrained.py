"""Pretrained weights: where they are found, how they want their pictures, how they are matched."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from torch import nn

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.networks.catalogue import OURS, TORCHVISION, head_prefix, timm_config
from reslab.networks.state_file import State, read_state
from reslab.pictures.preprocessing import Preprocessing


def pretrained_preprocessing(name: str) -> Preprocessing | None:
    """The preprocessing that a network's published weights were made for, or None for ours."""
    if name in OURS:
        return None
    if name in TORCHVISION:
        preset = _torchvision_weights(name).transforms()
        size = int(preset.crop_size[0])
        return Preprocessing(
            size=(size, size),
            mode="crop",
            interpolation=preset.interpolation.value,
            crop_fraction=size / int(preset.resize_size[0]),
            channels=3,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
    config = timm_config(name)
    interpolation: Any = config.interpolation
    return Preprocessing(
        size=config.size,
        mode="crop",
        interpolation=interpolation,
        crop_fraction=config.crop_fraction,
        channels=3,
        mean=config.mean,
        std=config.std,
    )


def load_pretrained(network: nn.Module, name: str, weights: str) -> None:
    """Put weights into all of a network but its head.

    weights: "pretrained" for the published ones (RESLAB_WEIGHTS, then the library's own cache
    and download), else a safetensors or state-dict file. Raises InputError if they cannot be
    found or do not match: nothing is loaded in part.
    """
    if weights == "pretrained":
        state, source = _published_state(name)
    else:
        state, source = read_state(user_path(weights)), weights
    state = {key.removeprefix("module."): value for key, value in state.items()}
    head = head_prefix(name, network)
    own = network.state_dict()
    wanted = {key: value for key, value in own.items() if not key.startswith(head)}
    problems = [f"{key}: missing" for key in wanted if key not in state]
    for key, value in state.items():
        if key in wanted and value.shape != wanted[key].shape:
            shapes = f"{tuple(value.shape)} where {name} has {tuple(wanted[key].shape)}"
            problems.append(f"{key}: shape {shapes}")
        elif key in wanted and value.is_floating_point() and not bool(value.isfinite().all()):
            problems.append(f"{key}: holds NaN or infinity")
        elif key not in wanted and not key.startswith(head):
            problems.append(f"{key}: unknown to {name}")
    # Files saved by old PyTorch versions lack this counter, which evaluation does not use.
    problems = [text for text in problems if "num_batches_tracked: missing" not in text]
    if problems:
        raise InputError(f"{source}: these weights are not {name}'s:", problems)
    network.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _torchvision_weights(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(name).DEFAULT


def _published_state(name: str) -> tuple[State, str]:
    """(state, where it came from) of a network's published weights."""
    if name in OURS:
        raise InputError(
            f"network {name} has no published weights; set --weights none --train-from all, or name"
            " a file"
        )
    if name in TORCHVISION:
        weights = _torchvision_weights(name)
        file_name = weights.url.rsplit("/", 1)[-1]
        megabytes = float(weights.meta["_file_size"])
    else:
        file_name = f"{name.removeprefix('timm:')}.safetensors"
        megabytes = 0.0
    folder = os.environ.get("RESLAB_WEIGHTS")
    if folder:
        path = user_path(folder) / file_name
        if path.is_file():
            _check_hash(path)
            return read_state(path), str(path)
    try:
        if name in TORCHVISION:
            return weights.get_state_dict(progress=False, check_hash=True), weights.url
        import timm

        network = timm.create_model(name.removeprefix("timm:"), pretrained=True)
        return network.state_dict(), timm_config(name).source
    except Exception as error:  # offline: each library raises its own
        size = f", {megabytes:.0f} MB" if megabytes else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            f"the published weights of {name} ({file_name}{size}) are not on this machine and could"
            f" not be downloaded ({reason}); fetch the file elsewhere, then give it with --weights"
            " FILE, or put it under that name into the folder that RESLAB_WEIGHTS names"
        ) from None


def _check_hash(path: Path) -> None:
    """Compare a file with the start of its SHA-256 that its published name carries."""
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(named[1]):
            raise InputError(f"{path}: damaged: its SHA-256 begins {digest[:8]}, not {named[1]}")
