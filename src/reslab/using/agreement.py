"""Whether an exported file says what `predict` says, picture by picture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from reslab.errors import InputError
from reslab.networks.contract import Contract
from reslab.pictures.reading import Track, in_threads
from reslab.using.classifier import Classifier
from reslab.using.prediction import Prediction
from reslab.using.probe import Probe
from reslab.using.read_picture import read_picture

TOLERANCE = 1e-4  # of a probability
_PART = 32  # pictures a forward pass

Run = Callable[[np.ndarray], np.ndarray]  # pixels (N, C, H, W) to probabilities (N, classes)


@dataclass(frozen=True)
class Agreement:
    """Probabilities of the same pictures by `predict` and by an exported file.

    predicted, exported: (n, classes), both in the order of the model's classes.
    """

    probe: Probe
    classes: tuple[str, ...]
    predicted: np.ndarray
    exported: np.ndarray

    @property
    def largest_difference(self) -> float:
        return float(self._differences.max())

    @property
    def top1_equal(self) -> float:
        """The share of pictures with the same likeliest class."""
        return float(self._same_top.mean())

    @property
    def _differences(self) -> np.ndarray:
        # Not a number is as far away as can be.
        return np.asarray(np.nan_to_num(abs(self.predicted - self.exported).max(1), nan=1.0))

    @property
    def _same_top(self) -> np.ndarray:
        return np.asarray(self.predicted.argmax(1) == self.exported.argmax(1))

    def refuse(self, what: str) -> None:
        """Raise InputError naming the pictures on which the two do not agree, the worst first."""
        differences = self._differences
        bad = ~self._same_top | (differences > TOLERANCE)
        if not bad.any():
            return
        rows = [row for row in np.argsort(-differences, kind="stable") if bad[row]]
        raise InputError(
            f"{what}: not written, for it does not agree with predict on {len(rows):,} of"
            f" {len(differences):,} pictures ({self.probe.what}); a probability may differ by"
            f" {TOLERANCE:g}:",
            [self._told(row) for row in rows],
        )

    def _told(self, row: int) -> str:
        ours, theirs = self.predicted[row], self.exported[row]
        said = [f"{self.classes[each.argmax()]} {each.max():.6f}" for each in (ours, theirs)]
        return (
            f"{self.probe.names[row]}: {said[0]} by predict, {said[1]} by the export; largest"
            f" difference {self._differences[row]:.2g}"
        )


def compare(
    classifier: Classifier, run: Run, contract: Contract, probe: Probe, track: Track
) -> Agreement:
    """Every picture by both ways: `Classifier.stream`, and the reference reader and the file.

    Raises InputError naming a picture that cannot be read.
    """
    asked = classifier.asked(len(classifier.classes))
    kept: list[bytes] = []

    def datas() -> Iterator[bytes]:
        for row in track(range(len(probe)), "checking", len(probe)):
            kept.append(data := probe.read(row))
            yield data

    index = {name: column for column, name in enumerate(classifier.classes)}
    if set(contract.classes) != set(index):
        raise InputError("the contract's classes are not the model's")
    predicted, exported = [], []
    stream = classifier.stream(datas(), asked)
    for first in range(0, len(probe), _PART):
        predicted += _rows(islice(stream, _PART), index, probe, first)
        part, kept[:_PART] = kept[:_PART], []
        exported.append(run(read_all(contract, part, probe.names[first:])))
    columns = [contract.classes.index(name) for name in classifier.classes]
    return Agreement(
        probe, classifier.classes, np.stack(predicted), np.concatenate(exported)[:, columns]
    )


def read_all(contract: Contract, datas: Iterable[bytes], names: Sequence[str]) -> np.ndarray:
    """Pictures as the reference reader has them: uint8 (N, C, H, W).

    names: theirs, and perhaps more. Raises InputError naming a picture that it cannot read.
    """
    told: dict[str, Any] = contract.model_dump(mode="json")

    def read(item: tuple[str, bytes]) -> np.ndarray:
        try:
            return read_picture(told, item[1])
        except Exception as error:  # the codecs raise whatever a file makes them meet
            raise InputError(
                f"{item[0]}: the reader that goes with an export cannot read it ({error})"
            ) from None

    return np.stack(list(in_threads(read, zip(names, datas, strict=False))))


def _rows(
    found: Iterable[Prediction | InputError], index: dict[str, int], probe: Probe, first: int
) -> list[np.ndarray]:
    rows = []
    for number, one in enumerate(found, first):
        if isinstance(one, InputError):
            reason = str(one).removeprefix("picture: ")
            raise InputError(f"{probe.names[number]}: {reason}")
        row = np.zeros(len(index))
        for guess in one.top:
            row[index[guess.label]] = guess.probability
        rows.append(row)
    return rows
