"""Predictions as a table for a spreadsheet: one row a picture, those that cannot be read too."""

from collections.abc import Sequence
from pathlib import Path

from reslab.disk import write_safely
from reslab.errors import InputError
from reslab.judging.csv_text import csv_text
from reslab.using.prediction import Prediction

_FIRST = ["path", "label", "probability", "error"]


def is_prediction_table(start: bytes) -> bool:
    """Whether a file that begins so is a table written here."""
    return start.split(b"\n")[0].decode("utf-8", "replace").split(",")[: len(_FIRST)] == _FIRST


def write_table(
    path: Path, names: Sequence[str], found: Sequence[Prediction | InputError], top: int
) -> None:
    """Write what was found of each picture, in its order. Raises OSError naming the file.

    path, label, probability; `error`, what is wrong with a picture that cannot be read;
    `likeliest`, where a label may be "unknown"; the next likeliest classes, up to `top`; `set`
    where sets were asked for, its classes separated by " | ".
    """
    predictions = [one for one in found if isinstance(one, Prediction)]
    most = min(top, max((len(one.top) for one in predictions), default=1))
    doubts = any(one.unknown is not None for one in predictions)
    sets = any(one.set is not None for one in predictions)
    columns = [*(("likeliest",) if doubts else ())]
    columns += [name for k in range(2, most + 1) for name in (f"label_{k}", f"probability_{k}")]
    columns += [*(("set",) if sets else ())]
    rows = [[*_FIRST, *columns]]
    for name, one in zip(names, found, strict=True):
        if isinstance(one, InputError):
            rows.append([name, "", "", str(one), *[""] * len(columns)])
            continue
        row = [name, one.label, f"{one.probability:.9g}", ""]
        if doubts:
            row.append(one.top[0].label)
        for guess in one.top[1:]:
            row += [guess.label, f"{guess.probability:.9g}"]
        if sets:
            row.append(" | ".join(one.set or ()))
        rows.append(row)
    write_safely(path, csv_text(rows).encode("utf-8", "surrogateescape"))
