"""The table every later step works on: classes, and for each split its samples."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reslab.errors import InputError
from reslab.pictures.content import KEY
from reslab.pictures.files import Files
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.lists import SPLITS
from reslab.pictures.names import Names
from reslab.pictures.pixel_file import KeptPixels

_TOGETHER = 1 << 20  # rows that are hashed at a time


@dataclass(frozen=True)
class Samples:
    """Samples in order: names to show, class indices, and where their pixels come from.

    `files` (then `paths` are names in it) or `pixels` is given, or both once small files have been
    read; or `files` and `kept`, where there was no memory for these.
    `keys` holds a 128-bit hash of each sample's content once it has been read. `listed` is the list
    that names the samples, if one does, and `lines` are their lines in it.
    """

    paths: Names
    labels: np.ndarray
    files: Files | None = None
    pixels: HeldPixels | None = None
    kept: KeptPixels | None = None
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, KEY))
    listed: str = ""
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> "Samples":
        """The samples at these rows, in this order."""
        return replace(
            self,
            paths=self.paths.take(rows),
            labels=self.labels[rows],
            pixels=None if self.pixels is None else self.pixels.take(rows),
            kept=None if self.kept is None else self.kept.take(rows),
            keys=self.keys[rows] if len(self.keys) else self.keys,
            lines=self.lines[rows] if len(self.lines) else self.lines,
        )

    @property
    def draw_keys(self) -> np.ndarray:
        """What each sample's random numbers go by: uint64 (N,)."""
        return np.ascontiguousarray(self.keys["draw"])

    def where(self, row: int) -> str:
        """How a message names the sample."""
        return self.files.where(self.paths[row]) if self.files else self.paths[row]

    def line(self, row: int) -> str:
        """The list and line that name the sample, such as train.txt:12; "" where none does."""
        return f"{self.listed}:{self.lines[row]}" if len(self.lines) else ""


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several splits of one data set, one after another.

    Pixels are kept where all parts have them, of one size; files are read again where not.
    """
    pixels = HeldPixels.joined([part.pixels for part in parts])
    if pixels is None and any(part.files is None for part in parts):
        raise AssertionError("pictures without files are of one size")
    return Samples(
        Names.joined([part.paths for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].files,
        pixels,
        KeptPixels.joined([part.kept for part in parts]),
        np.concatenate([part.keys for part in parts]),
    )


def arrangement_of(samples: Samples) -> str:
    """SHA-256 over the contents and classes of samples in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(samples.keys).view(np.uint64).data)
    digest.update(np.ascontiguousarray(samples.labels.astype("<i8", copy=False)).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Pictures:
    """A data set: its classes, fixed once by name, and its splits.

    `notes` are things the user should hear that do not stop the work; `left_out` lists what cannot
    be read, `without` what a table of issues names.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Samples]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Samples]]:
        """(name, samples) of the splits that hold pictures, in their order."""
        return ((name, self.splits[name]) for name in SPLITS if name in self.splits)

    def counts(self) -> dict[str, int]:
        return {name: len(self.splits.get(name, ())) for name in SPLITS}

    def train(self) -> Samples:
        """The samples to learn from. Raises InputError where the data has none."""
        if "train" not in self.splits:
            have = ", ".join(name for name, _ in self)
            raise InputError(f"{self.name}: no train split (it has {have}); nothing to train on")
        return self.splits["train"]

    def fingerprint(self) -> str:
        """SHA-256 over the classes and every sample's content and class, whatever the split.

        It tells whether these are the pictures that a model was trained on, so that they can be
        split as they were then; `arrangement` tells whether they still stand where they stood.
        """
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        keys = np.concatenate([samples.keys["draw"] for _, samples in self])
        labels = np.concatenate([samples.labels for _, samples in self]).astype(np.uint64)
        order = np.lexsort((keys, labels))
        for start in range(0, len(order), _TOGETHER):
            rows = order[start : start + _TOGETHER]
            digest.update(np.stack([keys[rows], labels[rows]], axis=1).data)
        return digest.hexdigest()

    def arrangement(self) -> dict[str, str]:
        """For each split SHA-256 over its samples' contents and classes in their order."""
        return {name: arrangement_of(samples) for name, samples in self}

    def holding_back(self, *names: str) -> "Pictures":
        """The pictures without these splits."""
        kept = {name: samples for name, samples in self.splits.items() if name not in names}
        return replace(self, splits=kept)

    def with_notes(self, *notes: str) -> "Pictures":
        return replace(self, notes=(*self.notes, *notes))
