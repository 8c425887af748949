"""predictions.csv: every sample that was scored, with what the network made of it."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from reslab.disk import read_regular, write_safely
from reslab.errors import InputError
from reslab.judging.csv_text import csv_text
from reslab.judging.metrics import probabilities
from reslab.pictures.table import Samples

HEADER = ("path", "label", "prediction", "probability")


def is_table(start: bytes) -> bool:
    """Whether a file that begins so is a table of predictions."""
    return start.startswith(",".join(HEADER).encode() + b"\n")


def write_predictions(
    path: Path,
    samples: Samples,
    classes: tuple[str, ...],
    logits: torch.Tensor,
    temperature: float = 1.0,
) -> None:
    """A row a sample: its path, its class, the predicted class and that one's probability."""
    table = probabilities(logits, temperature)
    best = table.argmax(1)

    def rows() -> Iterator[Sequence[str]]:
        yield HEADER
        for row, name in enumerate(samples.paths):
            label, prediction = classes[samples.labels[row]], classes[best[row]]
            yield name, label, prediction, f"{table[row, best[row]]:.9g}"

    write_safely(path, csv_text(rows()).encode("utf-8", "surrogateescape"))


def read_predictions(path: Path, classes: tuple[str, ...]) -> list[tuple[str, str, str, float]]:
    """(path, label, prediction, probability) of every row. Raises InputError naming its line."""
    try:
        text = read_regular(path).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        first = tuple(next(rows, ()))
    except csv.Error:
        first = ()
    if first != HEADER:
        raise InputError(f"{path}:1: no table of predictions ({','.join(HEADER)})")
    found: list[tuple[str, str, str, float]] = []
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return found
            name, label, prediction, probability = row
            known = label in classes and prediction in classes
            found.append((name, label, prediction, float(probability)))
        except (ValueError, csv.Error):
            known = False
        if not known:
            raise InputError(f"{path}:{rows.line_num}: no row of this run's predictions")
