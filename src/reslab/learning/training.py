"""A training run from data to run folder: `train` begins one, `resume` goes on with one."""

import hashlib
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import reslab
from reslab.errors import InputError, InterruptedRunError
from reslab.judging.charts import draw_curves
from reslab.judging.predictions import write_predictions
from reslab.learning.checkpoint import CheckpointClock, load_checkpoint, save_checkpoint
from reslab.learning.device import choose_device, device_name, set_up
from reslab.learning.display import Display
from reslab.learning.interruption import catching_signals
from reslab.learning.lock import holding
from reslab.learning.loop import EpochEnd, Step, TrainingState, judge, refuse_diverged, train_epochs
from reslab.learning.optimizers import build_optimizer
from reslab.learning.precision import choose_precision
from reslab.learning.preparation import DataSource, Prepared, default_recipe, prepare
from reslab.learning.recipe import Recipe, load_recipe
from reslab.learning.run import Run, new_run_folder, open_run
from reslab.learning.sheet import draw_training_sheet
from reslab.learning.transfer import (
    check_solvable,
    solved_path,
    start_from_solved_head,
    with_features,
)
from reslab.networks.catalogue import head_prefix
from reslab.networks.model_file import Model, SplitOrigin, read_tensors, save_model


def train(
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    network: str | None = None,
    weights: str | Path | None = None,
    precision: str | None = None,
    checkpoint_every: str | None = None,
    fields: Mapping[str, Any] | None = None,
    device: str = "auto",
    test: str | Path | None = None,
    val: str | Path | None = None,
    root: str | Path | None = None,
    data_root: str | Path | None = None,
    watch_test: bool = False,
    leave_out_unreadable: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a network on labelled pictures and score it once on the test split.

    data: a built-in name, a folder, a list file, a CSV or a zip.
    recipe: a name, a TOML file or a Recipe; by the pictures' size if None.
    fields: any recipe field by dotted name, such as {"optimizer.lr": 0.1}.
    out: the run folder; runs/<recipe>-<data>-<number> if None.
    watch_test: score the test split after each epoch too; it chooses nothing.
    Returns the finished run. Raises InputError for anything the user can mend, InterruptedRunError
    after a signal, with the state saved.
    """
    started = time.perf_counter()
    display = Display(quiet=quiet)
    given = {
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer.lr": lr,
        "network": network,
        "weights": None if weights is None else _named_weights(str(weights)),
        "precision": precision,
        "checkpoint_every": checkpoint_every,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    twice = sorted(set(changes) & set(fields or {}))
    if twice:
        raise InputError(f"{', '.join(twice)}: set twice, once by its own option")
    changes |= fields or {}
    # What can be wrong with the command is found before the data is read.
    chosen = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    (chosen or Recipe()).with_fields(changes)
    device = choose_device(device)
    set_up(device)
    if out is not None:
        Run(out).refuse_held(overwrite=overwrite)
    source = DataSource.named(data, test, val, root, data_root, leave_out_unreadable)
    pictures = source.read(display.track)
    chosen = (chosen or default_recipe(pictures)).with_fields(changes)
    _refuse_inside_data(Path(out or "runs").expanduser(), Path(str(data)).expanduser())
    prepared = prepare(pictures, chosen, display.track)
    check_solvable(prepared)
    _say_what_has_no_part(prepared.recipe, changes, display)
    prepared, precision_reason = _with_precision(prepared, device)
    run = Run(new_run_folder(chosen.name, str(data)) if out is None else out)
    with holding(run.path, run.holder):
        run.create(overwrite=overwrite)
        run.write_recipe(prepared.recipe)
        run.write_info(
            **_description(prepared, source, device, watch_test),
            precision_reason=precision_reason,
            seconds={"data": time.perf_counter() - started, "features": 0.0},
        )
        return _work(run, prepared, device, display, began=started, fresh=True)


def resume(
    run: str | Path, *, epochs: int | None = None, device: str = "auto", quiet: bool = False
) -> Run:
    """Go on with a run where it stopped, or, with `epochs`, further than it was to go.

    Raises InputError if the data has changed or the schedule does not allow more epochs.
    """
    started = time.perf_counter()
    display = Display(quiet=quiet)
    device = choose_device(device)
    set_up(device)
    opened = open_run(run)
    with holding(opened.path, opened.holder):
        opened = open_run(run)  # again, now that no other process writes it
        recipe = opened.recipe()
        if epochs is not None and epochs != recipe.epochs:
            _refuse_extension(recipe, epochs)
            recipe = recipe.with_fields({"epochs": epochs})
        elif opened.finished:
            display.say(f"{opened.path} is finished; name more --epochs to go further")
            return opened
        try:
            source = DataSource(**opened.info["source"])
        except (KeyError, TypeError):
            raise InputError(f"{opened.path}/run.json: does not say where the data is") from None
        prepared = prepare(source.read(display.track), recipe, display.track)
        check_solvable(prepared)
        _refuse_changed(opened, prepared)
        for difference in _differences(opened, device):
            display.warn(f"{difference}: the result may differ in its last digits")
        # Killed before its first checkpoint, a run begins.
        fresh = not (opened.path / "history.jsonl").exists() and not any(
            path.exists() for path in (opened.last_checkpoint, opened.previous_checkpoint)
        )
        return _work(opened, prepared, device, display, began=started, fresh=fresh)


def _refuse_changed(run: Run, prepared: Prepared) -> None:
    """Raise InputError naming what is no longer as it was when the run began."""
    pictures, info = prepared.pictures, run.info
    found: list[str] = []
    now_frozen = _digest_of(prepared.network, prepared.frozen)
    now, before = list(pictures.classes), list(info["classes"])
    if now != before:
        found += [f"class {name!r} is new" for name in now if name not in before]
        found += [f"class {name!r} is gone" for name in before if name not in now]
        found = found or ["the classes stand in another order"]
    for split, count in pictures.counts().items():
        if count != info["counts"].get(split):
            found.append(f"{split}: {count:,} pictures where it had {info['counts'].get(split):,}")
    if prepared.fingerprint != info["fingerprint"] and not found:
        found.append("pictures have other contents or other labels")
    if info.get("frozen", now_frozen) != now_frozen and not found:
        found.append(
            f"the weights of the frozen part differ: {prepared.recipe.weights} has changed"
        )
    if prepared.recipe.network != info["network"]:
        found.append(f"network {prepared.recipe.network} where it had {info['network']}")
    if found:
        raise InputError(
            f"{run.path}: the data or the network has changed since this run began; train anew:",
            found,
        )


def _differences(run: Run, device: str) -> list[str]:
    """What may make a resumed run differ in its last digits from one that was never stopped."""
    now = _circumstances(device)
    return [
        f"{name} is {now[name]} where the run began with {run.info[name]}"
        for name in now
        if name in run.info and run.info[name] != now[name]
    ]


def _circumstances(device: str) -> dict[str, Any]:
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


def _with_precision(prepared: Prepared, device: str) -> tuple[Prepared, str]:
    """The precision settled, so that the run's recipe gives the same run again, and why."""
    recipe, pixels = prepared.recipe, prepared.pixels
    views = recipe.epochs * len(pixels.samples)
    if prepared.cut is not None:
        views = sum(prepared.pictures.counts().values()) + recipe.views * len(pixels.samples)
    # Of a deep frozen network few pictures are enough, and pictures must be decoded for this.
    count = 8 if recipe.frozen else min(recipe.micro_batch or recipe.batch_size, 64)
    rows = torch.arange(min(count, len(pixels.samples)))
    precision, reason = choose_precision(
        recipe.precision,
        prepared.network.to(device),
        lambda: (pixels.inputs(rows, epoch=0), pixels.labels[rows]),
        (len(rows), prepared.spec.channels, *prepared.spec.size),
        views // len(rows),
        device,
        train_mode=recipe.norms_learn,
    )
    return replace(prepared, recipe=recipe.with_fields({"precision": precision})), reason


def _say_what_has_no_part(recipe: Recipe, changes: Mapping[str, Any], display: Display) -> None:
    """Tell who has set options that a solved head does not look at."""
    parts = ("optimizer", "schedule", "batch_size", "micro_batch", "label_smoothing")
    given = [name for name in changes if recipe.solves and name.split(".")[0] in parts]
    if given:
        display.warn(
            f"the head is solved: {', '.join(given)} has no part in it, but with --head trained"
        )


def _named_weights(weights: str) -> str:
    """A file's whole path: the run may be resumed from another folder."""
    return (
        weights if weights in ("none", "pretrained") else str(Path(weights).expanduser().absolute())
    )


def _refuse_inside_data(out: Path, data: Path) -> None:
    """A run inside a data folder would be a class of it the next time."""
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise InputError(f"the run folder {out} lies inside the data {data}; name another --out")


def _refuse_extension(recipe: Recipe, epochs: int) -> None:
    if epochs < recipe.epochs:
        raise InputError(f"--epochs {epochs}: the run is to go {recipe.epochs} epochs already")
    if recipe.solves:
        raise InputError(
            f"--epochs {epochs}: a solved head's path spans the whole run, so more epochs would be"
            " another run; train anew with --epochs"
        )
    if recipe.schedule.name != "constant" or recipe.schedule.warmup:
        raise InputError(
            f"--epochs {epochs}: the {recipe.schedule.name} schedule spans the whole run, so more"
            " epochs would be another run; train anew with --epochs"
        )


def _description(
    prepared: Prepared, source: DataSource, device: str, watch_test: bool
) -> dict[str, Any]:
    """The fields of run.json that are known before the first step."""
    pictures = prepared.pictures
    return {
        "status": "running",
        "recipe": prepared.recipe.name,
        "network": prepared.recipe.network,
        "data": pictures.name,
        "source": source.as_dict(),
        "classes": list(pictures.classes),
        "preprocessing": prepared.preprocessing.model_dump(mode="json"),
        "counts": pictures.counts(),
        "carved": list(prepared.carved),
        "left_out": list(pictures.left_out),
        "notes": list(pictures.notes),
        "fingerprint": prepared.fingerprint,
        "frozen": _digest_of(prepared.network, prepared.frozen),
        "parameters": sum(p.numel() for p in prepared.network.parameters()),
        "precision": prepared.recipe.precision,
        "watch_test": watch_test,
        **_circumstances(device),
    }


def _work(
    run: Run, prepared: Prepared, device: str, display: Display, *, began: float, fresh: bool
) -> Run:
    """Train from the run's state to its end, then judge; every exit leaves the state saved."""
    recipe = prepared.recipe
    run.clear_leftovers()
    network, trained = prepared.network.to(device), prepared.trained.to(device)
    frozen = _digest_of(network, prepared.frozen)
    head = head_prefix(recipe.network, network)
    state = TrainingState(trained, build_optimizer(recipe.optimizer, trained, head))
    progress = state.progress
    if fresh:
        save_checkpoint(run, state, prepared.fingerprint)
    else:
        warning = load_checkpoint(run, state, prepared.fingerprint)
        if warning:
            display.warn(warning)
        progress = state.progress
        run.cut_history(progress.history_lines)
        run.write_recipe(recipe)
    run.write_info(status="running", process=f"process {os.getpid()} on {platform.node()}")
    _announce(run, prepared, display)
    with catching_signals() as caught, _failing_safely(run, prepared):

        def stop() -> None:
            if caught:
                raise _interrupted(run, prepared, state, caught[0], began)

        if prepared.cut is not None:
            _draw_preview(run, prepared)
            prepared, report = with_features(prepared, device, display, stop)
            _note_features(run, "features", report)
        if recipe.frozen_start and progress.epoch == progress.step == 0:
            report = start_from_solved_head(prepared, device, display, stop)
            _note_features(run, "head_features", report)
        judged = {
            name: batches
            for name, batches in prepared.evaluation.items()
            if name == "validation" or (name == "test" and run.info["watch_test"])
        }
        if recipe.solves:
            events: Iterator[Step | EpochEnd] = solved_path(prepared, state, judged, device)
            steps = 0
        else:
            events = train_epochs(state, recipe, prepared.batches, judged, device)
            steps = len(prepared.batches)
        clock = CheckpointClock(recipe.checkpoint_every)
        with display.training(recipe.epochs, steps, progress.epoch * steps + progress.step):
            for event in events:
                if isinstance(event, EpochEnd):
                    run.append_history(event.record)
                    if event.best:
                        save_model(run.best_checkpoint, trained.state_dict(), _model(prepared))
                    display.epoch(event)
                else:
                    display.step(event)
                _draw_preview(run, prepared)
                ending = bool(caught)  # once: a signal may come at any moment
                if clock.due(isinstance(event, EpochEnd)) or ending:
                    refuse_diverged(state)
                    save_checkpoint(run, state, prepared.fingerprint)
                if ending:
                    stop()
            save_checkpoint(run, state, prepared.fingerprint)
            stop()
    if _digest_of(network, prepared.frozen) != frozen:
        raise AssertionError("the frozen part changed")
    return _finish(run, prepared, state, device, began)


def _digest_of(network: nn.Module, names: tuple[str, ...]) -> str:
    """SHA-256 of these parameters and buffers: frozen is frozen, bit for bit."""
    digest, values = hashlib.sha256(), network.state_dict()
    for name in names:
        value = values[name].detach().cpu().contiguous()
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _note_features(run: Run, name: str, report: dict[str, Any]) -> None:
    """Put a report of features into run.json, on top of what a stopped session has computed."""
    seconds = run.info["seconds"]
    seconds["features"] += report.pop("seconds")
    report["computed"] += run.info.get(name, {}).get("computed", 0)
    run.write_info(**{name: report}, seconds=seconds)


def _finish(
    run: Run,
    prepared: Prepared,
    state: TrainingState,
    device: str,
    began: float,
) -> Run:
    """Score the best weights once on test and write what the run is for."""
    recipe, progress = prepared.recipe, state.progress
    best = _publish_best(run, prepared)
    prepared.trained.load_state_dict(best)
    started = time.perf_counter()
    results: dict[str, Any] = {"test": None, "validation": None}
    for split in ("validation", "test"):
        if split in prepared.evaluation:
            batches = prepared.evaluation[split]
            judged = [
                judge(prepared.trained, batches(), device, views)
                for views in dict.fromkeys((recipe.averaging, "none"))
            ]
            found, logits = judged[0]
            classes = prepared.pictures.classes
            results[split] = found.as_dict(classes)
            if recipe.averaging != "none":
                results[split] |= {
                    "averaging": recipe.averaging,
                    "without_averaging": judged[1][0].as_dict(classes),
                }
            if split == "test":
                samples = prepared.pictures.splits["test"]
                write_predictions(run.path / "predictions.csv", samples, classes, logits)
            if not math.isfinite(found.loss):
                raise InputError(
                    f"the best weights give a {split} loss of {found.loss}: training diverged. Try"
                    " a smaller --lr"
                )
    progress.evaluate_seconds += time.perf_counter() - started
    _draw_curves(run)
    run.write_info(
        status="finished",
        **results,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        seconds=_seconds(run, state, began),
    )
    return run


def _announce(run: Run, prepared: Prepared, display: Display) -> None:
    pictures, recipe, info = prepared.pictures, prepared.recipe, run.info
    counts = ", ".join(f"{count:,} {name}" for name, count in pictures.counts().items())
    display.say(f"data       {pictures.name}: {len(pictures.classes)} classes; {counts}")
    if prepared.carved:
        display.say(f"           {' and '.join(prepared.carved)} carved from train")
    trains = {
        "all": "all weights",
        "head": "the head on a frozen backbone",
    }.get(recipe.train_from, f"{recipe.train_from} and what follows; the rest is frozen")
    display.say(f"network    {recipe.network}: {info['parameters']:,} parameters; trains {trains}")
    display.say(f"recipe     {recipe.name}, seed {recipe.seed}")
    display.say(
        f"device     {info['device_name']}, {info['precision']} ({info['precision_reason']})"
    )
    display.say(f"run        {run.path}")
    for note in pictures.notes:
        display.warn(note)
    if pictures.left_out:
        display.warn(f"{len(pictures.left_out):,} unreadable picture(s) left out, see run.json")


def _model(prepared: Prepared) -> Model:
    split = prepared.recipe.split
    origin = SplitOrigin(
        fingerprint=prepared.fingerprint,
        validation=split.validation,
        test=split.test,
        seed=split.seed,
    )
    return Model(
        prepared.network,
        prepared.spec,
        prepared.pictures.classes,
        prepared.preprocessing,
        origin,
        prepared.recipe.averaging,
    )


def _publish_best(run: Run, prepared: Prepared) -> dict[str, torch.Tensor]:
    """Write the model file of the best weights so far; those that trained, and the frozen ones."""
    best, _ = read_tensors(run.best_checkpoint)
    save_model(run.model, prepared.network.state_dict() | best, _model(prepared))
    return best


def _draw_preview(run: Run, prepared: Prepared) -> None:
    """Draw the sheet if it is not there yet: after the first step, which it would hold up."""
    path = run.path / "preview.png"
    if not path.exists():
        draw_training_sheet(prepared.pixels, prepared.pictures.classes, path)


def _draw_curves(run: Run) -> None:
    title = f"{run.info['recipe']} on {run.info['data']}"
    draw_curves(run.history, run.path / "curves.png", title)


def _seconds(run: Run, state: TrainingState, began: float) -> dict[str, float]:
    """Wall-clock seconds, over all the sessions of a run."""
    earlier: dict[str, float] = run.info["seconds"]
    return earlier | {
        "train": state.progress.train_seconds,
        "evaluate": state.progress.evaluate_seconds,
        "total": earlier.get("total", 0.0) + time.perf_counter() - began,
    }


def _interrupted(
    run: Run, prepared: Prepared, state: TrainingState, number: int, began: float
) -> InterruptedRunError:
    """Leave what is done usable: the best model so far and the curves."""
    progress = state.progress
    if run.best_checkpoint.exists():
        _publish_best(run, prepared)
        _draw_curves(run)
    run.write_info(
        status="interrupted",
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        seconds=_seconds(run, state, began),
    )
    return InterruptedRunError(
        f"stopped in epoch {progress.epoch} after {progress.step} steps; the state is saved."
        f" Go on with: reslab resume {run.path}",
        number,
    )


@contextmanager
def _failing_safely(run: Run, prepared: Prepared) -> Iterator[None]:
    """Record a run that cannot go on as failed, and keep its best model so far."""
    try:
        yield
    except (InputError, MemoryError, RuntimeError) as error:
        if isinstance(error, InputError):
            problem = error
        elif isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            "allocate memory" in str(error)  # torch's own, on a CPU
        ):
            problem = InputError(
                "there is not enough memory; the last good state is kept. Set a smaller"
                " --batch-size, or --micro-batch, which leaves the steps as they are; where a"
                " part is frozen, fewer --views"
            )
        else:
            raise
        if run.best_checkpoint.exists():
            _publish_best(run, prepared)
            _draw_curves(run)
        run.write_info(status="failed", error=str(problem))
        raise problem from None
