"""Weights as a file that the user names: read as plain tensors, or told apart from what it is."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from reslab.errors import InputError
from reslab.networks.model_file import is_safetensors

State = dict[str, torch.Tensor]

_SAVE_PLAIN = "save plain tensors where it was made: torch.save(network.state_dict(), FILE)"
_FETCH = "copy or download it again"
# How files begin that people name in the place of weights: (where, bytes, what it is, what to do).
_BEGINNINGS = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it", "convert it to safetensors"),
    (0, b"GGUF", "a GGUF file of a language model", "name weights of an image network"),
    (0, b"\x93NUMPY", "a NumPy array", "save a state dict as safetensors"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (0, b"Rar!", "a rar archive", "unpack it first"),
    (0, b"\x89PNG", "a PNG picture", "name a file of weights"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "name a file of weights"),
    (0, b"%PDF", "a PDF document", "name a file of weights"),
    (0, b"{", "JSON text", "name the file of the weights themselves"),
    (257, b"ustar", "a tar archive, or a PyTorch file from before 2018", _SAVE_PLAIN),
)


def read_state(path: Path) -> State:
    """A state dict from a safetensors file, or from a PyTorch file read with `weights_only`.

    Raises InputError saying what any other file seems to be; nothing in it is ever executed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    import safetensors
    import safetensors.torch

    found: Any
    if is_safetensors(path):
        try:
            found = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise InputError(
                f"{path}: a safetensors file that is cut short or damaged ({error}); {_FETCH}"
            ) from None
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # unpickling a damaged file raises anything
            # torch's own message advises to load the file in a way that runs what is in it.
            raise InputError(f"{path}: {_seems_to_be(path)}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: holds no state dict (names and tensors)")
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{path}: holds other things than tensors; {_SAVE_PLAIN}")
    return {str(key): value for key, value in found.items()}


def _seems_to_be(path: Path) -> str:
    """What a file that holds no readable weights seems to be, and what to do."""
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return f"an empty file; {_FETCH}"
    if start.lstrip()[:14].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"a web page, perhaps a site's error saved under this name; {_FETCH}"
    for place, mark, what, advice in _BEGINNINGS:
        if start[place:].startswith(mark):
            return f"{what}; {advice}"
    if start.startswith(b"PK"):
        return _seems_zip(path)
    if start.startswith(b"\x80"):
        return f"a pickle that is damaged or holds other things than tensors; {_SAVE_PLAIN}"
    return f"neither safetensors nor a PyTorch file, or damaged; {_FETCH}"


def _seems_zip(path: Path) -> str:
    """PyTorch's files are zips since 2020."""
    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    # All that zipfile raises of damaged bytes, the last of versions that these seem to ask for.
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        return f"a PyTorch file or another zip that is cut short or damaged; {_FETCH}"
    if any("/code/" in name for name in names):
        return f"a TorchScript archive, which holds code; {_SAVE_PLAIN}"
    if any(name.endswith("data.pkl") for name in names):
        return f"a PyTorch file that is damaged or holds other things than tensors; {_SAVE_PLAIN}"
    return "a zip archive without PyTorch's weights; unpack it and name the file inside"
