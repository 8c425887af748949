"""looks.jsonl: every time a run's test split was looked at, by whom and when.

A score that was looked at often, and acted on, is no longer one of pictures never seen.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reslab.disk import read_regular, write_safely
from reslab.errors import InputError
from reslab.process import command_or

LOOKS_FILE = "looks.jsonl"


def note_look(folder: Path, by: str, pictures: int, weights: str | None = None) -> None:
    """Add a look at the test split to a run's record, before it is taken. Raises OSError.

    by: the function that looks: train, resume, evaluate or report. weights: a digest of what is
    scored; a run that was stopped while it scored these weights and goes on looks only once.
    """
    earlier = looks_of(folder)
    if weights is not None and any(look.get("weights") == weights for look in earlier):
        return
    look = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_or(f"reslab.{by}"),
        "pictures": pictures,
    }
    if weights is not None:
        look["weights"] = weights
    lines = [json.dumps(each, ensure_ascii=False) for each in (*earlier, look)]
    text = "".join(f"{line}\n" for line in lines)
    write_safely(folder / LOOKS_FILE, text.encode("utf-8", "backslashreplace"))


def looks_of(folder: Path) -> list[dict[str, Any]]:
    """The looks in their order. Raises InputError naming a line that is none."""
    path = folder / LOOKS_FILE
    try:
        lines = read_regular(path).splitlines()
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            look = json.loads(line)
        except (ValueError, RecursionError):
            look = None
        if not isinstance(look, dict) or not {"date", "command"} <= look.keys():
            raise InputError(f"{path}:{number}: no line of a record of looks; put it back")
        found.append(look)
    return found


def count_looks(folder: Path, history: Sequence[dict[str, Any]]) -> int:
    """How often the test split was looked at: as recorded, and once for each watched epoch."""
    watched = sum(record.get("test_accuracy") is not None for record in history)
    return len(looks_of(folder)) + watched
