"""One look at every picture: whether it can be read, and what is odd is judged by."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image

from reslab.errors import InputError
from reslab.pictures.content import KEY, content_key
from reslab.pictures.copies.thumbs import DECODED, THUMB, picture_of, thumb
from reslab.pictures.decoding import Facts, UnreadablePictureError, examine
from reslab.pictures.files import printable
from reslab.pictures.reading import Track, in_threads
from reslab.pictures.table import Pictures, Samples

SHARP = 128  # pixels a side at which sharpness is judged
LOOK = np.dtype([
    ("width", "<i4"),
    ("height", "<i4"),
    ("orientation", "u1"),  # EXIF's
    ("dark", "u1"),  # the level that 5 % of the pixels lie below
    ("light", "u1"),  # the level that 5 % lie above
    ("spread", "<f4"),  # standard deviation of the levels
    ("colour", "<f4"),  # mean difference between a pixel's channels, in levels
    ("sharpness", "<f4"),  # energy of the edges, as a share of the picture's
])  # fmt: skip


@dataclass(frozen=True)
class Unread:
    """A picture that cannot be read."""

    split: str
    path: str
    label: int
    line: str
    reason: str


@dataclass(frozen=True)
class Looked:
    """All pictures that can be read, in the order of their splits, and what was seen of each.

    looks: LOOK (N,); formats: as Pillow names them; cameras: maker and model; thumbs: uint8
    (N, THUMB, THUMB).
    """

    pictures: Pictures
    unread: list[Unread]
    looks: np.ndarray
    formats: list[str]
    cameras: list[str]
    thumbs: torch.Tensor = field(repr=False)

    def __post_init__(self) -> None:
        splits = [(name, samples) for name, samples in self.pictures]
        places = [(name, samples, row) for name, samples in splits for row in range(len(samples))]
        object.__setattr__(self, "_places", places)
        labels = [samples.labels for _, samples in splits]
        object.__setattr__(self, "labels", np.concatenate(labels))
        object.__setattr__(self, "keys", np.concatenate([samples.keys for _, samples in splits]))

    labels: np.ndarray = field(init=False)
    keys: np.ndarray = field(init=False)
    _places: list[tuple[str, Samples, int]] = field(init=False, repr=False)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.pictures.classes

    def place(self, row: int) -> tuple[str, Samples, int]:
        """The split of a picture, its samples, and its row among them."""
        return self._places[row]

    def path(self, row: int) -> str:
        _, samples, own = self._places[row]
        return samples.paths[own]

    def split(self, row: int) -> str:
        return self._places[row][0]

    def line(self, row: int) -> str:
        _, samples, own = self._places[row]
        return samples.line(own)


def look_over(pictures: Pictures, track: Track) -> Looked:
    """Read every picture once. Raises InputError if none can be read."""
    splits: dict[str, Samples] = {}
    unread: list[Unread] = []
    looks, formats, cameras, thumbs = [], [], [], []
    for name, samples in pictures:
        keys = np.zeros(len(samples), KEY)
        kept = []
        found = in_threads(partial(_look, samples), range(len(samples)))
        for row, seen in enumerate(track(found, f"looking at {name}", len(samples))):
            if isinstance(seen, str):
                label, line = int(samples.labels[row]), samples.line(row)
                unread.append(Unread(name, samples.paths[row], label, line, seen))
                continue
            kept.append(row)
            keys[row], look, facts, small = seen
            looks.append(look)
            formats.append(facts.format)
            cameras.append(facts.camera)
            thumbs.append(small)
        if kept:
            splits[name] = replace(samples, keys=keys).take(np.array(kept))
    if not splits:
        raise InputError(
            f"{pictures.name}: no picture can be read:",
            [f"{one.path}: {one.reason}" for one in unread],
        )
    return Looked(
        replace(pictures, splits=splits),
        unread,
        np.array(looks, LOOK),
        formats,
        cameras,
        torch.from_numpy(np.stack(thumbs)),
    )


Seen = tuple[tuple[int, int], tuple[float, ...], Facts, np.ndarray]


def _look(samples: Samples, row: int) -> Seen | str:
    """Key, look, facts and thumb of a picture, or why it cannot be read."""
    if samples.pixels is not None:
        pixels = samples.pixels.one(row)
        facts = Facts("", pixels.shape[2], pixels.shape[1], 1, "")
        return content_key(pixels.numpy().tobytes()), *_seen(picture_of(pixels), facts)
    assert samples.files is not None
    try:
        data = samples.files.read(samples.paths[row])
        pixels, facts = examine(data, 3, DECODED)
    except (OSError, UnreadablePictureError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return printable(str(reason or error))
    return content_key(data), *_seen(picture_of(pixels), facts)


def _seen(picture: Image.Image, facts: Facts) -> tuple[tuple[float, ...], Facts, np.ndarray]:
    """A row of LOOK, the facts and the thumb of a picture, perhaps decoded smaller than it is."""
    grey = picture.convert("L")
    counts = np.array(grey.histogram())
    below = np.cumsum(counts) / counts.sum()
    levels = np.arange(256)
    mean = (counts * levels).sum() / counts.sum()
    variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
    small = picture.convert("RGB").resize((THUMB, THUMB), Image.Resampling.BOX)
    channels = np.asarray(small).astype(np.int16)
    look = (
        facts.width,
        facts.height,
        facts.orientation,
        int(np.searchsorted(below, 0.05)),
        int(np.searchsorted(below, 0.95)),
        float(variance**0.5),
        float((channels.max(2) - channels.min(2)).mean()),
        _sharpness(grey),
    )
    return look, facts, thumb(picture)


def _sharpness(picture: Image.Image) -> float:
    """How much of a picture's energy is in its edges: of the Laplacian at one size for all."""
    if max(picture.size) > SHARP:
        picture = picture.resize((SHARP, SHARP), Image.Resampling.BOX)
    values = np.asarray(picture, dtype=np.float32)
    if min(values.shape) < 3:
        return 1.0
    inner = values[1:-1, 1:-1]
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return float((around - 4 * inner).var() / (values.var() + 1))


def suffix_of(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).suffix.lower()
