"""Small labelled pictures that a network can tell apart."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(kind: int, number: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A noisy picture of one of three kinds that a network can tell apart: (height, width)."""
    rng = np.random.default_rng([kind, number])
    pixels = rng.integers(0, 90, (*size, 3))
    rows, columns = np.indices(size)
    mark = [rows < size[0] // 2, columns < size[1] // 2, (rows + columns) % 4 < 2][kind]
    pixels[mark] += 140
    return Image.fromarray(pixels.astype(np.uint8))


CLASSES = ("猫", "狗", "bird")


def fill(folder: Path, per_class: int, classes=CLASSES, start: int = 0, size=(16, 16)) -> None:
    """Write `per_class` PNG pictures into a folder a class."""
    for kind, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + per_class):
            picture(kind, number, size).save(folder / name / f"{number:03d}.png")
