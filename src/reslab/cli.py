"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import reslab
from reslab.errors import InputError, InterruptedRunError

app = App(
    name="reslab",
    version=reslab.__version__,
    help="Residual networks for pictures: train, test and use them.",
    help_format="plaintext",
)


def _flag(text: str) -> Parameter:
    return Parameter(help=text, negative=(), show_default=False)


Data = Annotated[
    str,
    Parameter(
        help="A built-in set (digits, mnist, fashion-mnist, cifar10, cifar100), a folder, a list, a"
        " CSV, or a zip of any of these."
    ),
]
Model = Annotated[str, Parameter(help="A run folder or its model file.")]
RecipeName = Annotated[
    str | None,
    Parameter(help="A recipe's name or TOML file; chosen by the pictures' size if not given."),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps.")]
Test = Annotated[str | None, Parameter(help="The test list that goes with a list or CSV.")]
Val = Annotated[str | None, Parameter(help="The validation list that goes with a list or CSV.")]
Root = Annotated[
    str | None,
    Parameter(help="The folder a list's paths are relative to; the list's own if not given."),
]
DataRoot = Annotated[
    str | None, Parameter(help="Where built-in data lies; else RESLAB_DATA, else the cache.")
]
LeaveOut = Annotated[bool, _flag("Go on without pictures that cannot be read, and list them.")]
Quiet = Annotated[bool, _flag("Show no progress.")]
Json = Annotated[bool, _flag("Print JSON, the result last on standard output.")]
# Fields of the recipe are split off the command line before it is parsed.
Fields = Annotated[dict[str, str] | None, Parameter(parse=False)]


@app.command
def recipes(
    name: Annotated[str | None, Parameter(help="A recipe; all are listed without it.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List the recipes, or show one with its expected result."""
    from reslab.learning.recipe import load_recipe, recipe_names, recipe_text

    if name is not None and not json:
        print(recipe_text(name), end="")
        return
    found = []
    for each in recipe_names() if name is None else [name]:
        comment = [line[2:] for line in recipe_text(each).splitlines() if line.startswith("# ")]
        entry: dict[str, Any] = {"name": each, "title": comment[0], "comment": "\n".join(comment)}
        for role in ("Command", "Published", "Expected"):
            lines = [line for line in comment if line.startswith(f"{role}: ")]
            entry[role.lower()] = lines[0].removeprefix(f"{role}: ") if lines else None
        found.append(entry | {"recipe": load_recipe(each).model_dump(mode="json")})
    if json:
        _print_json(found if name is None else found[0])
        return
    for entry in found:
        print(f"{entry['name']:18}{entry['title']}")
        print(f"{'':18}{entry['command']}")
        print(f"{'':18}{entry['published'] or entry['expected']}")


@app.command
def train(
    data: Data,
    /,
    *,
    recipe: RecipeName = None,
    out: Annotated[
        str | None,
        Parameter(help="The run folder; runs/<recipe>-<data>-<number> if not given."),
    ] = None,
    seed: Annotated[
        int | None, Parameter(help="Decides initial weights, order, augmentation and dropout.")
    ] = None,
    epochs: Annotated[
        int | None, Parameter(help="How often to go through the training pictures.")
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Pictures a step, at most.")] = None,
    lr: Annotated[
        float | None, Parameter(help="Learning rate (the recipe's optimizer.lr).")
    ] = None,
    network: Annotated[
        str | None,
        Parameter(help="A network by name: reslab's own, torchvision's ResNets, or timm's."),
    ] = None,
    weights: Annotated[
        str | None,
        Parameter(help="pretrained, none, or a file: safetensors or a PyTorch state dict."),
    ] = None,
    device: Device = "auto",
    precision: Annotated[str | None, Parameter(help="auto, fp32 or bf16.")] = None,
    checkpoint_every: Annotated[
        str | None, Parameter(help="Such as 1epoch, 20steps or 5min.")
    ] = None,
    test: Test = None,
    val: Val = None,
    root: Root = None,
    data_root: DataRoot = None,
    watch_test: Annotated[
        bool, _flag("Score the test split after each epoch too. It chooses nothing.")
    ] = False,
    leave_out_unreadable: LeaveOut = False,
    overwrite: Annotated[bool, _flag("Replace the run that --out holds.")] = False,
    quiet: Quiet = False,
    json: Json = False,
    fields: Fields = None,
) -> None:
    """Train on labelled pictures, write a run folder, and score once on the test split.

    Any field of a recipe can be set by its dotted name, such as --optimizer.momentum 0.9 or
    --augment.flip-horizontal 0.5; `reslab recipes NAME` shows the fields.
    """
    chosen = _recipe(recipe, fields)
    from reslab.learning.training import train as train_

    run = train_(
        data,
        recipe=chosen,
        out=out,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        network=network,
        weights=weights,
        device=device,
        precision=precision,
        checkpoint_every=checkpoint_every,
        test=test,
        val=val,
        root=root,
        data_root=data_root,
        watch_test=watch_test,
        leave_out_unreadable=leave_out_unreadable,
        overwrite=overwrite,
        quiet=quiet,
        fields=fields,
    )
    _print_run(run, json)


@app.command
def resume(
    run: Annotated[str, Parameter(help="The run folder.")],
    /,
    *,
    epochs: Annotated[int | None, Parameter(help="Train to this many epochs in all.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go on with a run exactly where it stopped, or further."""
    from reslab.learning.training import resume as resume_

    _print_run(resume_(run, epochs=epochs, device=device, quiet=quiet), json)


@app.command
def evaluate(
    model: Model,
    data: Data,
    /,
    *,
    split: Annotated[
        str | None,
        Parameter(help="train, validation, test or all; test if the data has one, else all."),
    ] = None,
    out: Annotated[str | None, Parameter(help="Write every prediction to this CSV file.")] = None,
    device: Device = "auto",
    batch_size: Annotated[int, Parameter(help="Pictures a forward pass.")] = 256,
    test: Test = None,
    val: Val = None,
    root: Root = None,
    data_root: DataRoot = None,
    leave_out_unreadable: LeaveOut = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Score a model on labelled pictures. Data it was trained on is split as it was then."""
    from pathlib import Path

    from reslab.judging.predictions import HEADER
    from reslab.using.evaluation import evaluate as evaluate_
    from reslab.writing import refuse_foreign

    if out is not None:
        refuse_foreign(Path(out), "--out", ",".join(HEADER).encode(), "a table of predictions")
    found = evaluate_(
        model,
        data,
        split=split,
        device=device,
        batch_size=batch_size,
        test=test,
        val=val,
        root=root,
        data_root=data_root,
        leave_out_unreadable=leave_out_unreadable,
        quiet=quiet,
    )
    if out is not None:
        found.write_predictions(out)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if json:
        _print_json({"model": model, **found.as_dict()})
        return
    _print_score(f"{found.data}, {found.split}", found.score.as_dict(found.classes))


@app.command
def predict(
    model: Model,
    /,
    *pictures: Annotated[str, Parameter(help="Picture files and folders of them.")],
    top: Annotated[int, Parameter(help="How many classes to name for each picture.")] = 5,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Name the classes and probabilities of pictures; with --json one object a picture."""
    from reslab.using.classifier import Classifier, expand

    if not pictures:
        raise InputError("predict: name at least one picture or folder after the model")
    paths = expand(pictures)
    classifier = Classifier.load(model, device)
    problems = []
    for found in classifier.stream(paths, top):
        if isinstance(found, InputError):
            problems.append(str(found))
        elif json:
            _print_json(found.as_dict())
        else:
            guesses = "  ".join(f"{guess.label} {guess.probability:.1%}" for guess in found.top)
            print(f"{found.path}: {guesses}")
    if problems:
        raise InputError(f"{len(problems)} of {len(paths)} picture(s) cannot be read:", problems)


@app.command
def preview(
    data: Data,
    /,
    *,
    recipe: RecipeName = None,
    out: Annotated[str, Parameter(help="The PNG file to write.")] = "preview.png",
    seed: Annotated[int | None, Parameter(help="Decides the augmentation shown.")] = None,
    test: Test = None,
    val: Val = None,
    root: Root = None,
    data_root: DataRoot = None,
    leave_out_unreadable: LeaveOut = False,
    json: Json = False,
    fields: Fields = None,
) -> None:
    """Draw a sheet of samples as a network would be trained on them.

    Fields of the recipe can be set as for train, such as --augment.rotate 45.
    """
    chosen = _recipe(recipe, fields)
    from reslab.learning.preview import preview as preview_

    if seed is not None:
        fields = {**(fields or {}), "seed": str(seed)}
    found = preview_(
        data,
        out,
        recipe=chosen,
        fields=fields,
        test=test,
        val=val,
        root=root,
        data_root=data_root,
        leave_out_unreadable=leave_out_unreadable,
    )
    if json:
        _print_json(found)
        return
    for name, count in found["counts"].items():
        print(f"{name:12}{count:,}")
    print(f"{'classes':12}{', '.join(found['classes'])}")
    for note in found["notes"]:
        print(f"note: {note}")
    for problem in found["left_out"]:
        print(f"left out: {problem}")
    print(f"{'sheet':12}{found['path']}")


@app.command
def summary(
    network: Annotated[str, Parameter(help="A network, a recipe, a run folder or a model file.")],
    /,
    *,
    classes: Annotated[
        int | None, Parameter(help="How many classes; 10 if not given, or the model's.")
    ] = None,
    size: Annotated[str | None, Parameter(help="Input size, such as 96 or 96,128.")] = None,
    channels: Annotated[int | None, Parameter(help="Input channels, 1 or 3.")] = None,
    json: Json = False,
) -> None:
    """Show a network's layers, shapes, parameters and operations."""
    from reslab.using.summary import summarise

    found = summarise(network, classes=classes, size=size, channels=channels)
    if json:
        _print_json(found.as_dict())
    else:
        print(found.table())


@app.command
def cache(
    *,
    prune: Annotated[
        str | None,
        Parameter(help="Delete what was used longest ago until this much is left, such as 5GB."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what the cache folder holds, and make it smaller. All of it can be made again."""
    from reslab.pictures.cache import KINDS, cache_folder, contents, size_of
    from reslab.pictures.cache import prune as prune_

    limit = None if prune is None else size_of(prune)
    deleted = [] if limit is None else prune_(limit, contents())
    held = contents()
    freed = sum(entry.size for entry in deleted)
    kinds = {
        kind: {
            "entries": sum(entry.kind == kind for entry in held),
            "bytes": sum(entry.size for entry in held if entry.kind == kind),
        }
        for kind in KINDS
    }
    total = sum(entry.size for entry in held)
    if json:
        _print_json(
            {"folder": str(cache_folder()), "bytes": total, "kinds": kinds, "deleted": freed}
        )
        return
    for kind, found in kinds.items():
        print(f"{kind:10} {found['bytes'] / 1e6:10,.1f} MB  {KINDS[kind]}")
    print(f"{'in all':10} {total / 1e6:10,.1f} MB  in {cache_folder()}")
    if limit is not None:
        print(f"{'deleted':10} {freed / 1e6:10,.1f} MB")


def _recipe(name: str | None, fields: dict[str, str] | None) -> Any:
    """The recipe asked for; what is wrong with it or a field is said before torch is imported."""
    from reslab.learning.recipe import Recipe, load_recipe

    chosen = None if name is None else load_recipe(name)
    (chosen or Recipe()).with_fields(fields or {})
    return chosen


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def _print_run(run: Any, as_json: bool) -> None:
    if as_json:
        _print_json({"run": str(run.path), **run.info})
        return
    if run.info.get("validation"):
        _print_score("validation", run.info["validation"])
    if run.info.get("test"):
        _print_score("test", run.info["test"])
    seconds = run.info["seconds"]
    print(f"best epoch  {run.info['best_epoch']} (epochs count from 0)")
    print(f"time        {seconds['total']:.1f} s, of which training {seconds['train']:.1f} s")
    print(f"run         {run.path}")


def _print_score(what: str, score: dict[str, Any]) -> None:
    low, high = score["accuracy_interval"]
    print(
        f"{what:10}  accuracy {score['accuracy']:.2%} ({score['correct']:,} of {score['n']:,};"
        f" 95 % interval {low:.2%} to {high:.2%}), loss {score['loss']:.4f}"
    )


def _take_fields(tokens: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split off recipe fields (`--optimizer.lr 0.1`) from a command's own options."""
    from reslab.learning.recipe import FIELD_NAMES

    rest: list[str] = []
    fields: dict[str, str] = {}
    own = {"--seed", "--epochs", "--batch-size", "--network", "--weights", "--precision"}
    own.add("--checkpoint-every")
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        option, equals, value = token.partition("=")
        name = option[2:].replace("-", "_")
        is_field = option.startswith("--") and ("." in name or name in FIELD_NAMES)
        if not is_field or option.replace("_", "-") in own:
            rest.append(token)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise InputError(f"{option} needs a value, such as {option} VALUE")
            value = waiting.pop(0)
        if name in fields:
            raise InputError(f"{option} is given twice")
        fields[name] = value
    return rest, fields


def run_command(tokens: Sequence[str]) -> None:
    """Run one command; what goes wrong is raised."""
    keywords: dict[str, Any] = {}
    rest = list(tokens)
    if rest and rest[0] in ("train", "preview") and not {"--help", "-h"} & set(rest):
        rest, keywords["fields"] = _take_fields(rest)
    command, bound, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
    command(*bound.args, **bound.kwargs, **keywords)


def main() -> None:
    """The `reslab` command: every error of the user's is one message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a path may hold bytes that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        run_command(sys.argv[1:])
    except CycloptsError as error:
        _fail(str(error), 2)
    except InputError as error:
        _fail(str(error), 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a full disk, a folder that may not be written to
        named = f"{error.filename}: " if error.filename else ""
        _fail(f"{named}{error.strerror or error}", 2)
    except InterruptedRunError as stopped:
        _fail(str(stopped), 128 + stopped.signal_number, word="stopped")
    except KeyboardInterrupt:
        _fail("nothing is lost that was saved before", 128 + signal.SIGINT, word="stopped")


def _fail(message: str, status: int, word: str = "error") -> None:
    print(f"reslab: {word}: {message}", file=sys.stderr, flush=True)
    sys.exit(status)
