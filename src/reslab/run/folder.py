"""The run folder: what a training run leaves behind, and how it is read again."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslab.disk import (
    append_safely,
    read_regular,
    real_path,
    refuse_unwritable_name,
    user_path,
    write_safely,
)
from reslab.errors import InputError
from reslab.networks.model_file import MODEL_FILE
from reslab.pictures.data_source import DataSource
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe
from reslab.run.info import read_info
from reslab.run.lock import LOCK_FILE

_LEFTOVER = re.compile(r"\.[\w-]+\.(toml|json|jsonl|safetensors|csv|png|html)\.\d+\.tmp")
_NUMBERS = re.compile(r"\[\n\s+([-+.\deE,\s]+?)\s*\]")  # a list of numbers takes one line
_OWN_NAME = re.compile(r"(checkpoints/|tensorboard/)?[\w-]+(\.[\w-]+)+")
RATE_FILES = ("lr.csv", "lr.png")  # of a range test, which may come before a run
_EXPORTED = ("model.onnx", "model.int8.onnx", "model.pt2")  # of the model that is replaced
_FILES_OF_0_1_0 = (
    *["recipe.toml", "history.jsonl", MODEL_FILE, "predictions.csv", "curves.png", "preview.png"],
    *[f"checkpoints/{name}.safetensors" for name in ("last", "previous", "best")],
    "run.json",
)


class Run:
    """A run folder.

    `info` is the content of run.json; `test` and `validation` the scores once the run is done.
    writes: whether this process writes into the folder; of several that train together one does.
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path = user_path(path)
        self.writes = writes
        self.info: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def model(self) -> Path:
        return self.path / MODEL_FILE

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "previous.safetensors"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def chosen_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "chosen.safetensors"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @property
    def test(self) -> dict[str, Any]:
        """n, accuracy, loss and more on the test split, scored once with the best weights.

        Raises InputError if the run is not finished or its data has no test split.
        """
        if not self.info.get("test"):
            raise InputError(f"{self.path}: no test score: not finished, or no test split")
        return dict(self.info["test"])

    @property
    def validation(self) -> dict[str, Any] | None:
        return self.info.get("validation")

    @property
    def source(self) -> DataSource:
        """How the data was named when the run began."""
        return DataSource.model_validate(self.info["source"])

    @property
    def finished(self) -> bool:
        return self.info.get("status") == "finished"

    def refuse_unfinished(self) -> None:
        """Raise InputError unless the run has come to its end."""
        if not self.finished:
            raise InputError(
                f"{self.path}: not finished, so its scores are none yet, or of an earlier end; go"
                f" on with `reslab resume {self.path}`"
            )

    @property
    def begun(self) -> bool:
        """Whether it has come to its first checkpoint; killed before that, a run begins anew."""
        return (self.path / "history.jsonl").exists() or any(
            path.exists() for path in (self.last_checkpoint, self.previous_checkpoint)
        )

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record an epoch, or a strength of a solved head, as in history.jsonl."""
        path = self.path / "history.jsonl"
        written = self._history_lines()
        return [_record(line, f"{path}:{number}") for number, line in enumerate(written, 1)]

    def _history_lines(self) -> list[bytes]:
        try:
            return read_regular(self.path / "history.jsonl").splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def write_recipe(self, recipe: Recipe) -> None:
        if self.writes:
            write_safely(self.path / "recipe.toml", recipe.to_toml().encode())

    def recipe(self) -> Recipe:
        return load_recipe(self.path / "recipe.toml")

    def refuse_held(self, *, overwrite: bool) -> None:
        """Raise InputError if the folder holds a run that is not to be replaced, or other files."""
        refuse_unwritable_name(self.path, "--out")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path}: a file stands there")
        try:
            held = {item.name for item in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made a run folder ({error})") from None
        if "run.json" in held:
            open_run(self.path)  # what is not ours is refused, whatever it is called
            if not overwrite:
                raise InputError(
                    f"{self.path}: holds a run already; name another --out, add --overwrite, or go"
                    " on with `reslab resume`"
                )
            return
        # Killed before it had a run.json, a run leaves no more than these.
        checkpoints = self.path / "checkpoints"
        begun = checkpoints.is_dir() and not any(checkpoints.iterdir())
        held = {name for name in held if not (begun and _LEFTOVER.fullmatch(name))}
        leftovers = ("recipe.toml", "plan.toml", "checkpoints") if begun else ()
        others = sorted(held - {LOCK_FILE, *RATE_FILES, *leftovers})
        if others:
            raise InputError(
                f"{self.path}: holds files and no run ({others[0]}, ...); name another --out"
            )

    def create(self, files: Sequence[str], *, overwrite: bool) -> None:
        """Make the folder anew. Of a run before, what that run's own record names is deleted.

        files: what this run will write, for its own record. Raises InputError if the folder is not
        to be replaced.
        """
        self.info = {"files": list(files)}
        if not self.writes:
            return
        self.refuse_held(overwrite=overwrite)
        try:
            for name in self._files_of_the_run_before():
                (self.path / name).unlink(missing_ok=True)
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made a run folder ({error})") from None

    def _files_of_the_run_before(self) -> list[str]:
        if not (self.path / "run.json").exists():
            return []
        written = open_run(self.path).info.get("files") or _FILES_OF_0_1_0
        named = [*written, "looks.jsonl", *_EXPORTED]
        # Whoever edited the record does not make us delete what lies elsewhere.
        known = [name for name in named if _OWN_NAME.fullmatch(name)]
        return sorted(known, key="run.json".__eq__)  # last: what is left of a run names its files

    def holder(self) -> str:
        """Who works on the run, as far as it has said so."""
        try:
            return str(read_info(self.path / "run.json").get("process") or "another process")
        except (OSError, InputError):
            return "another process"

    def clear_leftovers(self) -> None:
        """Delete what a killed process left half written; only who holds the run may."""
        for folder in (self.path, self.path / "checkpoints") if self.writes else ():
            for path in folder.glob(".*.tmp"):
                if _LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def write_info(self, **changes: Any) -> None:
        """Set fields of run.json."""
        info = self.info | changes
        if self.writes:
            self._write(info)
        self.info = info  # known to be so once it is on the disk

    def _write(self, info: dict[str, Any]) -> None:
        text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False)
        text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
        # A path may hold bytes that are no UTF-8.
        write_safely(self.path / "run.json", f"{text}\n".encode("utf-8", "surrogateescape"))

    def append_history(self, record: dict[str, Any]) -> None:
        if self.writes:
            append_safely(self.path / "history.jsonl", f"{json.dumps(record)}\n".encode())

    def cut_history(self, lines: int) -> None:
        """Keep the first lines: what came after the checkpoint will be written again."""
        if not self.writes:
            return
        path = self.path / "history.jsonl"
        written = self._history_lines()
        if len(written) < lines:
            raise InputError(f"{path}: {len(written)} lines where the checkpoint is at {lines}")
        for number, line in enumerate(written[:lines], 1):
            _record(line, f"{path}:{number}")
        write_safely(path, b"".join(written[:lines]))


def open_run(path: str | Path, *, writes: bool = True) -> Run:
    """A run that exists. Raises InputError if the folder holds none, or its record is damaged."""
    run = Run(path, writes=writes)
    try:
        run.info = read_info(run.path / "run.json")
    except FileNotFoundError:
        if (run.path / "search.json").exists():
            raise InputError(
                f"{run.path}: a search, not a run; the same `reslab search` command goes on with"
                f" it, and `reslab train --recipe {run.path / 'best.toml'}` trains its winner"
            ) from None
        raise InputError(f"{run.path}: no run folder (it has no run.json)") from None
    except OSError as error:
        raise InputError(f"{run.path / 'run.json'}: cannot be read ({error.strerror})") from None
    return run


def _record(line: bytes, where: str) -> dict[str, Any]:
    """A line of the history: an epoch or a strength, and numbers."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    numbers = isinstance(found, dict) and all(
        value is None or isinstance(value, int | float) for value in found.values()
    )
    if not numbers or found.get("strength", found.get("epoch")) is None:
        raise InputError(f"{where}: no line of a run's history; put it back, or train anew")
    return dict(found)


def new_run_folder(recipe: str, data: str) -> Path:
    """Make the next free runs/<recipe>-<data>-<number>. Raises OSError."""
    stem = f"{recipe}-{Path(data).name.split('.')[0] or 'data'}"
    for number in itertools.count(1):
        path = Path("runs") / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("numbers do not end")


def refuse_inside_data(out: Path, data: Path, what: str = "run folder") -> None:
    """A folder inside a data folder would be a class of it the next time. Raises InputError."""
    if data.is_dir() and real_path(out).is_relative_to(real_path(data)):
        raise InputError(f"the {what} {out} lies inside the data {data}; name another --out")
