"""All the runs below a folder."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.run.folder import Run, open_run

_DEPTHS = ("run.json", "*/run.json", "*/*/run.json")


@dataclass(frozen=True)
class Listing:
    """Runs, newest first, and what is wrong with folders whose run.json cannot be read."""

    runs: tuple[Run, ...]
    problems: tuple[str, ...]


def list_runs(folder: str | Path = "runs") -> Listing:
    """The runs in a folder, in its folders and in theirs. Raises InputError if there is none."""
    path = user_path(folder)
    if not path.is_dir():
        raise InputError(f"{path}: no folder of runs; name one, or train first")
    runs, problems = [], []
    for place in sorted({found for depth in _DEPTHS for found in path.glob(depth)}):
        try:
            runs.append(open_run(place.parent))
        except InputError as error:
            problems.append(str(error).splitlines()[0])
    runs.sort(key=lambda run: (began(run), str(run.path)), reverse=True)
    return Listing(tuple(runs), tuple(problems))


def began(run: Run) -> str:
    """When a run began, in UTC; 0.1.0 did not note it, so there when its recipe was written."""
    if run.info.get("began"):
        return str(run.info["began"])
    try:
        written = (run.path / "recipe.toml").stat().st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def row_of(run: Run) -> dict[str, Any]:
    """What is said of a run among others."""
    info = run.info
    test = info.get("test") or {}
    return {
        "run": str(run.path),
        "began": began(run),
        "status": info["status"],
        "recipe": info["recipe"],
        "network": info["network"],
        "data": info["data"],
        "test_accuracy": test.get("accuracy"),
        "test_interval": test.get("accuracy_interval"),
        "validation_accuracy": (info.get("validation") or {}).get("accuracy"),
        "seconds": info["seconds"].get("total"),
    }
