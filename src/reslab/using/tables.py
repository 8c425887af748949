"""Predictions as a table for a spreadsheet: one row a picture, those that cannot be read too."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from reslab.disk import write_safely
from reslab.errors import InputError
from reslab.using.prediction import Prediction

_FIRST = ["path", "label", "probability"]


def is_prediction_table(start: bytes) -> bool:
    """Whether a file that begins so is a table written here."""
    first = start.split(b"\n")[0].decode("utf-8", "replace").split(",")
    return first[:3] == _FIRST and first[-1] == "error"


def write_table(
    path: Path, names: Sequence[str], found: Sequence[Prediction | InputError], top: int
) -> None:
    """Write what was found of each picture, in its order. Raises OSError naming the file.

    path, label, probability; `likeliest`, where a label may be "unknown"; the next likeliest
    classes, up to `top`; `set` where sets were asked for, its classes separated by " | "; `error`,
    what is wrong with a picture that cannot be read.
    """
    most = max((len(one.top) for one in found if isinstance(one, Prediction)), default=1)
    following = range(2, min(top, most) + 1)
    sets = any(isinstance(one, Prediction) and one.set is not None for one in found)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = [name for k in following for name in (f"label_{k}", f"probability_{k}")]
    doubts = any(isinstance(one, Prediction) and one.unknown is not None for one in found)
    columns = [*(("likeliest",) if doubts else ()), *columns]
    writer.writerow([*_FIRST, *columns, *(("set",) if sets else ()), "error"])
    for name, one in zip(names, found, strict=True):
        if isinstance(one, InputError):
            blank = [""] * (2 + len(columns) + sets)
            writer.writerow([name, *blank, str(one)])
            continue
        row = [name, one.label, f"{one.probability:.9g}"]
        if doubts:
            row.append(one.top[0].label)
        for guess in one.top[1:]:
            row += [guess.label, f"{guess.probability:.9g}"]
        if sets:
            row.append(" | ".join(one.set or ()))
        writer.writerow([*row, ""])
    write_safely(path, text.getvalue().encode("utf-8", "surrogateescape"))
