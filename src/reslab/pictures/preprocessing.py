"""The preprocessing contract: what stands between a decoded picture and the network.

One small frozen record, applied alike in evaluation, prediction and serving; it travels in the
model file.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reslab.pictures.decoding import LARGEST, UnreadablePictureError, decode
from reslab.pictures.settings import SMALL, Interpolation, Mean, Mode, Size, Std


class Preprocessing(BaseModel):
    """How a picture becomes a network's input.

    size: (height, width) of the input in pixels.
    mode: "squash" to the size; "crop" the middle after shrinking the picture until
        `crop_fraction` of it fills the size; "letterbox" to fit, padded with the mean colour.
    mean, std: of pixels in [0, 1], one value a channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Size
    mode: Mode = "squash"
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    channels: Literal[1, 3]
    mean: tuple[Mean, ...]
    std: tuple[Std, ...]

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> "Preprocessing":
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} needs {self.channels} value(s), one a channel")
        return self

    def read(self, data: bytes) -> torch.Tensor:
        """The picture in a file's bytes, fitted: uint8 (C, *size). Raises UnreadablePictureError.

        A large JPEG is decoded at no less than twice the size it is brought to, unless single
        pixels are wanted (nearest).
        """
        least = max(2 * SMALL, math.ceil(2 * max(self.size) / self.crop_fraction))
        if self.interpolation == "nearest":
            return self.fit(decode(data, self.channels)[None])[0]
        return self.fit(decode(data, self.channels, least)[None])[0]

    def fit(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bring uint8 pictures (N, C, H, W) of one size to the input's size, still uint8.

        Integer arithmetic, as Pillow's resize up to the rounding of filter weights; the
        result for a picture does not depend on the batch it stands in.
        """
        height, width = pixels.shape[-2:]
        target_height, target_width = self.size
        if (height, width) == self.size and (self.mode != "crop" or self.crop_fraction == 1):
            return pixels
        if self.mode == "squash":
            return resize(pixels, self.size, self.interpolation)
        scales = target_height / height, target_width / width
        if self.mode == "letterbox":
            scale = min(scales)
            inner = resize(pixels, _scaled(height, width, scale), self.interpolation)
            return self._padded(inner)
        scale = max(scales) / self.crop_fraction
        outer_size = _scaled(height, width, scale, self.size)
        if math.prod(outer_size) > LARGEST:
            raise UnreadablePictureError(
                f"too long and thin to be cropped: {width} x {height} pixels; set the mode to"
                " letterbox or squash"
            )
        outer = resize(pixels, outer_size, self.interpolation)
        top = round((outer.shape[-2] - target_height) / 2)
        left = round((outer.shape[-1] - target_width) / 2)
        return outer[..., top : top + target_height, left : left + target_width]

    def region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Which part of a picture of this size the network sees: left, top, right, bottom, pixels.

        With letterbox it is more than the picture.
        """
        if self.mode == "squash" or ((height, width) == self.size and self.crop_fraction == 1):
            return 0.0, 0.0, float(width), float(height)
        target_height, target_width = self.size
        scales = target_height / height, target_width / width
        scale = min(scales) if self.mode == "letterbox" else max(scales) / self.crop_fraction
        half_width, half_height = target_width / scale / 2, target_height / scale / 2
        x, y = width / 2, height / 2
        return x - half_width, y - half_height, x + half_width, y + half_height

    def _padded(self, inner: torch.Tensor) -> torch.Tensor:
        height, width = self.size
        fill = torch.tensor([round(255 * value) for value in self.mean], dtype=torch.uint8)
        canvas = fill[None, :, None, None].repeat(len(inner), 1, height, width)
        top, left = (height - inner.shape[-2]) // 2, (width - inner.shape[-1]) // 2
        canvas[..., top : top + inner.shape[-2], left : left + inner.shape[-1]] = inner
        return canvas

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Network input (N, C, H, W), float32, from uint8 or from floats in [0, 1]."""
        floats = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels
        if any(self.mean):
            floats = floats - torch.tensor(self.mean).view(1, -1, 1, 1)
        if any(value != 1 for value in self.std):
            floats = floats / torch.tensor(self.std).view(1, -1, 1, 1)
        return floats

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (N, C, H, W) of any one size to network input."""
        return self.normalise(self.fit(pixels))


def _scaled(
    height: int, width: int, scale: float, least: tuple[int, int] = (1, 1)
) -> tuple[int, int]:
    # The small term keeps an exact product such as 256 from being cut to 255 by rounding error.
    return (
        max(least[0], int(height * scale + 1e-6)),
        max(least[1], int(width * scale + 1e-6)),
    )


def resize(pixels: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """uint8 pictures (N, C, H, W) resized with antialiasing, uint8."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    if interpolation == "nearest":
        return F.interpolate(pixels, size, mode="nearest-exact")
    return F.interpolate(pixels, size, mode=interpolation, antialias=True)
