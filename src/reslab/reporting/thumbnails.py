"""Pictures inside the page: small, as data, with where the network looked."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from reslab.errors import NoPlacesError
from reslab.judging.overlay import overlay
from reslab.networks.explaining import grad_cam, spatial_layer
from reslab.networks.model_file import Model
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Samples

_SHOWN = 192  # pixels of a side, at most
_SHARP = 64  # pixels of a side up to which a picture is kept as it is, pixel for pixel
_QUALITY = 82
_TOGETHER = 8  # pictures of a pass that is followed backwards


@dataclass(frozen=True)
class Thumbnail:
    """A picture of the page: its data URI, its size, and whether its pixels are to be seen."""

    data: str
    width: int
    height: int
    sharp: bool


def thumbnail(pixels: np.ndarray | Image.Image) -> Thumbnail:
    """Of uint8 (H, W, C), or of a picture."""
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    sharp = max(pixels.size) <= _SHARP
    data = io.BytesIO()
    if sharp:
        pixels.save(data, "PNG", optimize=True)
    else:
        pixels.thumbnail((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
        pixels.save(data, "JPEG", quality=_QUALITY)
    kind = "png" if sharp else "jpeg"
    text = base64.b64encode(data.getvalue()).decode()
    return Thumbnail(f"data:image/{kind};base64,{text}", pixels.width, pixels.height, sharp)


def seen(samples: Samples, rows: np.ndarray, model: Model) -> torch.Tensor:
    """These samples as the network sees them, not normalised: uint8 (n, C, H, W).

    Raises InputError if a picture is gone or has changed.
    """
    store = PixelStore(samples.take(rows), model.preprocessing)
    return store.take(torch.arange(len(rows)))


def where_it_looked(
    pixels: torch.Tensor, classes: np.ndarray, model: Model
) -> list[Image.Image] | None:
    """For each of pictures (n, C, H, W) what speaks for its class of `classes` (n,), drawn over it.

    None if the network has no layer that shows it.
    """
    x = model.preprocessing.normalise(pixels)
    try:
        layer = spatial_layer(model.network, x[:1])
    except NoPlacesError:
        return None
    drawn = []
    for start in range(0, len(x), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        marks = grad_cam(model.network, x[part], torch.from_numpy(classes[part]), layer)
        for picture, mark in zip(pixels[part], marks, strict=True):
            shown = picture.permute(1, 2, 0).numpy()
            if max(shown.shape[:2]) <= _SHARP:  # a coarse map on few pixels would hide them
                factor = -(-_SHARP // max(shown.shape[:2]))
                shown = shown.repeat(factor, 0).repeat(factor, 1)
            drawn.append(overlay(shown, mark))
    return drawn


def heat_map(table: np.ndarray) -> Thumbnail:
    """A large table of counts (classes, classes) as a picture: the darker, the larger the share."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    factor = max(1, 400 // len(table))
    shade = (255 * (1 - np.sqrt(share))).round().astype(np.uint8)
    picture = Image.fromarray(shade.repeat(factor, 0).repeat(factor, 1))
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    text = base64.b64encode(data.getvalue()).decode()
    return Thumbnail(f"data:image/png;base64,{text}", picture.width, picture.height, True)
