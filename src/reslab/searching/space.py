"""What a search may change: fields of a recipe, each over a range or a few choices."""

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.errors import InputError
from reslab.recipes.fields import number_kind
from reslab.recipes.groups import LARGEST_RATE
from reslab.recipes.recipe import FIELDS, Recipe, dotted_name

DIGITS = 4  # of a number that is tried: more would be noise, and hard to read
_FIXED = {  # what must be the same in all trials
    "name": "it is only what the recipe is called",
    "seed": "that would choose luck",
    "folds": "it decides which pictures judge",
    "eval_batch_size": "it changes no result",
    "checkpoint_every": "it changes no result",
}


@dataclass(frozen=True)
class Range:
    """From low to high, both included; whole numbers alone, or by their logarithm."""

    low: float
    high: float
    whole: bool
    log: bool

    def value(self, drawn: float) -> float:
        """A number of the range as it is tried: whole, or of a few digits."""
        if self.whole:
            return int(drawn)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    @property
    def count(self) -> float:
        """How many values there are to try."""
        return self.high - self.low + 1 if self.whole else math.inf

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" + (", by logarithm" if self.log else "")


@dataclass(frozen=True)
class Choices:
    """A few values, as the recipe's JSON has them."""

    values: tuple[Any, ...]

    @property
    def count(self) -> float:
        """How many values there are to try."""
        return len(self.values)

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


Space = dict[str, Range | Choices]  # by dotted name, in the order of the names
Over = Mapping[str, str | Sequence[Any]] | Sequence[str]


def space_of(over: Over | None, base: Recipe) -> Space:
    """The space that a user names, or the recipe's usual one.

    over: `NAME=LOW..HIGH` or `NAME=A,B,C` each; or a mapping of names to the text behind the `=`,
    or to a list of choices. Raises InputError.
    """
    written = _default(base) if not over else _by_name(over)
    found: Space = {}
    for name, wanted in written.items():
        dotted = _field(name)
        if dotted in found:
            raise InputError(f"--over {name}: named twice")
        _refuse_fixed(name, dotted)
        if isinstance(wanted, str) and ".." in wanted:
            found[dotted] = _range(dotted, wanted, base)
        else:
            each = wanted.split(",") if isinstance(wanted, str) else list(wanted)
            found[dotted] = _choices(dotted, each, base)
    return dict(sorted(found.items()))


def _field(written: str) -> str:
    """A field's dotted name; its last part is enough where it is the only one of the kind."""
    name = dotted_name(written)
    ends = [known for known in FIELDS if known.endswith(f".{name}")]
    return ends[0] if name not in FIELDS and len(ends) == 1 else name


def _by_name(over: Over) -> dict[str, str | Sequence[Any]]:
    if isinstance(over, Mapping):
        return dict(over)
    found: dict[str, str | Sequence[Any]] = {}
    for text in [over] if isinstance(over, str) else over:
        name, equals, wanted = text.partition("=")
        if not equals or not wanted:
            raise InputError(
                f"--over {text}: should be NAME=LOW..HIGH, such as lr=0.001..0.1, or NAME=A,B, such"
                " as optimizer.name=sgd,adamw"
            )
        if name.strip() in found:
            raise InputError(f"--over {name.strip()}: named twice")
        found[name.strip()] = wanted.strip()
    return found


def _default(base: Recipe) -> dict[str, str | Sequence[Any]]:
    """What usually matters: of a solved head its pictures, else the optimiser."""
    if base.solves:
        return {"views": "1..8", "class_weights": "none,balanced"}
    rate = base.optimizer.lr
    found: dict[str, str | Sequence[Any]] = {
        "optimizer.lr": f"{rate / 10!r}..{min(rate * 10, LARGEST_RATE)!r}",
        "label_smoothing": "0..0.2",
    }
    if base.optimizer.name != "muon":  # of which it is a share of the weights
        found["optimizer.weight_decay"] = "1e-6..1e-1"
    return found


def _refuse_fixed(name: str, dotted: str) -> None:
    reason = _FIXED.get(dotted)
    if dotted.startswith("split."):
        reason = "it decides which pictures judge"
    if reason:
        raise InputError(f"--over {name}: is the same in all trials, as {reason}")


def _range(name: str, text: str, base: Recipe) -> Range:
    low, high = (_checked(name, end.strip(), base) for end in text.split("..", 1))
    kind = number_kind(FIELDS[name])
    if kind is None or not all(isinstance(end, int | float) for end in (low, high)):
        raise InputError(f"--over {name}={text}: holds no numbers; name choices, such as A,B")
    if not low < high:
        raise InputError(f"--over {name}={text}: should go from a smaller number to a larger one")
    # Over a decade or more what counts is by how many times, not by how much.
    return Range(low, high, kind is int, low > 0 and high >= 10 * low)


def _choices(name: str, wanted: list[Any], base: Recipe) -> Choices:
    values = [
        _checked(name, each.strip() if isinstance(each, str) else each, base) for each in wanted
    ]
    if len(values) < 2 or any(values.count(value) > 1 for value in values):
        raise InputError(f"--over {name}: needs two choices or more, each once; or LOW..HIGH")
    return Choices(tuple(values))


def _checked(name: str, value: Any, base: Recipe) -> Any:
    """A value as the recipe has it in JSON. Raises InputError if the field cannot hold it."""
    found: Any = base.with_fields({name: value}, origin="--over ").model_dump(mode="json")
    for step in name.split("."):
        found = found[step]
    if isinstance(found, float) and not math.isfinite(found):
        raise InputError(f"--over {name}: {value} is no number to try")
    return found


def holds(space: Space, fields: Mapping[str, Any]) -> bool:
    """Whether these fields, no more and no fewer, were tried within the space."""
    if fields.keys() != space.keys():
        return False
    for name, dimension in space.items():
        value = fields[name]
        if isinstance(dimension, Choices):
            inside = value in dimension.values
        else:
            number = isinstance(value, int if dimension.whole else int | float)
            inside = number and dimension.low <= value <= dimension.high
        if not inside:
            return False
    return True


def described(space: Space) -> dict[str, str]:
    """Each field's range or choices in words, for the screen and the record."""
    return {name: str(typing.cast(object, dimension)) for name, dimension in space.items()}
