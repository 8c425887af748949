"""What a run says of itself before its first step: in run.json and on the screen."""

import hashlib
import platform
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

import reslab
from reslab.learning.device import device_name
from reslab.pictures.data_source import DataSource
from reslab.recipes.recipe import Recipe
from reslab.run.display import Display
from reslab.run.folder import Run
from reslab.training.preparation import Prepared

FEW = 30  # validation pictures, of which a choice is mostly luck


def description(
    prepared: Prepared, source: DataSource, device: str, **asked: Any
) -> dict[str, Any]:
    """The fields of run.json that are known before the first step.

    asked: how the run was asked to go about it, for a resume: watch_test, language, tensorboard.
    """
    pictures = prepared.pictures
    return {
        "status": "running",
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "id": secrets.token_hex(16),
        "recipe": prepared.recipe.name,
        "network": prepared.recipe.network,
        "data": pictures.name,
        "source": source.model_dump(),
        "classes": list(pictures.classes),
        "preprocessing": prepared.preprocessing.model_dump(mode="json"),
        "counts": pictures.counts(),
        "class_counts": {
            name: np.bincount(samples.labels, minlength=len(pictures.classes)).tolist()
            for name, samples in pictures
        },
        "carved": list(prepared.carved),
        "left_out": list(pictures.left_out),
        "without": list(pictures.without),
        "notes": list(pictures.notes),
        "fingerprint": prepared.fingerprint,
        "arrangement": pictures.arrangement(),
        "frozen": digest_of(prepared.network, prepared.frozen),
        "parameters": sum(p.numel() for p in prepared.network.parameters()),
        "precision": prepared.recipe.precision,
        **asked,
        **circumstances(device),
    }


def circumstances(device: str) -> dict[str, Any]:
    """What decides on the last digits of a result."""
    return {
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "reslab": reslab.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def digest_of(network: nn.Module, names: tuple[str, ...]) -> str:
    """SHA-256 of these parameters and buffers: frozen is frozen, bit for bit."""
    digest, values = hashlib.sha256(), network.state_dict()
    for name in names:
        value = values[name].detach().cpu().contiguous()
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def announce(run: Run, prepared: Prepared, display: Display) -> None:
    """Say what is about to be done, and what the user should know of the data."""
    pictures, recipe, info = prepared.pictures, prepared.recipe, run.info
    counted = pictures.counts()
    counts = ", ".join(f"{count:,} {name}" for name, count in counted.items())
    display.say(f"data       {pictures.name}: {len(pictures.classes)} classes; {counts}")
    if prepared.carved:
        display.say(f"           {' and '.join(prepared.carved)} carved from train")
    if "validation" in prepared.carved and recipe.solves and counted["validation"] < FEW:
        display.say(
            f"           validation has only {counted['validation']} pictures: --folds 5 would"
            f" judge on all {counted['train'] + counted['validation']}"
        )
    if prepared.folds is not None:
        display.say(
            f"           validation is cross-validated: {len(prepared.folds.judged):,} training"
            f" pictures in {prepared.folds.count} folds, each judged by heads solved without it"
        )
    trains = {
        "all": "all weights",
        "head": "the head on a frozen backbone",
    }.get(recipe.train_from, f"{recipe.train_from} and what follows; the rest is frozen")
    display.say(f"network    {recipe.network}: {info['parameters']:,} parameters; trains {trains}")
    if recipe.solves:
        display.say(
            f"head       solved: logistic regression, for {recipe.epochs} strengths of"
            " regularisation"
        )
    display.say(f"recipe     {recipe.name}, seed {recipe.seed}")
    display.say(
        f"device     {info['device_name']}, {info['precision']} ({info['precision_reason']})"
    )
    display.say(f"run        {run.path}")
    for note in pictures.notes:
        display.warn(note)
    if pictures.left_out:
        display.warn(f"{len(pictures.left_out):,} unreadable picture(s) left out, see run.json")


def without_part(names: Iterable[str]) -> list[str]:
    """Those fields, by dotted name, that a solved head does not look at."""
    parts = ("optimizer", "schedule", "batch_size", "micro_batch", "label_smoothing", "ema_decay")
    return [name for name in names if name.split(".")[0] in parts]


def say_what_has_no_part(recipe: Recipe, changes: Mapping[str, Any], display: Display) -> None:
    """Tell who has set options that a solved head does not look at."""
    given = without_part(changes) if recipe.solves else []
    if given:
        display.warn(
            f"the head is solved: {', '.join(given)} has no part in it, but with --head trained"
        )
    if recipe.folds and float(changes.get("split.validation", 0)) > 0:
        display.warn("--folds carves no validation split: split.validation has no part in it")
