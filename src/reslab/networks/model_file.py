"""The model file: safetensors whose header carries architecture, classes and preprocessing."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from reslab.disk import user_path, write_safely
from reslab.errors import InputError
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.pictures.files import has_control_characters
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.settings import Averaging, Size, Splitting, Together

FORMAT = 1
MODEL_FILE = "model.safetensors"
_BLANK = 64 * "0"  # in the place of the checksum, while it is computed
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it


class SplitOrigin(BaseModel):
    """How the training data was split, so that a later evaluation can find the test part again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    validation: float
    test: float
    seed: int
    together: Together = "identical"

    @property
    def splitting(self) -> Splitting:
        return Splitting(self.validation, self.test, self.seed, self.together)


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=False)

    format: int
    network: str
    channels: int
    size: Size
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    averaging: Averaging = "none"
    origin: SplitOrigin | None = None
    # 0.1.0 knew neither.
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    held: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()


@dataclass(frozen=True)
class Model:
    """A trained network with all it needs to be used.

    averaging: over which views of a picture its class scores are averaged.
    temperature: what its class scores are divided by before they become probabilities.
    held: the probability that each validation picture's own class was then given, rising.
    """

    network: nn.Module
    spec: NetworkSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    origin: SplitOrigin | None = None
    averaging: Averaging = "none"
    temperature: float = 1.0
    held: tuple[float, ...] = ()


def save_model(path: Path, state: dict[str, torch.Tensor], model: Model) -> None:
    """Write a state with a model's description. The same content gives the same bytes."""
    header = {
        "format": FORMAT,
        "network": model.spec.name,
        "channels": model.spec.channels,
        "size": model.spec.size,
        "classes": model.classes,
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "averaging": model.averaging,
        "origin": model.origin.model_dump(mode="json") if model.origin else None,
        "temperature": model.temperature,
        "held": model.held,
    }
    write_safely(path, tensor_file(state, header))


def tensor_file(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> bytes:
    """safetensors with our JSON header, which carries a SHA-256 of all the file says."""
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # Of the very text: another one may be read as the same numbers.
    text = json.dumps(header | {"sha256": _BLANK}, ensure_ascii=False, sort_keys=True)
    text = text.replace(_BLANK, _digest(plain, text))
    return safetensors.torch.save(plain, {"reslab": text})


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, our JSON header) of a file reslab wrote. Raises InputError for any other file."""
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        _refuse_strange(path)
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            # An opened file is no dictionary: it cannot be iterated over itself.
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except InputError:
        raise
    except Exception as error:  # whatever a hostile file makes the library meet
        raise InputError(f"{path}: not a readable model file ({error})") from None
    try:
        header = json.loads(metadata["reslab"], object_pairs_hook=_no_key_twice)
    except (KeyError, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(
            f"{path}: safetensors without reslab's header (architecture, classes, preprocessing);"
            " to start from such weights use train --weights"
        )
    found = header.pop("sha256", None)
    if not isinstance(found, str) or len(found) != len(_BLANK):
        raise InputError(f"{path}: carries no checksum; written by an earlier reslab or not by it")
    if found != _digest(tensors, metadata["reslab"].replace(found, _BLANK)):
        raise InputError(f"{path}: damaged: its checksum does not fit what it holds")
    return tensors, header


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON object, and the object.

    The length alone may look like any other kind's first bytes. Raises OSError.
    """
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size - 8)


def _refuse_strange(path: Path) -> None:
    """Look at a file's beginning before anything else reads it."""
    if not is_safetensors(path):
        with path.open("rb") as file:
            start = file.read(262)
        if path.suffix == ".pt2":
            raise InputError(
                f"{path}: a program of torch.export, which torch.export.load opens; name the run it"
                " was exported from, or export it as ONNX"
            )
        # A zip, a pickle of protocol 2 or later, or a tar: PyTorch's formats, by their age.
        if start[:2] == b"PK" or start[:1] == b"\x80" or start[257:] == b"ustar":
            raise InputError(
                f"{path}: this is a pickle (a PyTorch .pt or .pth file), which can run code on"
                " loading; reslab opens only its own model.safetensors"
            )
        raise InputError(f"{path}: not a model file (no safetensors header)")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    try:
        json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a model file (its header: {error})") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _digest(tensors: dict[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"\0{key} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_path(location: str | Path) -> Path:
    """The file of a model that may be named by its run folder. Raises InputError if it has none."""
    path = user_path(location)
    if not path.is_dir():
        return path
    if not (path / MODEL_FILE).is_file():
        raise InputError(f"{path}: a folder without {MODEL_FILE}; is it a finished run?")
    return path / MODEL_FILE


def load_model(location: str | Path) -> Model:
    """A model from a run folder, its model file or an ONNX export; nothing in it is executed.

    Raises InputError if it is missing, damaged, or not a model.
    """
    path = model_path(location)
    if path.suffix.lower() == ".onnx":
        from reslab.networks.exported import load_exported  # it needs the extra `onnx`

        return load_exported(path)
    tensors, found = read_tensors(path)
    try:
        header = _Header.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: header field {field}: {first['msg']}") from None
    if header.format != FORMAT:
        raise InputError(f"{path}: model format {header.format}; this reslab reads {FORMAT}")
    if len(header.classes) < 2 or len(set(header.classes)) != len(header.classes):
        raise InputError(f"{path}: the header's classes are too few or repeat")
    if any(has_control_characters(name) for name in header.classes):
        raise InputError(f"{path}: the header's classes hold control characters")
    inputs = header.preprocessing
    if (header.channels, header.size) != (inputs.channels, inputs.size):
        raise InputError(f"{path}: the header's network and preprocessing disagree on the input")
    spec = NetworkSpec(header.network, len(header.classes), header.channels, header.size)
    try:
        network = build_network(spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    _check_state(path, tensors, network.state_dict())
    network.load_state_dict(tensors, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Model(
        network.eval(),
        spec,
        header.classes,
        header.preprocessing,
        header.origin,
        header.averaging,
        header.temperature,
        tuple(sorted(header.held)),
    )


def _check_state(
    path: Path, tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> None:
    problems = [f"{key}: missing" for key in wanted if key not in tensors]
    problems += [f"{key}: unknown" for key in tensors if key not in wanted]
    for key, value in tensors.items():
        if key not in wanted:
            continue
        if value.shape != wanted[key].shape or value.dtype != wanted[key].dtype:
            problems.append(
                f"{key}: {tuple(value.shape)} {value.dtype} where the network has"
                f" {tuple(wanted[key].shape)} {wanted[key].dtype}"
            )
        elif value.is_floating_point() and not bool(value.isfinite().all()):
            problems.append(f"{key}: holds NaN or infinity")
    if problems:
        raise InputError(f"{path}: the weights do not fit the header's network:", problems)
