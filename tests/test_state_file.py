"""Weights that a user names: what is no state dict is told apart, and torch's advice kept back."""

import gzip
import io
import pickle
import zipfile

import pytest
import torch
from torch import nn

from reslab.errors import InputError
from reslab.networks.state_file import read_state


def pytorch_file(value, **options) -> bytes:
    held = io.BytesIO()
    torch.save(value, held, **options)
    return held.getvalue()


def zipped(name: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as opened:
        opened.writestr(name, b"x")
    return held.getvalue()


class Payload:
    def __reduce__(self):
        return print, ("it ran",)


STATE = pytorch_file({"weight": torch.ones(3)})
FILES = {
    "a whole network": (pytorch_file(nn.Linear(2, 2)), "other things than tensors; save plain"),
    "a whole network, old": (
        pytorch_file(nn.Linear(2, 2), _use_new_zipfile_serialization=False), "other things than",
    ),
    "code in a PyTorch file": (pytorch_file({"weight": Payload()}), "other things than tensors"),
    "a pickle": (pickle.dumps({"weight": Payload()}), "a pickle that is damaged or holds"),
    "cut short": (STATE[:-100], "cut short or damaged; copy or download it again"),
    "damaged": (STATE.replace(b"data.pkl", b"data.pkx"), "unpack it and name the file inside"),
    "a zip": (zipped("weights.pth"), "unpack it and name the file inside"),
    "TorchScript": (zipped("net/code/net.py"), "TorchScript archive, which holds code"),
    "an error page": (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    "empty": (b"", "an empty file"),
    "gzip": (gzip.compress(STATE), "gzip archive; unpack it first"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "as Keras writes it"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    "JSON": (b'{"layers": 3}', "JSON text"),
    "text": (b"no weights", "neither safetensors nor a PyTorch file"),
    "a safetensors file cut short": (
        (20).to_bytes(8, "little") + b'{"w":{"dtype":"F32"}' + b"0000",
        "a safetensors file that is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_what_a_file_seems_to_be_is_said_and_nothing_unsafe_is_advised(what, tmp_path, capfd):
    data, expected = FILES[what]
    path = tmp_path / "权重.pth"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    for advice in ("weights_only", "arbitrary code", "trust", "add_safe_globals", "allowlist"):
        assert advice not in message
    assert "it ran" not in capfd.readouterr().out


def test_torch_itself_gives_the_advice_that_is_kept_back(tmp_path):
    """If it no longer did, the test above would say nothing."""
    path = tmp_path / "network.pth"
    path.write_bytes(FILES["a whole network"][0])
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_state_dict_is_read(wrapper, tmp_path):
    state = {"weight": torch.arange(3.0)}
    path = tmp_path / "good.pth"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    assert torch.equal(read_state(path)["weight"], state["weight"])
