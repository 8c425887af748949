"""Many pictures predicted so that a row depends on its picture alone, whatever stands beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reslab.errors import InputError
from reslab.using.classifier import BATCH, Classifier, PictureLike
from reslab.using.prediction import Prediction, told
from reslab.using.tables import Columns


class Predictor:
    """A model for many pictures, in any number of threads and processes.

    Each forward pass has 32 pictures, blank ones where there are fewer, because the last digits
    of a row depend on how many pass together (LOG.md) and on nothing else around it.

    Ray Data takes the class as it is: `map_batches(Predictor, fn_constructor_args=(model,))`.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        *,
        top: int = 5,
        unknown_below: float | None = None,
        coverage: float | None = None,
        raw: bool = False,
    ) -> None:
        """As `Classifier.load` and `Classifier.predict` take them. Raises InputError."""
        self.classifier = Classifier.load(model, device)
        # Kernels chosen by trial might be others in the next process, and give other last digits.
        torch.backends.cudnn.benchmark = False
        self.asked = self.classifier.asked(
            top, unknown_below=unknown_below, coverage=coverage, raw=raw
        )
        self.columns = Columns.asked(self.asked, len(self.classifier.classes))

    def rows(
        self, names: Sequence[str], pictures: Sequence[PictureLike | InputError] | None = None
    ) -> list[list[Any]]:
        """The cells of a table's rows, one for each picture, in passes of 32.

        pictures: those that are called so, or why they cannot be read; if None they are read from
        the paths that are named.
        """
        held: Sequence[PictureLike | InputError] = names if pictures is None else pictures
        found: list[Prediction | InputError] = []
        for start in range(0, len(names), BATCH):
            found += self._passed(names[start : start + BATCH], held[start : start + BATCH])
        return [self.columns.row(name, one) for name, one in zip(names, found, strict=True)]

    def _passed(
        self, names: Sequence[str], pictures: Sequence[PictureLike | InputError]
    ) -> list[Prediction | InputError]:
        read = [
            one if isinstance(one, InputError) else self.classifier.read(one, name)
            for one, name in zip(pictures, names, strict=True)
        ]
        inputs = [item for item in read if isinstance(item, torch.Tensor)]
        if not inputs:
            return [item for item in read if isinstance(item, InputError)]
        blanks = [torch.zeros_like(inputs[0])] * (BATCH - len(inputs))
        table = iter(self.classifier.rows([*inputs, *blanks], self.asked.temperature))
        classes = self.classifier.classes
        return [
            item if isinstance(item, InputError) else told(name, next(table), classes, self.asked)
            for name, item in zip(names, read, strict=True)
        ]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of columns as Ray Data has them: `path`, and `bytes` where it has read the files.

        Returns the columns of the table that `reslab predict --out` writes.
        """
        names = [str(name) for name in batch["path"]]
        rows = self.rows(names, list(batch["bytes"]) if "bytes" in batch else None)
        return {
            name: [row[column] for row in rows] for column, name in enumerate(self.columns.names())
        }
