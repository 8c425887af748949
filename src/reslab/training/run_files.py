"""The files of a run folder: what each holds, and who writes it when.

A file that comes at the end is a function of (path, Outcome) here, and a line in `RUN_FILES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from reslab.errors import InputError
from reslab.judging.calibration import Calibration
from reslab.judging.charts import draw_curves
from reslab.judging.metrics import Judged
from reslab.judging.predictions import write_predictions
from reslab.judging.sheet import draw_training_sheet
from reslab.networks.model_file import MODEL_FILE, save_model
from reslab.pictures.table import Pictures
from reslab.reporting.page import write_report
from reslab.run.checkpoint import save_checkpoint
from reslab.run.folder import Run
from reslab.run.looks import LOOKS_FILE, note_look
from reslab.training.anytime.plan import PLAN_FILE, Plan


@dataclass
class Outcome:
    """What a run has come to: `judged` and `logits` (N, classes) of each split that was scored.

    A run that was stopped has none, and no calibration. `problems` are of files that could not be
    made, and without which a run is whole. maps: whether the report shows where the network looked.
    """

    run: Run
    pictures: Pictures
    calibration: Calibration = field(default_factory=Calibration)
    judged: dict[str, Judged] = field(default_factory=dict)
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    maps: bool = True


@dataclass(frozen=True)
class RunFile:
    """A file or folder of a run.

    when: while the run "works"; or by `written_by(path, outcome)` at its "end", or at its "stop"
        too, as far as it has come.
    """

    name: str
    holds: str
    written_by: Callable[..., Any]
    when: Literal["works", "end", "stop"] = "works"


def _predictions(path: Path, outcome: Outcome) -> None:
    if "test" in outcome.judged:
        judged = outcome.judged["test"]
        logits, temperature = outcome.logits["test"], judged.temperature
        write_predictions(path, judged.samples, judged.classes, logits, temperature)


def _curves(path: Path, outcome: Outcome) -> None:
    info = outcome.run.info
    draw_curves(outcome.run.history, path, f"{info['recipe']} on {info['data']}")


def _report(path: Path, outcome: Outcome) -> None:
    language = outcome.run.info.get("language", "en")
    try:
        write_report(path, outcome.run, outcome.pictures, language, maps=outcome.maps)
    except InputError as error:  # a page is not worth a run
        outcome.problems.append(f"no report: {error}")


RUN_FILES = (
    RunFile(
        MODEL_FILE,
        "the chosen weights with classes and preprocessing: all that prediction needs",
        save_model,
    ),
    RunFile(
        "recipe.toml",
        "the whole recipe as run; training it again gives the same weights",
        Run.write_recipe,
    ),
    RunFile(
        "history.jsonl",
        "a line an epoch (or a strength of a solved head): rate, losses, accuracies, seconds",
        Run.append_history,
    ),
    RunFile(
        "predictions.csv",
        "every test picture: path, label, prediction, probability",
        _predictions,
        "end",
    ),
    RunFile(LOOKS_FILE, "each look at the test split, with its date and command", note_look),
    RunFile("curves.png", "loss and accuracy over the run", _curves, "stop"),
    RunFile("report.html", "all of it as a page to look at, without network", _report, "end"),
    RunFile(
        PLAN_FILE,
        "of a training by the clock: its stages, what they cost and gave; --plan repeats them",
        Plan.save,
    ),
    RunFile("preview.png", "samples as trained on", draw_training_sheet),
    RunFile("checkpoints/last.safetensors", "the last state", save_checkpoint),
    RunFile("checkpoints/previous.safetensors", "the one saved before it", save_checkpoint),
    RunFile("checkpoints/best.safetensors", "the best weights", save_model),
    RunFile(
        "checkpoints/chosen.safetensors",
        "of a training by the clock: what validation chose, before the head learned from it too",
        save_model,
    ),
    # Last: a folder that is being emptied and has lost it would hold files and no run.
    RunFile(
        "run.json",
        "counts, scores with 95 % intervals, times, versions, device, what was left out",
        Run.write_info,
    ),
)


def write_files(outcome: Outcome, *, finished: bool) -> None:
    """Write the files that come at the end of a run, or those that come at any stop."""
    for file in RUN_FILES:
        if file.when == "stop" or (finished and file.when == "end"):
            file.written_by(outcome.run.path / file.name, outcome)
