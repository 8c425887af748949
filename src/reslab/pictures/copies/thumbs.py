"""Small grey pictures, all of one size, by which pictures are compared."""

import numpy as np
import torch
from PIL import Image

from reslab.pictures.decoding import decode, with_channels
from reslab.pictures.reading import Track, in_threads, read_picture
from reslab.pictures.table import Samples

THUMB = 64  # pixels a side
DECODED = 2 * THUMB  # pixels that a large JPEG's sides keep at least


def thumb(pixels: torch.Tensor) -> np.ndarray:
    """Of uint8 (C, H, W): squeezed to a square, uint8 (THUMB, THUMB)."""
    grey = with_channels(pixels[None], 1)[0, 0].numpy()
    return np.asarray(Image.fromarray(grey).resize((THUMB, THUMB), Image.Resampling.BOX))


def thumbs_of(samples: Samples, track: Track) -> torch.Tensor:
    """Of all samples: uint8 (N, THUMB, THUMB). Raises InputError where one cannot be read."""
    found = np.empty((len(samples), THUMB, THUMB), np.uint8)

    def read(row: int) -> np.ndarray:
        return thumb(read_picture(samples, row, 3, lambda data: decode(data, 3, DECODED)))

    made = in_threads(read, range(len(samples)))
    for row, one in enumerate(track(made, "looking for copies", len(samples))):
        found[row] = one
    return torch.from_numpy(found)
