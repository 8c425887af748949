"""The sheet of samples as a network sees them in training: preview.png."""

from pathlib import Path

import numpy as np
import torch

from reslab.judging.charts import draw_sheet
from reslab.pictures.batches import TrainingBatches

SHOWN = 40


def draw_training_sheet(batches: TrainingBatches, classes: tuple[str, ...], path: Path) -> None:
    """Draw samples of every class in turn, as trained on in epoch 0, undoing the normalisation."""
    labels = batches.samples.labels
    rows = each_class_in_turn(labels, SHOWN)
    x = batches.inputs(torch.from_numpy(rows), epoch=0)
    mean = torch.tensor(batches.preprocessing.mean).view(1, -1, 1, 1)
    std = torch.tensor(batches.preprocessing.std).view(1, -1, 1, 1)
    pixels = ((x * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    height, width = batches.preprocessing.size
    draw_sheet(
        pixels.permute(0, 2, 3, 1).numpy(),
        [classes[labels[row]] for row in rows],
        path,
        f"as trained on: {len(classes)} classes, {height}x{width}",
    )


def each_class_in_turn(labels: np.ndarray, most: int) -> np.ndarray:
    """Rows: the first of each class, then the second of each, and so on."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return np.asarray(np.lexsort((labels, rank))[:most])
