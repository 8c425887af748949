"""Commands that use a model: evaluate, explain, summary."""

import sys
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter

from reslab.cli.options import (
    Data,
    Device,
    Json,
    Model,
    Quiet,
    keywords,
)
from reslab.cli.printing import print_json, print_score, print_while_read
from reslab.errors import InputError
from reslab.pictures.data_source import DataSource


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
    quiet: Quiet = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Score a model on labelled pictures. Data it was trained on is split as it was then."""
    from reslab.disk import refuse_foreign, user_path
    from reslab.judging.predictions import is_table
    from reslab.using.evaluation import evaluate as evaluate_

    if out is not None:
        refuse_foreign(user_path(out), "--out", is_table, "a table of predictions")
    found = evaluate_(
        model, data, split=split, device=device, batch_size=batch_size, quiet=quiet, **options
    )
    if out is not None:
        found.write_predictions(user_path(out))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if json:
        print_json({"model": model, **found.as_dict()})
        return
    print_score(f"{found.data}, {found.split}", found.measures)


evaluate.__annotations__["options"] = keywords(DataSource)


def explain(
    model: Model,
    /,
    *pictures: Annotated[str, Parameter(help="Picture files and folders of them.")],
    label: Annotated[
        str | None,
        Parameter(name="--class", help="The class to explain; the likeliest if not given."),
    ] = None,
    out: Annotated[
        str | None,
        Parameter(help="The folder for the overlays; explained if not given, none with --json."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Show where a network looks: which places of a picture speak for a class (Grad-CAM).

    Draws the picture with the places marked from yellow to red, as NAME.explained.png. With --json
    one object a picture: the map in rows, from 0 to 1, as large as the network's input, and the
    region of the picture that it covers: left, top, right, bottom, in pixels.
    """
    from reslab.using.explaining import explain_pictures

    if not pictures:
        raise InputError("explain: name at least one picture or folder after the model")
    if out is None and not json:
        out = "explained"
    problems = []
    for found in explain_pictures(model, pictures, label=label, out=out, device=device):
        if isinstance(found, InputError):
            problems.append(str(found))
            continue
        line = f"{found['path']}: {found['label']} {found['probability']:.1%}  {found['png']}"
        show = partial(print_json, found) if json else partial(print, line)
        if out is None:
            show()
        else:
            print_while_read(show)
    if problems:
        raise InputError(f"{len(problems)} picture(s) cannot be explained:", problems)


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
        print_json(found.as_dict())
    else:
        print(found.table())
