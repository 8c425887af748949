"""A plan: the stages of a training by the clock, as they went, in a file that repeats them."""

import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslab.disk import read_regular, user_path, write_safely
from reslab.errors import InputError
from reslab.recipes.groups import LARGEST_COUNT
from reslab.recipes.recipe import Recipe

PLAN_FILE = "plan.toml"
_LARGEST = 16 << 20  # bytes

_REPEATED = {"name", "fields", "pictures", "turns", "strength", "passes", "together"}
Turn = tuple[int, int]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Stage(_Part):
    """A piece of training, from the best weights before it.

    fields: what its recipe has other than the plan's, by dotted name. pictures: how many of the
    training pictures it sees, if not all. share: of the time left that it may take, if not all.
    turns: of its `Pace`. strength: of a solved head, as it was chosen. passes: over the features,
    after which solving it was cut off, if it was. together: the head is solved at that strength on
    the validation pictures too, and so cannot be judged by them. first: the epoch that it begins
    with. What follows was measured; diverged, no_room: that it had to be given up, for its steps
    were too large, or its features.
    """

    name: str
    why: str = ""
    fields: dict[str, Any] = {}
    pictures: int | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    share: float | None = Field(default=None, gt=0, le=1)
    turns: list[Turn] = []
    strength: float | None = Field(default=None, gt=0)
    passes: int | None = Field(default=None, gt=0)
    together: bool = False
    first: int = 0
    seconds: float = 0.0
    done: bool = False
    diverged: bool = False
    no_room: bool = False
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    gain: float | None = None


class Plan(_Part):
    """The stages in their order, the recipe that each changes, and the time they had.

    minutes: that were asked for; used: seconds of them that are gone. pinned: fields that the user
    has set, which no stage changes. judged: how many of the validation pictures choose, if not all.
    chooses: whether they say which weights are best; the last ones are kept where it would be luck.
    by_features: whether they were judged at the end by cached features, which round as pictures do
    not, so that another temperature may come of it.
    """

    minutes: float | None = None
    used: float = 0.0
    pinned: list[str] = []
    judged: int | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    chooses: bool = True
    by_features: bool | None = None
    recipe: Recipe = Recipe()
    stages: list[Stage] = []

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan. Raises InputError naming what is wrong with it."""
        place = user_path(path)
        try:
            found = tomllib.loads(read_regular(place, _LARGEST).decode())
            return cls.model_validate(found)
        except OSError as error:
            raise InputError(f"{place}: cannot be read ({error.strerror})") from None
        except ValidationError as error:
            problems = [
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors()
            ]
            raise InputError(f"{place}: not a plan as reslab wrote it:", problems) from None
        except ValueError as error:
            raise InputError(f"{place}: not a plan as reslab wrote it ({error})") from None

    @property
    def left(self) -> float:
        """Seconds of its minutes that are left."""
        return max(0.0, 60 * (self.minutes or 0.0) - self.used)

    def begin(self, folder: Path, recipe: Recipe) -> None:
        """Write the plan of a run, whose recipe is settled now."""
        self.recipe = recipe
        self.save(folder)

    def save(self, folder: Path) -> None:
        """Write the plan into a run folder."""
        text = tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
        write_safely(folder / PLAN_FILE, text.encode())

    def to_repeat(self) -> "Plan":
        """The plan as it is to be carried out again, without a clock and what was measured."""
        done = [Stage(**one.model_dump(include=_REPEATED)) for one in self.stages if one.done]
        kept = self.model_dump(include={"judged", "chooses", "pinned", "by_features"})
        return Plan(recipe=self.recipe, stages=done, **kept)
