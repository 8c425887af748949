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

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Fields = Annotated[dict[str, str] | None, Parameter(parse=False)]

app = App(
    name="reslab",
    version=reslab.__version__,
    help="Residual networks for pictures: train, test and use them.",
    help_format="plaintext",
)


@app.command
def recipes(name: str | None = None, /, *, json: Flag = False) -> None:
    """List the recipes, or show one with its expected result.

    Parameters
    ----------
    name
        A recipe; all are listed without it.
    json
        Print one JSON object (or a list of them) for machines.
    """
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
    data: str,
    /,
    *,
    recipe: str | None = None,
    out: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    network: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    checkpoint_every: str | None = None,
    test: str | None = None,
    val: str | None = None,
    root: str | None = None,
    data_root: str | None = None,
    watch_test: Flag = False,
    leave_out_unreadable: Flag = False,
    overwrite: Flag = False,
    quiet: Flag = False,
    json: Flag = False,
    fields: Fields = None,
) -> None:
    """Train on labelled pictures, write a run folder, and score once on the test split.

    Any field of a recipe can be set by its dotted name, such as --optimizer.momentum 0.9 or
    --augment.flip-horizontal 0.5; `reslab recipes NAME` shows the fields.

    Parameters
    ----------
    data
        A built-in set (digits, mnist, fashion-mnist, cifar10, cifar100), a folder, a list, a CSV,
        or a zip of any of these.
    recipe
        A recipe's name or TOML file; chosen by the pictures' size if not given.
    out
        The run folder; runs/<recipe>-<data>-<number> if not given.
    seed
        Decides initial weights, order, augmentation and dropout.
    epochs
        How often to go through the training pictures.
    batch_size
        Pictures a step.
    lr
        Learning rate (the recipe's optimizer.lr).
    network
        A network by name: reslab's own, torchvision's ResNets, or timm's.
    weights
        "pretrained", "none", or a file (safetensors, or a PyTorch state dict).
    device
        auto, cpu, cuda, cuda:N or mps.
    precision
        auto, fp32 or bf16.
    checkpoint_every
        Such as 1epoch, 20steps or 5min.
    test
        The test list that goes with a list file or CSV.
    val
        The validation list that goes with a list file or CSV.
    root
        The folder that the paths in a list are relative to; the list's own if not given.
    data_root
        Where built-in data lies; else the environment's RESLAB_DATA, else the cache.
    watch_test
        Score the test split after each epoch too. It chooses nothing.
    leave_out_unreadable
        Go on without pictures that cannot be read, and list them in run.json.
    overwrite
        Replace the run that --out holds.
    quiet
        Show no progress.
    json
        Print the result as one JSON object, last on standard output.
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
    run: str, /, *, epochs: int | None = None, device: str = "auto", quiet: Flag = False,
    json: Flag = False,
) -> None:  # fmt: skip
    """Go on with a run exactly where it stopped, or further.

    Parameters
    ----------
    run
        The run folder.
    epochs
        Train to this many epochs in all.
    device
        auto, cpu, cuda, cuda:N or mps.
    quiet
        Show no progress.
    json
        Print the result as one JSON object, last on standard output.
    """
    from reslab.learning.training import resume as resume_

    _print_run(resume_(run, epochs=epochs, device=device, quiet=quiet), json)


@app.command
def evaluate(
    model: str,
    data: str,
    /,
    *,
    split: str | None = None,
    out: str | None = None,
    device: str = "auto",
    batch_size: int = 256,
    test: str | None = None,
    val: str | None = None,
    root: str | None = None,
    data_root: str | None = None,
    leave_out_unreadable: Flag = False,
    quiet: Flag = False,
    json: Flag = False,
) -> None:
    """Score a model on labelled pictures.

    Parameters
    ----------
    model
        A run folder or its model file.
    data
        As for train. Data the model was trained on is split as it was then.
    split
        train, validation, test or all; test if the data has one, else all.
    out
        Write every prediction to this CSV file.
    device
        auto, cpu, cuda, cuda:N or mps.
    batch_size
        Pictures a forward pass.
    test
        The test list that goes with a list file or CSV.
    val
        The validation list that goes with a list file or CSV.
    root
        The folder that the paths in a list are relative to; the list's own if not given.
    data_root
        Where built-in data lies; else the environment's RESLAB_DATA, else the cache.
    leave_out_unreadable
        Go on without pictures that cannot be read, and name them.
    quiet
        Show no progress.
    json
        Print one JSON object.
    """
    from reslab.using.evaluation import evaluate as evaluate_

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
    model: str,
    /,
    *pictures: str,
    top: int = 5,
    device: str = "auto",
    json: Flag = False,
) -> None:
    """Name the classes and probabilities of pictures.

    Parameters
    ----------
    model
        A run folder or its model file.
    pictures
        Picture files and folders of them.
    top
        How many classes to name for each picture.
    device
        auto, cpu, cuda, cuda:N or mps.
    json
        Print one JSON object a picture.
    """
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
    data: str,
    /,
    *,
    recipe: str | None = None,
    out: str = "preview.png",
    seed: int | None = None,
    test: str | None = None,
    val: str | None = None,
    root: str | None = None,
    data_root: str | None = None,
    leave_out_unreadable: Flag = False,
    json: Flag = False,
    fields: Fields = None,
) -> None:
    """Draw a sheet of samples as a network would be trained on them.

    Fields of the recipe can be set as for train, such as --augment.rotate 45.

    Parameters
    ----------
    data
        As for train.
    recipe
        A recipe's name or TOML file; chosen by the pictures' size if not given.
    out
        The PNG file to write.
    seed
        Decides the augmentation shown.
    test
        The test list that goes with a list file or CSV.
    val
        The validation list that goes with a list file or CSV.
    root
        The folder that the paths in a list are relative to; the list's own if not given.
    data_root
        Where built-in data lies; else the environment's RESLAB_DATA, else the cache.
    leave_out_unreadable
        Go on without pictures that cannot be read.
    json
        Print one JSON object.
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
    print(f"{'sheet':12}{found['path']}")


@app.command
def summary(
    network: str,
    /,
    *,
    classes: int | None = None,
    size: str | None = None,
    channels: int | None = None,
    json: Flag = False,
) -> None:
    """Show a network's layers, shapes, parameters and operations.

    Parameters
    ----------
    network
        A network, a recipe, a run folder or a model file.
    classes
        How many classes (10 if not given, or the model's).
    size
        Input size, such as 96 or 96,128.
    channels
        Input channels, 1 or 3.
    json
        Print one JSON object.
    """
    from reslab.using.summary import summarise

    found = summarise(network, classes=classes, size=size, channels=channels)
    if json:
        _print_json(found.as_dict())
    else:
        print(found.table())


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
