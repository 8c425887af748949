"""A run's history as TensorBoard's event files, live: what history.jsonl says, and nothing else."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from reslab.errors import InputError
from reslab.run.folder import Run

FOLDER = "tensorboard"


class Sink(Protocol):
    """Takes each new record of the history."""

    def __call__(self, record: Mapping[str, Any]) -> None: ...


def refuse_without_tensorboard() -> None:
    """Raise InputError with the line to type where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs a package: pip install 'reslab[tensorboard]'")


@contextmanager
def event_files(run: Run) -> Iterator[Sink]:
    """Where to put new records of the history; nowhere unless the run was asked for event files.

    They are written anew from the history so far: what a run that was killed had written beyond its
    checkpoint would stand there twice.
    """
    if not (run.info.get("tensorboard") and run.writes):
        yield lambda record: None
        return
    refuse_without_tensorboard()
    from torch.utils.tensorboard.writer import SummaryWriter

    folder = run.path / FOLDER
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink(missing_ok=True)
    writer = SummaryWriter(str(folder))

    def put(record: Mapping[str, Any]) -> None:
        step = len(counted)
        counted.append(step)
        for name, value in record.items():
            if name not in ("epoch", "strength") and value is not None:
                writer.add_scalar(name, value, record.get("epoch", step))
        writer.flush()

    counted: list[int] = []
    try:
        for record in run.history:
            put(record)
        writer.flush()
        # Named in the run's record, so that --overwrite may delete them.
        own = [name for name in run.info["files"] if not name.startswith(FOLDER)]
        named = [f"{FOLDER}/{path.name}" for path in folder.glob("events.out.tfevents.*")]
        run.write_info(files=own + named)
        yield put
    finally:
        writer.close()
