"""Small grey pictures, all of one size, by which pictures are compared."""

import numpy as np
import torch
from PIL import Image

from reslab.pictures.decoding import decode
from reslab.pictures.reading import Track, in_threads, read_picture
from reslab.pictures.table import Samples

THUMB = 64  # pixels a side
LEAST = 32  # pixels of the shorter side: with fewer, pictures are alike by chance, as digits are
DECODED = 2 * THUMB  # pixels that a large JPEG's sides keep at least


def picture_of(pixels: torch.Tensor) -> Image.Image:
    """Pixels uint8 (C, H, W), grey or RGB, as a Pillow picture."""
    values = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def thumb(picture: Image.Image) -> np.ndarray:
    """A picture in grey, squeezed to a square: uint8 (THUMB, THUMB); black if it is too small."""
    if min(picture.size) < LEAST:
        return np.zeros((THUMB, THUMB), np.uint8)
    grey = picture.convert("L")
    return np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX))


def thumbs_of(samples: Samples, track: Track) -> torch.Tensor:
    """Of all samples: uint8 (N, THUMB, THUMB). Raises InputError where one cannot be read."""
    found = np.empty((len(samples), THUMB, THUMB), np.uint8)

    def read(row: int) -> np.ndarray:
        pixels = read_picture(samples, row, 3, lambda data: decode(data, 3, DECODED))
        return thumb(picture_of(pixels))

    made = in_threads(read, range(len(samples)))
    for row, one in enumerate(track(made, "looking for copies", len(samples))):
        found[row] = one
    return torch.from_numpy(found)
