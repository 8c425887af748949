"""looks.jsonl: every time a run's test split was looked at, by whom and when.

A score that was looked at often, and acted on, is no longer one of pictures never seen.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reslab.disk import append_safely, read_regular
from reslab.process import command_or

LOOKS_FILE = "looks.jsonl"


def note_look(folder: Path, by: str, pictures: int, weights: str | None = None) -> None:
    """Add a look at the test split to a run's record, before it is taken. Raises OSError.

    by: the function that looks: train, resume, evaluate or report. weights: a digest of what is
    scored; a run that was stopped while it scored these weights and goes on looks only once.
    """
    if weights is not None and any(look.get("weights") == weights for look in looks_of(folder)):
        return
    look = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_or(f"reslab.{by}"),
        "pictures": pictures,
    }
    if weights is not None:
        look["weights"] = weights
    # Two commands may look at once, and each counts; a line that was torn must not swallow this.
    line = f"{json.dumps(look, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
    append_safely(folder / LOOKS_FILE, line if _ends_whole(folder) else b"\n" + line)


def looks_of(folder: Path) -> list[dict[str, Any]]:
    """The looks in their order. A line that cannot be read was a look all the same."""
    try:
        lines = read_regular(folder / LOOKS_FILE).splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            look = json.loads(line)
        except (ValueError, RecursionError):
            look = None
        found.append(look if isinstance(look, dict) else {"date": "?", "command": "?"})
    return found


def _ends_whole(folder: Path) -> bool:
    try:
        return read_regular(folder / LOOKS_FILE)[-1:] in (b"", b"\n")
    except FileNotFoundError:
        return True


def count_looks(folder: Path, history: Sequence[dict[str, Any]]) -> int:
    """How often the test split was looked at: as recorded, and once for each watched epoch."""
    watched = sum(record.get("test_accuracy") is not None for record in history)
    return len(looks_of(folder)) + watched
