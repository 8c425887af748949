"""An exported network at work again: an ONNX file as a model, by onnxruntime."""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from reslab.disk import read_regular
from reslab.errors import InputError
from reslab.networks.catalogue import NetworkSpec
from reslab.networks.contract import BLANK, INPUT, KEY, OUTPUT, Contract
from reslab.networks.model_file import Model

SUFFIX = ".onnx"


def needed(*packages: str) -> Any:
    """Packages of the extra `onnx`, the first one returned. Raises InputError where one is not."""
    try:
        first, *_ = [import_module(name) for name in packages]
        return first
    except ImportError as error:
        missing = (error.name or str(error)).split(".")[0]
        raise InputError(
            f"ONNX needs the package {missing}, which is not here; type:"
            " pip install 'reslab[onnx]' (or pip install onnx onnxscript onnxruntime)"
        ) from None


def open_session(data: bytes, path: Path) -> Any:
    """onnxruntime's session of a file's bytes, on the CPU. Raises InputError if it takes them not.

    Of bytes, so that a hostile file cannot name others to be read.
    """
    ort = needed("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning take the cores from torch's, and from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a damaged file makes the library meet
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{path}: not a readable ONNX file ({reason})") from None


def sealed(data: bytes) -> bytes:
    """A file whose contract has a blank checksum, with the checksum in its place."""
    blank = BLANK.encode()
    if data.count(blank) != 1:
        raise AssertionError("the contract holds the one blank")
    return data.replace(blank, hashlib.sha256(data).hexdigest().encode())


def read_exported(path: Path) -> tuple[Any, Contract]:
    """(session, contract) of an ONNX file that reslab wrote.

    Raises InputError if it is missing, damaged, or another's.
    """
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such model file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    session = open_session(data, path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise InputError(
            f"{path}: an ONNX file without reslab's contract (classes, preprocessing) in its"
            " metadata; only files that `reslab export` wrote can be used"
        )
    contract = read_contract(text, path)
    digest = contract.sha256.encode()
    if len(digest) != len(BLANK) or data.count(digest) != 1:
        raise InputError(f"{path}: its contract carries no checksum; not as reslab wrote it")
    if hashlib.sha256(data.replace(digest, BLANK.encode())).hexdigest() != contract.sha256:
        raise InputError(f"{path}: damaged: its checksum does not fit what it holds")
    _refuse_other_ends(session, contract, path)
    return session, contract


def read_contract(text: str, path: Path) -> Contract:
    """The contract of a file's metadata. Raises InputError naming what is wrong in it."""
    try:
        return Contract.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: contract field {field}: {first['msg']}") from None


def _refuse_other_ends(session: Any, contract: Contract, path: Path) -> None:
    found = [(end.name, end.type, tuple(end.shape)[1:])
             for end in (*session.get_inputs(), *session.get_outputs())]  # fmt: skip
    wanted = [
        (INPUT, "tensor(uint8)", contract.shape),
        (OUTPUT, "tensor(float)", (len(contract.classes),)),
    ]
    if found != wanted:
        raise InputError(f"{path}: the graph has {found} where its contract says {wanted}")


def load_exported(path: Path) -> Model:
    """A model whose network is run by onnxruntime. Raises InputError as `read_exported` does."""
    session, contract = read_exported(path)
    channels, *_ = contract.shape
    return Model(
        ExportedNetwork(session, contract, path).eval(),
        NetworkSpec(contract.network, len(contract.classes), channels, contract.preprocessing.size),
        contract.classes,
        contract.preprocessing,
        contract.origin,
        "none",  # over views the graph averages by itself
        contract.temperature,
        contract.held,
    )


class ExportedNetwork(nn.Module):
    """An exported graph in a network's place: normalised pictures (N, C, H, W) to class scores.

    The graph normalises and divides by the temperature by itself, so its input is put back to
    pixels, which is exact, and its probabilities to scores that give them again.
    """

    def __init__(self, session: Any, contract: Contract, path: Path) -> None:
        super().__init__()
        self._session, self._path = session, path
        self._mean = torch.tensor(contract.preprocessing.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(contract.preprocessing.std).view(1, -1, 1, 1)
        self._temperature = contract.temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        floats = x.cpu() * self._std + self._mean
        pixels = (floats * 255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
        found = run(self._session, pixels, self._path)
        least = torch.finfo(torch.float32).tiny
        scores = torch.from_numpy(found).double().clamp(min=least).log() * self._temperature
        return scores.float().to(x.device)

    def __deepcopy__(self, memo: Any) -> "ExportedNetwork":
        return self  # a session cannot be copied, and does not change

    def __reduce__(self) -> NoReturn:
        raise TypeError("an exported network is its file; load it again")


def run(session: Any, pixels: np.ndarray, path: Path) -> np.ndarray:
    """Probabilities (N, classes) of pixels (N, C, H, W). Raises InputError if it cannot be run."""
    if not isinstance(pixels, np.ndarray):  # such as what torch traces by: it would crash
        raise TypeError(f"{type(pixels).__name__} is no array of pixels")
    try:
        return np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])
    except Exception as error:  # a graph that is none of ours
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{path}: onnxruntime cannot run it ({reason})") from None
