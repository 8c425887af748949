"""Settings of the data path, as a recipe holds them: plain typed records, no torch."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Mode = Literal["squash", "crop", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Averaging = Literal["none", "flip", "flip-shift"]
Together = Literal["identical", "near"]  # copies that stay in one split


class Splitting(NamedTuple):
    """What is carved from train where the data lacks it.

    validation, test: a fraction below 1, or a number of pictures; 0 carves none.
    """

    validation: float
    test: float
    seed: int
    together: Together = "identical"


SMALL = 64  # pixels a side: up to here pictures are "small", above they are photos


def _pair(value: Any) -> Any:
    """Let one number stand for a square, and an array for a pair in strict mode too."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return _pair(value[0])
    if isinstance(value, int | str):
        return value, value
    return tuple(value) if isinstance(value, list) else value


Side = Annotated[int, Field(gt=0, le=4096)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_pair)]
Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class Augmentation(BaseModel):
    """What is drawn anew for each picture in each epoch. The defaults change nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    resize: Size | None = None
    """Height and width the picture is brought to first; a larger one than the input's leaves room
    for the centre crop."""
    rotate: float = Field(default=0, ge=0, le=180)
    """Degrees; the angle is uniform in [-rotate, rotate], corners become black."""
    zoom: float = Field(default=1, gt=0, le=1)
    """Least side of a crop, as a fraction of the picture's; 1 is none."""
    shift: float = Field(default=0, ge=0, le=0.5)
    """Largest translation, as a fraction of each side, rounded to whole pixels; half a pixel more
    makes all of them equally likely (2.5 of 32 pixels: -2 to 2, each a fifth)."""
    edge: Literal["black", "reflect"] = "black"
    """What a shift brings in: black, or the reflection of the picture at its edge."""
    flip_horizontal: float = Field(default=0, ge=0, le=1)
    """Probability of a mirror image."""
    flip_alternating: bool = False
    """Draw the mirror image once for each picture and turn it over in every other epoch, instead of
    drawing it anew."""
    flip_vertical: float = Field(default=0, ge=0, le=1)
    """Probability of turning upside down."""
    brightness: float = Field(default=0, ge=0, le=1)
    """The factor is uniform in [1 - brightness, 1 + brightness]."""
    contrast: float = Field(default=0, ge=0, le=1)
    """The factor is uniform in [1 - contrast, 1 + contrast]."""
    saturation: float = Field(default=0, ge=0, le=1)
    """The factor is uniform in [1 - saturation, 1 + saturation]."""
    hue: float = Field(default=0, ge=0, le=0.5)
    """The shift is uniform in [-hue, hue], in turns of the colour wheel."""
    grey: float = Field(default=0, ge=0, le=1)
    """Probability of a grey picture."""
    policy: Literal["none", "trivial-wide"] = "none"
    """trivial-wide changes each picture, before all else, by one of 14 operations at one of 31
    strengths, all equally likely: TrivialAugment."""
    erase: float = Field(default=0, ge=0, le=1)
    """Probability of covering a rectangle of 2 % to 33 % of the picture with the mean colour, after
    all else."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.flip_alternating and not self.flip_horizontal:
            raise ValueError("flip_alternating needs a flip_horizontal above 0")
        if self.edge == "reflect" and (self.rotate or self.zoom < 1 or self.resize):
            raise ValueError("edge = 'reflect' goes with shifts and flips alone")
        return self

    @property
    def name(self) -> str:
        """Names what is drawn. Fields that came later are left out where they change nothing, so
        that what was kept under a name is found again."""
        later = {"policy": self.policy == "none", "erase": not self.erase}
        found = self.model_dump_json(exclude={name for name, unused in later.items() if unused})
        changed = self.contrast or self.policy != "none"  # contrast had other last digits once
        return f"{found} 2" if changed else found

    @property
    def moves_whole_pixels(self) -> bool:
        """Whether the geometry only moves pixels about, so that none is interpolated."""
        return self.zoom == 1 and not self.rotate and self.resize is None

    @property
    def moves(self) -> bool:
        return bool(
            self.rotate
            or self.zoom < 1
            or self.shift
            or self.flip_horizontal
            or self.flip_vertical
            or self.resize
        )

    @property
    def colours(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue or self.grey)
