"""The run folder: what a training run leaves behind, and how it is read again."""

import itertools
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reslab.errors import InputError
from reslab.networks.model_file import MODEL_FILE
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe
from reslab.run.lock import LOCK_FILE
from reslab.writing import append_safely, write_safely


class Run:
    """A run folder.

    `info` is the content of run.json; `test` and `validation` the scores once the run is done.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
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
    def finished(self) -> bool:
        return self.info.get("status") == "finished"

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
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def write_recipe(self, recipe: Recipe) -> None:
        write_safely(self.path / "recipe.toml", recipe.to_toml().encode())

    def recipe(self) -> Recipe:
        return load_recipe(self.path / "recipe.toml")

    def refuse_held(self, *, overwrite: bool) -> None:
        """Raise InputError if the folder holds a run that is not to be replaced, or other files."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path}: a file stands there")
        try:
            held = {item.name for item in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made a run folder ({error})") from None
        if "run.json" in held and not overwrite:
            raise InputError(
                f"{self.path}: holds a run already; name another --out, add --overwrite, or go on"
                " with `reslab resume`"
            )
        # Killed before it had a run.json, a run leaves no more than these.
        checkpoints = self.path / "checkpoints"
        begun = checkpoints.is_dir() and not any(checkpoints.iterdir())
        unfinished = re.compile(r"\.(recipe\.toml|run\.json)\.\d+\.tmp")
        held = {name for name in held if not (begun and unfinished.fullmatch(name))}
        others = sorted(held - {LOCK_FILE, *(("recipe.toml", "checkpoints") if begun else ())})
        if others and "run.json" not in held:
            raise InputError(
                f"{self.path}: holds files and no run ({others[0]}, ...); name another --out"
            )

    def create(self, files: Iterable[str], *, overwrite: bool) -> None:
        """Make the folder anew, without these files and folders of the run before.

        Raises InputError if it is not to be replaced.
        """
        self.refuse_held(overwrite=overwrite)
        try:
            for name in files:
                item = self.path / name
                if item.is_dir():
                    shutil.rmtree(item)
                else:
                    item.unlink(missing_ok=True)
            (self.path / "checkpoints").mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made a run folder ({error})") from None

    def holder(self) -> str:
        """Who works on the run, as far as it has said so."""
        try:
            return str(json.loads((self.path / "run.json").read_text("utf-8"))["process"])
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def clear_leftovers(self) -> None:
        """Delete what a killed process left half written; only who holds the run may."""
        for folder in (self.path, self.path / "checkpoints"):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    def write_info(self, **changes: Any) -> None:
        """Set fields of run.json."""
        self.info |= changes
        text = json.dumps(self.info, indent=2, ensure_ascii=False, allow_nan=False)
        # A path may hold bytes that are no UTF-8.
        write_safely(self.path / "run.json", f"{text}\n".encode("utf-8", "surrogateescape"))

    def append_history(self, record: dict[str, Any]) -> None:
        append_safely(self.path / "history.jsonl", f"{json.dumps(record)}\n".encode())

    def cut_history(self, lines: int) -> None:
        """Keep the first lines: what came after the checkpoint will be written again."""
        path = self.path / "history.jsonl"
        written = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if len(written) < lines:
            raise InputError(f"{path}: {len(written)} lines where the checkpoint is at {lines}")
        write_safely(path, b"".join(written[:lines]))


def open_run(path: str | Path) -> Run:
    """A run that exists. Raises InputError if the folder holds none."""
    run = Run(path)
    place = run.path / "run.json"
    try:
        run.info = json.loads(place.read_text("utf-8", "surrogateescape"))
    except FileNotFoundError:
        raise InputError(f"{run.path}: no run folder (it has no run.json)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be read ({error})") from None
    if not isinstance(run.info, dict) or "classes" not in run.info:
        raise InputError(f"{place}: not written by reslab")
    return run


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
