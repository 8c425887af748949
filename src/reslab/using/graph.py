"""A trained model as a graph for other runtimes: uint8 pixels in, calibrated probabilities out."""

import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.errors import InputError
from reslab.networks.contract import BLANK, INPUT, KEY, OUTPUT, Contract
from reslab.networks.exported import needed, sealed
from reslab.networks.inference import averaged

PRODUCER = "reslab"
MEMBER = KEY  # the extra file of a torch.export archive that holds the contract


class Graph(nn.Module):
    """All from pixels to probabilities: what a contract says, around a network.

    Input uint8 (N, C, H, W), output float32 (N, classes).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        record = contract.preprocessing
        self.register_buffer("mean", torch.tensor(record.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(record.std).view(1, -1, 1, 1))
        self.averaging = contract.averaging
        self.temperature = contract.temperature

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels.float() / 255 - self.mean) / self.std
        return (averaged(self.network, x, self.averaging) / self.temperature).softmax(1)


def program(network: nn.Module, contract: Contract) -> torch.export.ExportedProgram:
    """A network's graph with a free batch size. Raises InputError if torch cannot follow it."""
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)
    graph = Graph(plain, contract).eval()
    example = torch.zeros(2, *contract.shape, dtype=torch.uint8)
    free = {"pixels": {0: torch.export.Dim("batch", min=1)}}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (example,), dynamic_shapes=free)
    except Exception as error:  # control flow that depends on values, a fixed batch size
        raise InputError(_cannot(contract, "torch.export", error)) from None


def as_onnx(exported: torch.export.ExportedProgram, contract: Contract) -> bytes:
    """An ONNX file with the contract in its metadata. Raises InputError for what ONNX has not."""
    needed("onnxscript", "onnx")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how it works inside
            made = torch.onnx.export(
                exported, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
        assert made is not None
        return with_contract(made.model_proto, contract)
    except Exception as error:  # an operation that ONNX has not, a file of over 2 GB
        raise InputError(_cannot(contract, "torch.onnx", error)) from None


def with_contract(model: Any, contract: Contract) -> bytes:
    """An ONNX model's bytes with the contract and its checksum in the metadata.

    What the exporter notes of this machine, such as paths of source files, is left out.
    """
    model.producer_name, model.producer_version = PRODUCER, contract.reslab
    graph = model.graph
    del model.metadata_props[:]
    for each in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.doc_string = ""
        del each.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    for end in (*graph.input, *graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, _text(contract.model_copy(update={"sha256": BLANK}))
    return sealed(model.SerializeToString(deterministic=True))


def as_archive(exported: torch.export.ExportedProgram, contract: Contract) -> bytes:
    """A torch.export archive (.pt2) with the contract as its extra file `reslab`."""
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={MEMBER: _text(contract)})
    return buffer.getvalue()


def contract_of_archive(path: Path) -> str | None:
    """The contract's text of a .pt2 file, or None where it is not one of ours."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"extra/{MEMBER}")]
            return archive.read(names[0]).decode() if len(names) == 1 else None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _text(contract: Contract) -> str:
    return json.dumps(contract.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)


def _cannot(contract: Contract, what: str, error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return f"network {contract.network}: {what} cannot express it ({lines[0].strip()[:300]})"
