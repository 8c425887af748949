"""A recipe: typed data, every field of which can be set by its dotted name.

A field with the docstring below it is the whole description of an option: the command line, Python,
`recipe.toml` and the documents take it from here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from reslab.errors import InputError, nearest
from reslab.pictures.settings import Augmentation, Averaging, Splitting
from reslab.recipes.fields import fields_of, from_text, messages
from reslab.recipes.groups import (
    LARGEST_COUNT,
    Count,
    Group,
    Inputs,
    Mixing,
    Optimizer,
    Progressive,
    Schedule,
    Seed,
    Split,
)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Recipe(Group):
    """A whole training run as data."""

    SHORT_NAMES: ClassVar[dict[str, str]] = {"lr": "optimizer.lr"}

    name: str = "custom"
    """What the recipe is called."""
    network: str = "small-resnet"
    """A network by name: reslab's own, torchvision's ResNets, or timm's."""
    weights: Annotated[str, BeforeValidator(_as_text), "path"] = "none"
    """pretrained (the published ones), none, or a file: safetensors or a PyTorch state dict."""
    train_from: str = Field(default="all", min_length=1)
    """What trains: all, the head (the last layer) alone, or everything from a layer of that name
    on, such as layer4. What comes before it is frozen, and needs weights. Batch-norm statistics
    learn only where no weights were given."""
    head: Literal["trained", "solved"] = "trained"
    """How the last layer learns: trained as the rest, or solved: multinomial logistic regression on
    its inputs, for as many strengths of regularisation as epochs says. Where more than the head
    trains, a solved head is what it starts from."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced lets each class count as much as another in the loss, however many pictures it
    has."""
    features: Literal["cached", "online"] = "cached"
    """Whether the frozen part's outputs are cached, or computed online in each step."""
    views: int = Field(default=1, ge=0, le=LARGEST_COUNT)
    """How many augmented views of each training picture there are where a part is frozen; epoch e
    trains on view e mod views. 0 is the picture as it is in evaluation."""
    view_seed: Seed = 0
    """Decides the augmentation where a part is frozen, in place of the seed."""
    seed: Seed = 0
    """Decides initial weights, order, augmentation and dropout."""
    epochs: Count = 10
    """How often to go through the training pictures; of a solved head, how many strengths of
    regularisation to try."""
    batch_size: Count = 64
    """Pictures a step, at most."""
    micro_batch: Count | None = None
    """How many pictures pass through the network at a time; the gradients of a batch are summed
    over its parts, and batch norm sees each part on its own. The whole if left out."""
    parts: Count | None = None
    """Cut each batch into so many parts, which several processes share under torchrun: gradients
    are summed in one order, so that their number changes no bit. Batch norm sees each part on its
    own. 4 under torchrun; a batch is whole if left out."""
    eval_batch_size: Count = 256
    """Pictures a forward pass where nothing trains."""
    shuffle: bool = True
    """Whether each epoch has an order of its own."""
    folds: int = Field(default=0, ge=0, le=1000)
    """Judge a solved head's strengths by cross-validation in so many folds of the training
    pictures, and carve no validation split; for few photos. 0 carves one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 where the machine has it, it agrees with fp32, and it is measured to pay."""
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    """The share of each label that is spread evenly over all classes."""
    ema_decay: float = Field(default=0, ge=0, lt=1)
    """Judge and keep an exponential moving average of the weights with this decay a step, such as
    0.999; 0 is none."""
    drop_path: float = Field(default=0, ge=0, lt=1)
    """Stochastic depth: the chance that a picture skips the last residual branch in a step; earlier
    branches have their share of it by depth. 0 is none."""
    patience: Count | None = None
    """Stop after so many epochs without a better one on the validation split; never if left out.
    Where the rate falls over the whole run the best epochs come last: leave it out, or be patient.
    """
    averaging: Averaging = "none"
    """Over which views of a picture the finished model averages its class scores."""
    checkpoint_every: str = "1epoch"
    """Such as 1epoch, 20steps or 5min."""
    preprocess: Inputs = Inputs()
    augment: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    mix: Mixing = Mixing()
    progressive: Progressive = Progressive()
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

    @model_validator(mode="after")
    def _means_have_an_effect(self) -> Self:
        mixes = bool(self.mix.mixup or self.mix.cutmix)
        grows = self.progressive.start < 1
        cached = self.frozen and self.features == "cached"
        drawn = self.augment.policy != "none" or bool(self.augment.erase)
        of_steps = {
            "mix": mixes,
            "progressive": grows,
            "drop_path": bool(self.drop_path),
            "patience": self.patience is not None,
            "optimizer.clip_norm": bool(self.optimizer.clip_norm),
        }
        if self.solves and any(of_steps.values()):
            names = ", ".join(name for name, given in of_steps.items() if given)
            raise ValueError(f"a head that is solved takes no steps: {names} needs --head trained")
        if cached and (self.mix.cutmix or grows):
            name = "mix.cutmix" if self.mix.cutmix else "progressive.start"
            raise ValueError(f"{name} changes pictures, and features are cached: --features online")
        if self.train_from == "head" and self.drop_path:
            raise ValueError("drop_path needs residual branches that train: --train-from a layer")
        if self.frozen and self.views == 0 and drawn:
            raise ValueError("augment.policy and augment.erase need drawn views: --views 1 or more")
        return self

    @field_validator("checkpoint_every")
    @classmethod
    def _interval(cls, text: str) -> str:
        if not re.fullmatch(r"[1-9]\d*(epochs?|steps?|min)", text):
            raise ValueError("such as 1epoch, 20steps or 5min")
        return text

    @field_validator("folds")
    @classmethod
    def _folds_leave_some(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("2 or more, such as 5; or 0 for none")
        return folds

    @field_validator("name")
    @classmethod
    def _name_fits_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}", name):
            raise ValueError("a name that a folder may have")
        return name

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
    def splitting(self) -> Splitting:
        """What is carved from train: nothing for validation where folds judge."""
        split = self.split
        validation = 0 if self.folds else split.validation
        return Splitting(validation, split.test, split.seed, split.together)

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

    @property
    def folds_norms(self) -> bool:
        """Whether a step folds norms that do not learn into the convolutions before them."""
        return not (self.norms_learn or self.drop_path)  # skipped branches hang on the modules

    def with_fields(self, fields: Mapping[str, Any], origin: str = "--") -> "Recipe":
        """A copy with fields set by dotted name, such as {"optimizer.lr": 0.1}.

        Text is read as the field's type. `origin` stands before a name in messages. Raises
        InputError naming every field that is unknown (with the nearest valid one) or ill-typed.
        """
        data = self.model_dump(exclude_none=True)
        problems = []
        for written, value in fields.items():
            name = dotted_name(written)
            if name not in FIELDS:
                problems.append(
                    f"{origin}{written} is no field of a recipe{nearest(name, FIELD_NAMES)}"
                )
                continue
            *path, last = name.split(".")
            part = data
            for step in path:
                part = part[step]
            part[last] = from_text(value, FIELDS[name]) if isinstance(value, str) else value
        if not problems:
            try:
                return Recipe.model_validate(data)
            except ValidationError as error:
                problems = [f"{origin}{text}" for text in messages(error, FIELDS)]
        raise InputError("the recipe cannot be set so:", problems)

    def by_dotted_name(self) -> dict[str, Any]:
        """Every field's value under its dotted name."""
        return _flat(self.model_dump())

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _flat(part: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in part.items():
        nested = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


FIELDS = fields_of(Recipe)
FIELD_NAMES = tuple(FIELDS)


def dotted_name(written: str) -> str:
    """A field's dotted name, as it or its short form is written: optimizer.lr for lr."""
    name = written.replace("-", "_")
    return Recipe.SHORT_NAMES.get(name, name)


def changes_of(short: Mapping[str, Any], fields: Mapping[str, Any] | None) -> dict[str, Any]:
    """Changes of a recipe by dotted name, from options of their own and from `fields`.

    Raises InputError for one that is set by both.
    """
    changes = {dotted_name(name): value for name, value in short.items()}
    named = {dotted_name(name): value for name, value in (fields or {}).items()}
    twice = sorted(set(changes) & set(named))
    if twice:
        raise InputError(f"{', '.join(twice)}: set twice, once by its own option")
    return changes | named
