"""Scoring a model on labelled pictures."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.disk import user_path
from reslab.errors import InputError, nearest
from reslab.judging.metrics import Judged, Score, measured, score
from reslab.judging.predictions import write_predictions
from reslab.learning.device import choose_device, set_up
from reslab.networks.inference import logits_of
from reslab.networks.model_file import Model, load_model
from reslab.options import refuse_unknown, taken, taking
from reslab.pictures.batches import evaluation_batches
from reslab.pictures.data_source import DataSource
from reslab.pictures.lists import SPLIT_NAMES
from reslab.pictures.reading import Track
from reslab.pictures.splitting import complete_splits, split_notes
from reslab.pictures.store import PixelStore
from reslab.pictures.table import Pictures, Samples, arrangement_of, joined
from reslab.process import computing
from reslab.run.display import Display
from reslab.run.folder import open_run
from reslab.run.looks import note_look


@dataclass(frozen=True)
class Evaluation:
    """A model's score on a split of some data."""

    data: str
    split: str
    score: Score
    classes: tuple[str, ...]
    samples: Samples = field(repr=False)
    logits: torch.Tensor = field(repr=False)
    measures: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return self.score.n

    @property
    def accuracy(self) -> float:
        return self.score.accuracy

    @property
    def loss(self) -> float:
        return self.score.loss

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "split": self.split,
            **self.measures,
            "notes": list(self.notes),
        }

    def write_predictions(self, path: str | Path) -> None:
        """Write path, label, prediction and probability of every sample as CSV."""
        temperature = self.measures["temperature"]
        write_predictions(Path(path), self.samples, self.classes, self.logits, temperature)


@taking(DataSource)
def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    batch_size: int = 256,
    quiet: bool = False,
    **options: Any,
) -> Evaluation:
    """Score a model on labelled pictures.

    split: "train", "validation", "test" or "all"; if None the test split, or all pictures where
        the data has none. Data that the model was trained on is split as it was then.
    Raises InputError if the data holds a class that the model does not know.
    """
    refuse_unknown(options, DataSource)
    computing()
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    source = DataSource.named(data, taken(options, DataSource))
    display = Display(quiet=quiet)
    loaded = load_model(model)
    device = choose_device(device)
    set_up(device)
    wanted = None if split is None else _split_name(split)
    pictures = _in_classes_of(loaded, source.open(loaded.classes))
    pictures = source.with_keys(pictures, display.track)
    pictures = _split_as_trained(loaded, pictures, display.track)
    name, samples = _choose(pictures, wanted)
    store = PixelStore(samples, loaded.preprocessing).fill(
        track=display.track, what=f"reading {name}"
    )
    noted = _note_look(user_path(model), samples, pictures.splits.get("test"), name)
    network = loaded.network.to(device)
    network = network.to(memory_format=torch.channels_last)
    batches = evaluation_batches(store, loaded.preprocessing, batch_size)
    logits, labels = logits_of(network, batches, device, loaded.averaging)
    left_out = [f"left out: {problem}" for problem in pictures.left_out]
    return Evaluation(
        data=pictures.name,
        split=name,
        score=score(logits, labels),
        classes=loaded.classes,
        samples=samples,
        logits=logits,
        measures=measured(logits, labels, Judged(samples, loaded.classes, loaded.temperature)),
        notes=(*pictures.notes, *split_notes(pictures), *left_out, *noted),
    )


def _note_look(model: Path, scored: Samples, test: Samples | None, split: str) -> tuple[str, ...]:
    """Count a look at the test pictures of a model's own run; what hindered it is to be noted.

    They are known by their contents and classes in their order, wherever they lie.
    """
    folder = model if model.is_dir() else model.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not (folder / "run.json").is_file():
        return ()
    try:
        own = open_run(folder).info.get("arrangement", {}).get("test")
        looked_at = (scored, test) if split == "all" and test is not None else (scored,)
        if own is not None and own in [arrangement_of(samples) for samples in looked_at]:
            note_look(folder, "evaluate", len(scored if split != "all" else looked_at[-1]))
    except (OSError, InputError) as error:
        return (f"this look at the test split is not counted in {folder}: {error}",)
    return ()


def _split_name(split: str) -> str:
    known = {**SPLIT_NAMES, "all": "all"}
    if split.lower() not in known:
        raise InputError(
            f"--split {split}: unknown{nearest(split, ('train', 'validation', 'test', 'all'))}"
        )
    return known[split.lower()]


def _in_classes_of(model: Model, pictures: Pictures) -> Pictures:
    """The same pictures with the model's class indices, matched by name."""
    index = {name: number for number, name in enumerate(model.classes)}
    held = {int(label) for _, samples in pictures for label in np.unique(samples.labels)}
    unknown = [pictures.classes[label] for label in sorted(held)]
    unknown = [name for name in unknown if name not in index]
    if unknown:
        raise InputError(
            f"{pictures.name}: the model does not know {len(unknown)} of its classes (it knows"
            f" {', '.join(model.classes[:10])}{', ...' if len(model.classes) > 10 else ''}):",
            [f"{name}{nearest(name, model.classes).split('; choose')[0]}" for name in unknown],
        )
    translate = np.array([index.get(name, -1) for name in pictures.classes], dtype=np.int64)
    splits = {
        name: replace(samples, labels=translate[samples.labels]) for name, samples in pictures
    }
    return replace(pictures, classes=model.classes, splits=splits)


def _split_as_trained(model: Model, pictures: Pictures, track: Track) -> Pictures:
    """Carve the splits again that training carved, if these are the pictures it saw."""
    origin = model.origin
    if origin is None or origin.fingerprint != pictures.fingerprint():
        if "test" in pictures.splits:
            return pictures
        return pictures.with_notes(
            "not the very data the model was trained on: if training pictures are among these,"
            " they flatter the score"
        )
    return complete_splits(pictures, origin.splitting, track)[0]


def _choose(pictures: Pictures, split: str | None) -> tuple[str, Samples]:
    if split is None:
        split = "test" if "test" in pictures.splits else "all"
    if split != "all":
        if split not in pictures.splits:
            have = ", ".join(name for name, _ in pictures)
            raise InputError(f"{pictures.name}: has no {split} split, only {have}; or --split all")
        return split, pictures.splits[split]
    return "all", joined([samples for _, samples in pictures])
