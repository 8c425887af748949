"""An exported network in 8-bit whole numbers, and what that costs, on the same pictures."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from reslab.errors import InputError
from reslab.judging.comparison import mcnemar
from reslab.networks.contract import INPUT, Contract
from reslab.networks.exported import needed
from reslab.using.graph import with_contract

LARGEST_LOSS = 0.02  # of accuracy: two points
CALIBRATED = 200  # pictures that the ranges of activations are taken from, at most
_HEAVY = ("Conv", "Gemm", "MatMul")
_QUANTISED = (*_HEAVY, "Add", "MaxPool", "Relu", "Clip", "GlobalAveragePool")


@dataclass(frozen=True)
class Cost:
    """What 8 bits cost on n labelled pictures, each judged both ways.

    lost, won: pictures that only fp32, or only int8, has right. p_value: of these two counts, if
        neither way were better (exact McNemar test).
    largest_difference, top1_equal: of the probabilities of the two, as an export's own.
    """

    n: int
    calibrated: int
    fp32_accuracy: float
    int8_accuracy: float
    changed: int
    lost: int
    won: int
    p_value: float
    largest_difference: float
    top1_equal: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def told(self) -> str:
        """In a sentence."""
        points = 100 * (self.fp32_accuracy - self.int8_accuracy)
        return (
            f"int8 costs {points:.2f} points: accuracy {self.int8_accuracy:.2%} where fp32 has"
            f" {self.fp32_accuracy:.2%} on the same {self.n:,} pictures ({self.lost} lost,"
            f" {self.won} won, p = {self.p_value:.2g}); {self.changed} likeliest classes changed,"
            f" largest difference of a probability {self.largest_difference:.2g}"
        )

    def refuse(self, what: str) -> None:
        """Raise InputError if it is more than two points."""
        if self.fp32_accuracy - self.int8_accuracy > LARGEST_LOSS:
            raise InputError(
                f"{what}: not written: {self.told()}; at most {100 * LARGEST_LOSS:g} points may be"
                " lost. Export without --int8"
            )


def cost(fp32: np.ndarray, int8: np.ndarray, labels: np.ndarray, calibrated: int) -> Cost:
    """Of the probabilities (n, classes) of the same pictures by both, and their labels (n,)."""
    one, other = fp32.argmax(1), int8.argmax(1)
    lost = int(((one == labels) & (other != labels)).sum())
    won = int(((one != labels) & (other == labels)).sum())
    return Cost(
        n=len(labels),
        calibrated=calibrated,
        fp32_accuracy=float((one == labels).mean()),
        int8_accuracy=float((other == labels).mean()),
        changed=int((one != other).sum()),
        lost=lost,
        won=won,
        p_value=mcnemar(lost, won),
        largest_difference=float(np.nan_to_num(abs(fp32 - int8), nan=1.0).max()),
        top1_equal=float((one == other).mean()),
    )


def quantised(data: bytes, pixels: np.ndarray, contract: Contract) -> bytes:
    """An ONNX file's twin with weights and activations in 8 bits, signed, a scale a channel.

    pixels: uint8 (N, C, H, W) of real pictures, from which the activations' ranges are taken.
    What comes after the last layer with weights, the average over views and the softmax, stays in
    float32. Method: onnxruntime's static quantisation.
    """
    tool = needed("onnxruntime.quantization", "onnx")
    onnx = needed("onnx")
    kinds = tool.QuantType
    with TemporaryDirectory() as folder, _quiet():
        given, taken = Path(folder) / "given.onnx", Path(folder) / "taken.onnx"
        given.write_bytes(data)
        tool.quantize_static(
            given,
            taken,
            _Batches(pixels),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            activation_type=kinds.QInt8,
            weight_type=kinds.QInt8,
            op_types_to_quantize=list(_QUANTISED),
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            nodes_to_exclude=_tail(onnx.load_from_string(data).graph),
        )
        return with_contract(onnx.load(taken), in_8_bits(contract))


def in_8_bits(contract: Contract, held: tuple[float, ...] = ()) -> Contract:
    """A contract for a quantised file; what fp32 gave validation pictures does not hold for it."""
    return contract.model_copy(update={"int8": True, "held": held})


def with_held(data: bytes, contract: Contract, held: tuple[float, ...]) -> bytes:
    """A quantised file that says what it gave validation pictures' own classes, rising."""
    onnx = needed("onnx")
    return with_contract(onnx.load_from_string(data), in_8_bits(contract, held))


class _Batches:
    """Pictures as the quantiser asks for them."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._parts: Iterator[np.ndarray] = iter(np.array_split(pixels, -(-len(pixels) // 16)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part}


def _tail(graph: Any) -> list[str]:
    """The names of the nodes from which no layer with weights is reached any more."""
    wanted: set[str] = set()
    tail = []
    for node in reversed(graph.node):  # the nodes stand in the order of their computation
        if node.op_type in _HEAVY or wanted & set(node.output):
            wanted |= set(node.input)
        else:
            tail.append(node.name)
    return tail


class _quiet:  # noqa: N801  # a context manager
    """The quantiser advises by the root logger, on what is settled here."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
