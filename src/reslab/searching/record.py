"""search.json: what a search was asked for and what each trial came to; all that it goes on from.

It is replaced in one step after each trial, so a search that is killed loses the trial under way
alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslab.disk import read_regular, write_safely
from reslab.errors import InputError
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe

RECORD_FILE, BEST_FILE = "search.json", "best.toml"
FORMAT = 1
_LARGEST = 64 << 20  # bytes


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Validation(_Part):
    """The best epoch's, or strength's, score on n validation pictures."""

    n: int
    accuracy: float
    loss: float


class Trial(_Part):
    """One training. `curve` has the best validation accuracy so far after each epoch.

    same_as: the earlier trial of the very same fields, whose result it has.
    """

    number: int
    fields: dict[str, Any]
    state: Literal["finished", "pruned", "failed"]
    validation: Validation | None = None
    curve: list[float] = []
    seconds: float = 0.0
    error: str | None = None
    same_as: int | None = None


class Record(_Part):
    """A search. `recipe` is what all trials share, as asked; `precision` what it came to."""

    format: int = FORMAT
    status: Literal["running", "interrupted", "finished"] = "running"
    process: str = ""
    began: str
    data: str
    source: dict[str, Any]
    fingerprint: str
    arrangement: dict[str, str]
    counts: dict[str, int]
    recipe: dict[str, Any]
    precision: str
    over: dict[str, str]
    circumstances: dict[str, Any]
    seconds: float = 0.0
    trials: list[Trial] = Field(default_factory=list)

    def best(self) -> Trial | None:
        """The finished trial of the highest validation accuracy; of equals the one of least loss,
        of these the first."""
        judged = [(each.validation, each) for each in self.trials if each.state == "finished"]
        ranked = [(-v.accuracy, v.loss, each.number, each) for v, each in judged if v is not None]
        return min(ranked, key=lambda one: one[:3])[3] if ranked else None

    @property
    def tried(self) -> int:
        """How many trials there were, without those that were as one before."""
        return sum(trial.same_as is None for trial in self.trials)

    def ended(self, state: str) -> int:
        """How many trials ended so."""
        return sum(trial.state == state for trial in self.trials)


@dataclass(frozen=True)
class Search:
    """A search as it stands: its folder, its record, and the command that trains the winner."""

    path: Path
    record: Record
    train_command: str

    @property
    def trials(self) -> list[Trial]:
        return self.record.trials

    @property
    def best(self) -> Trial:
        """The winner. Raises InputError where no trial came to its end."""
        found = self.record.best()
        if found is None:
            errors = [f"trial {each.number}: {each.error}" for each in self.trials if each.error]
            raise InputError(f"{self.path}: no trial came to its end:", errors)
        return found

    @property
    def recipe(self) -> Recipe:
        """The winner as an ordinary recipe."""
        return load_recipe(self.path / BEST_FILE)

    @property
    def caution(self) -> str:
        """What the winner's score is worth, in words."""
        return (
            f"best of {self.record.tried} trials, chosen by this very score, so it flatters; the"
            " test split was not looked at"
        )

    def as_dict(self) -> dict[str, Any]:
        best = self.best
        return {
            "search": str(self.path),
            "recipe": str(self.path / BEST_FILE),
            "best": {"of": self.record.tried, "note": self.caution, **best.model_dump(mode="json")},
            "train": self.train_command,
            **self.record.model_dump(mode="json"),
        }


def read_record(folder: Path) -> Record | None:
    """The record of a search that began here, or None. Raises InputError if it is damaged."""
    path = folder / RECORD_FILE
    try:
        found = Record.model_validate_json(read_regular(path, _LARGEST))
        Recipe.model_validate(found.recipe)
        return found
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise InputError(
            f"{path}: not as reslab wrote it ({where}: {first['msg']}); put it back, or name"
            " another --out"
        ) from None


def write_record(folder: Path, record: Record) -> None:
    """Make the record safe on the disk. Raises OSError."""
    text = record.model_dump_json(indent=1)
    write_safely(folder / RECORD_FILE, f"{text}\n".encode("utf-8", "surrogateescape"))


def write_best(folder: Path, recipe: Recipe, told: Mapping[str, str]) -> None:
    """Write the winner as a recipe, opening with its command and what is known of it."""
    comment = "".join(f"# {name}: {text}\n" for name, text in told.items())
    write_safely(folder / BEST_FILE, (comment + recipe.to_toml()).encode())
