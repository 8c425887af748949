"""The command that predicts: a few pictures onto the screen, or millions into a folder."""

import signal
import sys
from functools import partial
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from reslab.cli.options import Coverage, Device, Json, Model, Quiet, Raw, UnknownBelow
from reslab.cli.printing import (
    print_json,
    print_predicted,
    print_prediction,
    print_while_read,
)
from reslab.errors import InputError, InterruptedRunError
from reslab.process import refuse_several


def predict(
    model: Model,
    /,
    *pictures: Annotated[
        str,
        Parameter(
            help="Picture files and folders of them; with --out tar shards and Parquet files too."
        ),
    ],
    top: Annotated[int, Parameter(help="How many classes to name for each picture.")] = 5,
    unknown_below: UnknownBelow = None,
    coverage: Coverage = None,
    raw: Raw = False,
    csv: Annotated[
        str | None, Parameter(help="Write a table to this CSV file, a row a picture.")
    ] = None,
    copy_to: Annotated[
        str | None,
        Parameter(help="Copy the pictures into a folder a class below this one; replaces nothing."),
    ] = None,
    out: Annotated[
        str | None,
        Parameter(
            help="Write tables into this folder, part-00000.csv and so on, for pictures by the"
            " million: the same command goes on where it was stopped, and torchrun lets several"
            " processes share the work."
        ),
    ] = None,
    format: Annotated[
        Literal["csv", "parquet"] | None, Parameter(help="With --out: csv if not given.")
    ] = None,
    shard_size: Annotated[
        int | None, Parameter(help="With --out: pictures a table; 8192 if not given.")
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Name the classes and probabilities of pictures.

    With --json one object a picture; with --json and --out one that sums up.
    """
    if not pictures:
        raise InputError("predict: name at least one picture or folder after the model")
    told = {"top": top, "unknown_below": unknown_below, "coverage": coverage, "raw": raw}
    sizes = {"format": format, "shard_size": shard_size}
    given = {name: value for name, value in sizes.items() if value is not None}
    if out is None:
        refuse_several("reslab predict without --out")
        if given:
            raise InputError("--format and --shard-size: go with --out, a folder for the tables")
        _one_by_one(model, pictures, told, csv, copy_to, device, json)
        return
    if csv is not None or copy_to is not None:
        raise InputError("--out: goes without --csv and --copy-to")
    _into_folder(out, model, pictures, json, {**told, **given, "device": device, "quiet": quiet})


def _one_by_one(
    model: str,
    pictures: tuple[str, ...],
    told: dict[str, Any],
    csv: str | None,
    copy_to: str | None,
    device: str,
    json: bool,
) -> None:
    from reslab.disk import refuse_foreign, user_path
    from reslab.using.classifier import Classifier
    from reslab.using.listing import expand
    from reslab.using.sorting import copy_into_class, refuse_unsortable
    from reslab.using.tables import is_prediction_table, write_table

    table = None if csv is None else user_path(csv)
    if table is not None:
        refuse_foreign(table, "--csv", is_prediction_table, "a table of predictions")
    paths = expand(pictures, without=None if copy_to is None else user_path(copy_to))
    for note in paths.notes:
        print(f"note: {note}", file=sys.stderr)
    classifier = Classifier.load(model, device)
    asked = classifier.asked(**told)
    target = None if copy_to is None else refuse_unsortable(copy_to, classifier.classes)
    rows: list[Any] = []
    uncopied: list[str] = []
    for path, found in zip(paths, classifier.stream(paths, asked), strict=True):
        rows.append(found if table is not None or isinstance(found, InputError) else None)
        if isinstance(found, InputError):
            continue
        if target is not None:
            try:
                copy_into_class(path, found.label, target)
            except OSError as error:
                uncopied.append(f"{found.path}: {error.strerror or error}")
        show = partial(print_json, found.as_dict()) if json else partial(print_prediction, found)
        if table is None and target is None:
            show()
        else:
            print_while_read(show)
    if table is not None:
        write_table(table, paths, rows, told["top"])
    problems = [str(row) for row in rows if isinstance(row, InputError)]
    if uncopied:
        raise InputError(
            f"of {len(paths)} picture(s) {len(problems)} cannot be read and {len(uncopied)} not be"
            " copied:",
            problems + uncopied,
        )
    if problems:
        raise InputError(f"{len(problems)} of {len(paths)} picture(s) cannot be read:", problems)


def _into_folder(
    out: str, model: str, pictures: tuple[str, ...], json: bool, options: dict[str, Any]
) -> None:
    from reslab.using.predicting import predict as predict_
    from reslab.using.predicting import process_share

    rank, processes = process_share()
    try:
        found = predict_(model, pictures, out=out, **options)
    except KeyboardInterrupt as stopped:
        raise InterruptedRunError(
            f"the tables in {out} are whole; the same command goes on",
            getattr(stopped, "signal_number", signal.SIGINT),
        ) from None
    if rank > 0:
        return
    if json:
        print_json(found.as_dict())
    else:
        print_predicted(found)
    if not found.unreadable:
        return
    problem = InputError(
        f"{found.unreadable:,} of {found.pictures:,} picture(s) cannot be read:",
        found.problems,
    )
    if processes == 1:
        raise problem
    # torchrun would stop the other processes at a status that is not 0.
    print(f"note: {problem}", file=sys.stderr)
