"""What an exported network says of itself, as JSON in its file's metadata under `reslab`.

A reader of another making needs nothing else: how a picture becomes the input, what the outputs
mean. `reslab.using.read_picture` is such a reader.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

import reslab
from reslab.networks.model_file import Model, SplitOrigin
from reslab.pictures.files import has_control_characters
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.settings import Averaging

KEY = "reslab"
INPUT, OUTPUT = "pixels", "probabilities"
BLANK = 64 * "0"  # in the place of the checksum, while it is computed


class Contract(BaseModel):
    """The input, the outputs and the origin of an exported network.

    input: uint8 pixels (N, C, H, W), RGB or grey, as `preprocessing` brings them to its size. Its
        mean and std stand in the graph, as do `averaging` and `temperature`: they are for the
        record, and for letterbox, which is padded with the mean.
    output: calibrated probabilities (N, classes), float32, in the order of `classes`.
    held: the probability that each validation picture's own class was given, rising.
    int8: whether weights and activations are quantised.
    sha256: of the file with this field blank; empty where the format has a checksum of its own.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    reslab: str
    network: str
    input: Literal["pixels"] = "pixels"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NCHW"] = "NCHW"
    colour: Literal["RGB", "grey"]
    preprocessing: Preprocessing
    output: Literal["probabilities"] = "probabilities"
    classes: tuple[str, ...]
    averaging: Averaging
    temperature: float = Field(gt=0, allow_inf_nan=False)
    held: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    origin: SplitOrigin | None = None
    int8: bool = False
    sha256: str = ""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Contract":
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("the classes are too few or repeat")
        if any(has_control_characters(name) for name in self.classes):
            raise ValueError("the classes hold control characters")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the input."""
        return self.preprocessing.channels, *self.preprocessing.size


def contract_of(model: Model) -> Contract:
    """What an export of a model says of itself."""
    return Contract(
        reslab=reslab.__version__,
        network=model.spec.name,
        colour="grey" if model.preprocessing.channels == 1 else "RGB",
        preprocessing=model.preprocessing,
        classes=model.classes,
        averaging=model.averaging,
        temperature=model.temperature,
        held=model.held,
        origin=model.origin,
    )
