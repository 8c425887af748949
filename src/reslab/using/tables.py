"""Predictions as a table for a spreadsheet: one row a picture, those that cannot be read too."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.disk import write_safely
from reslab.errors import InputError
from reslab.judging.csv_text import csv_text
from reslab.using.prediction import Asked, Prediction

_FIRST = ["path", "label", "probability", "error"]
ERROR = _FIRST.index("error")
Cell = str | float | list[str] | None


def is_prediction_table(start: bytes) -> bool:
    """Whether a file that begins so is a table written here."""
    first = start.split(b"\n")[0].decode("utf-8-sig", "replace").strip()  # the page's has a mark
    return first.split(",")[: len(_FIRST)] == _FIRST


@dataclass(frozen=True)
class Columns:
    """What a table of predictions tells of each picture.

    path, label, probability; `error`, what is wrong with a picture that cannot be read;
    `likeliest`, where a label may be "unknown"; the next likeliest classes, up to `most`; `set`
    where sets were asked for.
    """

    most: int
    doubts: bool
    sets: bool

    @staticmethod
    def asked(asked: Asked, classes: int) -> "Columns":
        """Those of any predictions that are told as asked."""
        return Columns(
            min(asked.top, classes), asked.unknown_below is not None, asked.least is not None
        )

    @staticmethod
    def found(found: Sequence[Prediction | InputError], top: int) -> "Columns":
        """Those that these predictions fill."""
        predictions = [one for one in found if isinstance(one, Prediction)]
        return Columns(
            min(top, max((len(one.top) for one in predictions), default=1)),
            any(one.unknown is not None for one in predictions),
            any(one.set is not None for one in predictions),
        )

    def names(self) -> list[str]:
        more = [
            name for k in range(2, self.most + 1) for name in (f"label_{k}", f"probability_{k}")
        ]
        return [*_FIRST, *["likeliest"] * self.doubts, *more, *["set"] * self.sets]

    def row(self, name: str, one: Prediction | InputError) -> list[Cell]:
        """A picture's cells, None where there is nothing to tell."""
        if isinstance(one, InputError):
            return [name, None, None, str(one), *[None] * (len(self.names()) - len(_FIRST))]
        row: list[Cell] = [name, one.label, one.probability, None]
        if self.doubts:
            row.append(one.top[0].label)
        for guess in one.top[1:]:
            row += [guess.label, guess.probability]
        if self.sets:
            row.append(list(one.set or ()))
        return row


def csv_of(columns: Columns, rows: Sequence[Sequence[Cell]]) -> bytes:
    """The table as CSV: probabilities to 9 digits, a set's classes separated by " | "."""
    return csv_text([columns.names(), *([_text(cell) for cell in row] for row in rows)]).encode(
        "utf-8", "surrogateescape"
    )


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.9g}"
    return " | ".join(cell) if isinstance(cell, list) else cell or ""


def write_table(
    path: Path, names: Sequence[str], found: Sequence[Prediction | InputError], top: int
) -> None:
    """Write what was found of each picture, in its order. Raises OSError naming the file."""
    columns = Columns.found(found, top)
    rows = [columns.row(name, one) for name, one in zip(names, found, strict=True)]
    write_safely(path, csv_of(columns, rows))
