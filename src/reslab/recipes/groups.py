"""The groups of a recipe's fields, each a section of its file, such as [optimizer]."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reslab.pictures.settings import Interpolation, Mean, Mode, Size, Std, Together

LARGEST_RATE = 1e38  # what float32 holds
LARGEST_COUNT = 10**9

Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Group(BaseModel):
    """Fields that belong together, under a name of their own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Inputs(Group):
    """[preprocess] Fields left out come from the pretrained weights, else from the data."""

    size: Size | None = None
    """Height and width that the network sees."""
    mode: Mode | None = None
    """How a picture is brought to the size: squashed, cropped in the middle, or letterboxed."""
    interpolation: Interpolation | None = None
    """How a picture is resized; always antialiased."""
    crop_fraction: float | None = Field(default=None, gt=0, le=1)
    """With mode crop, the share of the shorter side that is kept."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour."""
    mean: tuple[Mean, ...] | None = None
    """Taken from each channel, in [0, 1]."""
    std: tuple[Std, ...] | None = None
    """What each channel is then divided by."""


class Optimizer(Group):
    """[optimizer]

    With "muon", lr, momentum and nesterov hold for the convolutions' weights, which need no decay;
    the others are trained by SGD with Nesterov momentum `sgd_momentum`, and `weight_decay` is the
    share of their weights that a step at the peak rate takes away.
    """

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """The optimiser; torch's own, but for Muon."""
    lr: float = Field(default=0.01, gt=0, le=LARGEST_RATE)
    """Learning rate; the peak where the schedule has one."""
    bias_lr: float | None = Field(default=None, gt=0, le=LARGEST_RATE)
    """A rate of their own for the biases, batch norms' included; else lr."""
    head_lr: float | None = Field(default=None, gt=0, le=LARGEST_RATE)
    """A rate of its own for the last layer; else lr."""
    layer_decay: float = Field(default=1, gt=0, le=1)
    """Each block of layers learns at this share of the rate of the block after it."""
    momentum: float = Field(default=0, ge=0, lt=1)
    """Momentum of SGD and Muon."""
    sgd_momentum: float = Field(default=0.85, gt=0, lt=1)
    """With Muon, the momentum of what is no convolution."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = Field(default=0, ge=0, le=LARGEST_RATE)
    """As torch's optimiser of the name has it."""
    clip_norm: float = Field(default=0, ge=0, le=LARGEST_RATE)
    """The largest norm of all gradients together that a step uses; larger ones are scaled down to
    it. 0 is no limit."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not (self.name in ("sgd", "muon") and self.momentum > 0):
            raise ValueError("nesterov needs name = 'sgd' or 'muon' and a momentum above 0")
        return self


class Schedule(Group):
    """[schedule] How the learning rate goes over the run."""

    name: Literal["constant", "one-cycle", "cosine", "linear", "step"] = "constant"
    """The curve; see reslab.learning.schedules."""
    warmup: float = Field(default=0, ge=0, lt=1)
    """The share of the steps over which the rate rises from near 0."""
    every: Count = 25
    """With step, after how many epochs the rate is multiplied by gamma."""
    gamma: float = Field(default=0.5, gt=0, le=1)
    """With step, by what the rate is multiplied."""


class Split(Group):
    """[split] What is carved from train where the data lacks it."""

    validation: float = Field(default=0.1, ge=0, le=LARGEST_COUNT)
    """For validation: a fraction below 1, or a number of pictures."""
    test: float = Field(default=0.2, ge=0, le=LARGEST_COUNT)
    """For the test: a fraction below 1, or a number of pictures."""
    together: Together = "identical"
    """Which copies stay in one split: identical files, or near copies too, such as one that is
    smaller, cropped, mirrored or brighter."""
    seed: Seed = 0
    """Its own, so that the split is the same over runs of different training seeds."""

    @field_validator("validation", "test")
    @classmethod
    def _fraction_or_count(cls, amount: float) -> float:
        if amount > 1 and amount != int(amount):
            raise ValueError("a fraction below 1 or a whole number of pictures")
        return amount


class Mixing(Group):
    """[mix] Pictures of a batch mixed in pairs, and their labels with them."""

    mixup: float = Field(default=0, ge=0, le=100)
    """Mixup's alpha, such as 0.2: two pictures, or their cached features, are added in shares drawn
    from Beta(alpha, alpha); 0 is none. Train accuracy then means the class of the larger share."""
    cutmix: float = Field(default=0, ge=0, le=100)
    """CutMix's alpha, such as 1: a rectangle of another picture, its share of the area drawn from
    Beta(alpha, alpha); 0 is none. With mixup too, each step does one of them, at even odds."""


class Progressive(Group):
    """[progressive] Training pictures that grow to their full size over the epochs."""

    start: float = Field(default=1, ge=0.1, le=1)
    """The first epochs' size of training pictures as a share of the full one, such as 0.5; 1 is
    none. Evaluation is always at the full size."""
    until: float = Field(default=0.7, gt=0, le=1)
    """The share of the epochs after which pictures have their full size."""
    multiple: int = Field(default=32, gt=0, le=512)
    """Sizes in between are multiples of so many pixels."""
