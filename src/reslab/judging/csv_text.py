"""Rows as CSV that every reader gives back as they were."""

import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """The rows, each ended by a newline. Raises nothing: any text can stand in a cell."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    # Python before 3.13 leaves a carriage return bare, which a reader takes for the row's end.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in cell for cell in row) else plain).writerow(row)
    return text.getvalue()
