"""A trained model as a file for other runtimes, written only if it says what `predict` says."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import torch

from reslab.disk import refuse_foreign, user_path, write_safely
from reslab.errors import InputError, nearest
from reslab.networks.contract import Contract, contract_of
from reslab.networks.exported import needed, read_exported, run
from reslab.networks.model_file import MODEL_FILE
from reslab.run.display import Display
from reslab.using import read_picture
from reslab.using.agreement import Agreement, Run, compare, read_all
from reslab.using.classifier import Classifier
from reslab.using.graph import (
    PRODUCER,
    as_archive,
    as_onnx,
    contract_of_archive,
    program,
)
from reslab.using.probe import Probe, probe_of
from reslab.using.quantising import CALIBRATED, Cost, cost, quantised, with_held

Format = Literal["onnx", "torch"]
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
READER = "read_picture.py"


@dataclass(frozen=True)
class Export:
    """A file that was written, and on how many pictures it was held against `predict`.

    reader: the reference reader beside it. largest_difference: of any probability.
    top1_equal: the share of pictures with the same likeliest class; 1 always, the gate holds.
    int8: what 8 bits cost; the two above are then of the fp32 graph it was made of.
    agreement: all the probabilities behind it, of both ways, by picture.
    """

    path: Path
    format: str
    reader: Path
    pictures: str
    checked: int
    largest_difference: float
    top1_equal: float
    agreement: Agreement = field(repr=False)
    int8: Cost | None = None

    def as_dict(self) -> dict[str, Any]:
        found = {
            "path": str(self.path),
            "format": self.format,
            "reader": str(self.reader),
            "pictures": self.pictures,
            "checked": self.checked,
            "largest_difference": self.largest_difference,
            "top1_equal": self.top1_equal,
        }
        return found if self.int8 is None else found | {"int8": self.int8.as_dict()}


def export(
    model: str | Path,
    *,
    format: str = "onnx",
    out: str | Path | None = None,
    int8: bool = False,
    check: str | Path | None = None,
    quiet: bool = False,
) -> Export:
    """Write a model as ONNX or torch.export file: uint8 pixels in, calibrated probabilities out.

    The file is written only if it agrees with `predict` on real pictures, and on a few of them made
    smaller: the same likeliest class on all, no probability further away than 1e-4. Its metadata
    holds the contract, and beside it is written read_picture.py, which makes its input of files.

    format: "onnx" or "torch".
    out: the file; beside the model if None.
    int8: quantise weights and activations; costs accuracy, which is measured and said.
    check: a folder of pictures to check on; those of the run's validation split if None.
    Raises InputError if it does not agree, naming the pictures; nothing is then written.
    """
    suffix = _suffix(format, int8)
    given = user_path(model)
    if given.suffix.lower() in SUFFIXES.values():
        raise InputError(f"{given}: is an export already; export the run it came from")
    if format == "onnx":
        needed("onnxruntime", "onnx", "onnxscript")
    classifier = Classifier.load(given, "cpu")
    source = given / MODEL_FILE if given.is_dir() else given
    path = source.with_suffix(suffix) if out is None else user_path(out)
    _refuse_to_write(path, format)
    display = Display(quiet=quiet)
    probe = probe_of(given, classifier.model, check, display.track)
    if int8 and probe.labels is None:
        raise InputError(
            f"--int8: what it costs is judged on labelled pictures, and {probe.what} has not a"
            " folder for each class"
        )
    contract = contract_of(classifier.model)
    data = _made(classifier, contract, format)
    with TemporaryDirectory() as folder:
        held = Path(folder) / f"checked{SUFFIXES[format]}"
        held.write_bytes(data)
        by_file = runner(held, format)
        agreement = compare(classifier, by_file, contract, probe, display.track)
        agreement.refuse(str(path))
        smaller = probe.at_another_size()
        compare(classifier, by_file, contract, smaller, display.track).refuse(str(path))
        paid = None
        if int8:
            data, paid = _int8(data, held, contract, agreement)
            display.say(paid.told())
            paid.refuse(str(path))
    reader = path.with_name(READER)
    write_safely(reader, _reader_text())
    write_safely(path, data)
    return Export(
        path, format, reader, probe.what, len(probe),
        agreement.largest_difference, agreement.top1_equal, agreement, paid,
    )  # fmt: skip


def runner(path: Path, format: str) -> Run:
    """How to run an exported file: pixels (N, C, H, W) to probabilities (N, classes)."""
    if format == "onnx":
        session = read_exported(path)[0]
        return lambda pixels: run(session, pixels, path)
    graph = torch.export.load(path).module()

    def by_torch(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: torch.Tensor = graph(torch.from_numpy(pixels))
        return found.numpy()

    return by_torch


def _suffix(format: str, int8: bool) -> str:
    if format not in SUFFIXES:
        raise InputError(f"--format {format}: unknown{nearest(format, get_args(Format))}")
    if int8 and format != "onnx":
        raise InputError("--int8 goes with --format onnx: onnxruntime quantises")
    return f".int8{SUFFIXES[format]}" if int8 else SUFFIXES[format]


def _refuse_to_write(path: Path, format: str) -> None:
    """Raise InputError for a name that does not fit, and for others' files."""
    if path.suffix != SUFFIXES[format]:
        raise InputError(f"--out {path}: name it with the ending {SUFFIXES[format]}")

    def is_ours(start: bytes) -> bool:
        if format == "torch":
            return contract_of_archive(path) is not None
        return PRODUCER.encode() in start[:64]

    refuse_foreign(path, "--out", is_ours, f"an export of reslab's ({format})")
    first = _reader_text().splitlines()[0]
    reader = path.with_name(READER)
    refuse_foreign(reader, "--out:", lambda start: start.startswith(first), "our picture reader")


def _reader_text() -> bytes:
    return Path(read_picture.__file__).read_bytes()


def _made(classifier: Classifier, contract: Contract, format: str) -> bytes:
    exported = program(classifier.model.network, contract)
    return as_onnx(exported, contract) if format == "onnx" else as_archive(exported, contract)


def _int8(data: bytes, held: Path, contract: Contract, agreement: Agreement) -> tuple[bytes, Cost]:
    """The file in 8 bits, and what it costs on the pictures the fp32 file was checked on."""
    probe: Probe = agreement.probe
    labels = probe.labels
    assert labels is not None

    def pixels(rows: np.ndarray) -> np.ndarray:
        picked = rows.tolist()
        names = [probe.names[row] for row in picked]
        return read_all(contract, map(probe.read, picked), names)

    every = np.arange(len(probe))
    few = np.unique(np.linspace(0, len(probe) - 1, min(len(probe), CALIBRATED)).round())
    small = quantised(data, pixels(few.astype(int)), contract)
    held.write_bytes(small)
    by_int8 = runner(held, "onnx")
    parts = np.array_split(every, -(-len(probe) // 32))
    found = np.concatenate([by_int8(pixels(part)) for part in parts])
    if probe.held_out:  # sets are of the probabilities that this file gives
        own = sorted(float(f"{value:.7g}") for value in found[every, labels])
        small = with_held(small, contract, tuple(own))
    return small, cost(agreement.exported, found, labels, len(few))
