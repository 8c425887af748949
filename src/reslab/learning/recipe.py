"""Recipes: typed data in TOML, every field of which can be set by its dotted name."""

import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from reslab.errors import InputError, nearest
from reslab.pictures.settings import (
    Augmentation,
    Averaging,
    Interpolation,
    Mean,
    Mode,
    Size,
    Std,
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Inputs(_Part):
    """[preprocess] Fields left out come from the pretrained weights, else from the data."""

    size: Size | None = None
    mode: Mode | None = None
    interpolation: Interpolation | None = None
    crop_fraction: float | None = Field(default=None, gt=0, le=1)
    channels: Literal[1, 3] | None = None
    mean: tuple[Mean, ...] | None = None
    std: tuple[Std, ...] | None = None


class Optimizer(_Part):
    """[optimizer] lr is the peak where the schedule has one.

    bias_lr, head_lr: peaks of their own for the biases, batch norms' included, and for the last
        layer; else lr.
    layer_decay: each block of layers learns at this share of the rate of the block after it.
    weight_decay: as torch's optimiser of the name has it.
    With "muon", lr, momentum and nesterov hold for the convolutions' weights, which need no decay;
    the others are trained by SGD with Nesterov momentum `sgd_momentum`, and `weight_decay` is the
    share of their weights that a step at the peak rate takes away.
    """

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    bias_lr: float | None = Field(default=None, gt=0)
    head_lr: float | None = Field(default=None, gt=0)
    layer_decay: float = Field(default=1, gt=0, le=1)
    momentum: float = Field(default=0, ge=0, lt=1)
    sgd_momentum: float = Field(default=0.85, gt=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not (self.name in ("sgd", "muon") and self.momentum > 0):
            raise ValueError("nesterov needs name = 'sgd' or 'muon' and a momentum above 0")
        return self


class Schedule(_Part):
    """[schedule] warmup: the share of the steps over which the rate rises from near 0."""

    name: Literal["constant", "one-cycle", "cosine", "linear"] = "constant"
    warmup: float = Field(default=0, ge=0, lt=1)


class Split(_Part):
    """[split] What is carved from train where the data lacks it: a fraction below 1, or a count.

    The split's own seed keeps it the same over the runs of different training seeds.
    """

    validation: float = Field(default=0.1, ge=0)
    test: float = Field(default=0.2, ge=0)
    seed: NonNegativeInt = 0

    @field_validator("validation", "test")
    @classmethod
    def _fraction_or_count(cls, amount: float) -> float:
        if amount > 1 and amount != int(amount):
            raise ValueError("a fraction below 1 or a whole number of pictures")
        return amount


class Recipe(_Part):
    """A whole training run as data.

    weights: "none", "pretrained" (the published ones) or a file.
    train_from: what trains: "all", the "head" (the last layer) alone, or everything from a layer
        of that name on, such as "layer4". What comes before it is frozen, and needs weights.
        Batch-norm statistics learn only where no weights were given.
    head: how the last layer learns: "trained" as the rest, or "solved": multinomial logistic
        regression on its inputs, for as many strengths of regularisation as there are epochs.
        Where more than the head trains, a solved head is what it starts from.
    class_weights: "balanced" lets each class count as much as another in the loss, however many
        pictures it has.
    features: whether the frozen part's outputs are "cached", or computed "online" in each step.
    views: how many augmented views of each training picture there are where a part is frozen;
        epoch e trains on view e mod `views`. 0 is the picture as it is in evaluation.
    view_seed: decides the augmentation where a part is frozen, in place of the seed.
    micro_batch: how many pictures pass through the network at a time; the gradients of a batch
        are summed over its parts, and batch norm sees each part on its own. The whole if left out.
    averaging: over which views of a picture the finished model averages its class scores.
    checkpoint_every: such as "1epoch", "20steps" or "5min".
    """

    name: str = "custom"
    network: str = "small-resnet"
    weights: str = "none"
    train_from: str = Field(default="all", min_length=1)
    head: Literal["trained", "solved"] = "trained"
    class_weights: Literal["none", "balanced"] = "none"
    features: Literal["cached", "online"] = "cached"
    views: NonNegativeInt = 1
    view_seed: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    micro_batch: PositiveInt | None = None
    eval_batch_size: PositiveInt = 256
    shuffle: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    averaging: Averaging = "none"
    checkpoint_every: str = "1epoch"
    preprocess: Inputs = Inputs()
    augment: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    split: Split = Split()

    @model_validator(mode="after")
    def _a_solved_head_has_features(self) -> Self:
        if self.head == "solved" and self.weights == "none":
            raise ValueError(
                "head = 'solved' needs weights that have learned something; set head = 'trained'"
            )
        if self.solves and self.features == "online":
            raise ValueError("head = 'solved' works on cached features; set head = 'trained'")
        return self

    @field_validator("checkpoint_every")
    @classmethod
    def _interval(cls, text: str) -> str:
        if not re.fullmatch(r"[1-9]\d*(epochs?|steps?|min)", text):
            raise ValueError("such as 1epoch, 20steps or 5min")
        return text

    @field_validator("name")
    @classmethod
    def _name_fits_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}", name):
            raise ValueError("a name that a folder may have")
        return name

    @field_validator("seed")
    @classmethod
    def _seed_fits(cls, seed: int) -> int:
        if seed >= 2**63:
            raise ValueError("below 2**63")
        return seed

    @property
    def frozen(self) -> bool:
        """Whether a part of the network does not train."""
        return self.train_from != "all"

    @property
    def solves(self) -> bool:
        """Whether a solved head is all that trains."""
        return self.train_from == "head" and self.head == "solved"

    @property
    def frozen_start(self) -> bool:
        """Whether pretrained layers train on from a head that is solved first."""
        return self.head == "solved" and self.train_from != "head" and self.weights != "none"

    @property
    def training_augmentation(self) -> Augmentation:
        """What training pictures go through: nothing where the evaluation's view is asked for."""
        return Augmentation() if self.frozen and self.views == 0 else self.augment

    @property
    def augmentation_seed(self) -> int:
        return self.view_seed if self.frozen else self.seed

    @property
    def norms_learn(self) -> bool:
        """Whether batch norm goes by the batch, and keeps statistics of it.

        Statistics of pretrained weights are better than a few photos' own.
        """
        return self.weights == "none"

    def with_fields(self, fields: Mapping[str, Any], origin: str = "--") -> "Recipe":
        """A copy with fields set by dotted name, such as {"optimizer.lr": 0.1}.

        Text is read as the field's type. `origin` stands before a name in messages. Raises
        InputError naming every field that is unknown (with the nearest valid one) or ill-typed.
        """
        data = self.model_dump(exclude_none=True)
        problems = []
        for written, value in fields.items():
            name = written.replace("-", "_")
            if name not in FIELDS:
                problems.append(
                    f"{origin}{written} is no field of a recipe{nearest(name, FIELD_NAMES)}"
                )
                continue
            *path, last = name.split(".")
            part = data
            for step in path:
                part = part[step]
            part[last] = _from_text(value, FIELDS[name]) if isinstance(value, str) else value
        if not problems:
            try:
                return Recipe.model_validate(data)
            except ValidationError as error:
                problems = [f"{origin}{text}" for text in _messages(error)]
        raise InputError("the recipe cannot be set so:", problems)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _fields(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the settable fields, with their types."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= _fields(info.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = info.annotation
    return found


FIELDS = _fields(Recipe)
FIELD_NAMES = tuple(FIELDS)


def _from_text(text: str, annotation: Any) -> Any:
    """Text as it comes from the command line, split at commas where the field holds several."""
    if any(typing.get_origin(member) is tuple for member in _members(annotation)):
        return [part.strip() for part in text.strip("[]() ").split(",")]
    if text.isdecimal() and text in _choices(annotation):
        return int(text)
    return text


def _members(annotation: Any) -> list[Any]:
    """The types that a field may hold: unions and annotations opened."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(annotation) for one in _members(part)]
    return [annotation]


def _messages(error: ValidationError) -> list[str]:
    """One line a problem: the dotted field, what it holds, what it may hold."""
    lines = {}
    for problem in error.errors():
        # A union or a tuple adds its members' names behind the field's own.
        place = [str(part) for part in problem["loc"]]
        while (
            len(place) > 1
            and ".".join(place) not in FIELDS
            and problem["type"] != "extra_forbidden"
        ):
            place.pop()
        name = ".".join(place) or "recipe"
        given = problem["input"]
        if problem["type"] == "extra_forbidden":
            lines[name] = f"{name} is no field of a recipe{nearest(name, FIELD_NAMES)}"
        elif problem["type"] == "literal_error":
            choices = _choices(FIELDS[name])
            lines[name] = f"{name} = {given!r}: not a choice{nearest(str(given), choices)}"
        elif isinstance(given, dict) and name not in FIELDS:
            lines[name] = f"{name}: {problem['msg'].removeprefix('Value error, ')}"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            text = text.removeprefix("Input should be ").replace("a valid ", "")
            lines[name] = f"{name} = {given!r}: should be {text}"
    return list(lines.values())


def _choices(annotation: Any) -> tuple[str, ...]:
    literals = [one for one in _members(annotation) if typing.get_origin(one) is Literal]
    return tuple(str(choice) for one in literals for choice in typing.get_args(one))


def field_values(name: str) -> str:
    """What a field may hold, in words: for the reference."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if choices := _choices(FIELDS[name]):
        return ", ".join(choices)
    members = _members(FIELDS[name])
    if any(typing.get_origin(member) is tuple for member in members):
        return "height,width" if name.endswith("size") else "a number a channel"
    return next(words[member] for member in members if member in words)


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from TOML. Raises InputError naming file, line and field of each problem."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise InputError(f"{where}:{line[1] if line else 1}: not valid TOML ({error})") from None
    try:
        # JSON in strict mode: an array is a tuple, and the text "3" is no number.
        return Recipe.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        lines = _lines_of_fields(text)
        problems = []
        for message in _messages(error):
            field = message.split(" ")[0].rstrip(":")
            problems.append(f"{where}:{lines.get(field, 1)}: {message}")
        raise InputError("the recipe has problems:", problems) from None


def _lines_of_fields(text: str) -> dict[str, int]:
    """The line on which each dotted field, or its section, stands in a TOML text."""
    found, section = {}, ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-]+)\s*\]+", line):
            section = header[1] + "."
            found[header[1]] = number
        elif field := re.match(r"\s*([\w.\-]+)\s*=", line):
            found[section + field[1]] = number
    return found


def recipe_names() -> tuple[str, ...]:
    folder = resources.files("reslab.recipes")
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml")))


def recipe_text(name: str) -> str:
    """The TOML file of a built-in recipe, with the comment that says what to expect of it."""
    if name not in recipe_names():
        raise InputError(f"no recipe {name!r}{nearest(name, recipe_names())}")
    return (resources.files("reslab.recipes") / f"{name}.toml").read_text("utf-8")


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by built-in name or TOML file."""
    text = str(name)
    path = Path(text).expanduser()
    if text in recipe_names() and not path.is_file():
        return parse_recipe(recipe_text(text), f"recipe {text}")
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise InputError(f"{path}: no such recipe file")
        try:
            return parse_recipe(path.read_text("utf-8"), str(path))
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise InputError(f"{path}:{line}: not UTF-8; save the recipe as UTF-8") from None
    raise InputError(f"no recipe {text!r}{nearest(text, recipe_names())}")
