"""Where a run computes: chosen, named and set up."""

import platform
from pathlib import Path

import torch

from reslab.errors import InputError, nearest

KINDS = ("auto", "cpu", "cuda", "mps")


def choose_device(asked: str) -> str:
    """A torch device name for "auto", "cpu", "cuda", "cuda:1" or "mps"."""
    kind = asked.split(":")[0]
    if kind not in KINDS:
        raise InputError(f"--device {asked}: not a device{nearest(asked, KINDS)}")
    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: torch finds no Apple GPU here; use --device cpu")
    try:
        torch.empty(0, device=asked)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {asked}: torch cannot use it ({reason})") from None
    return asked


def device_name(device: str) -> str:
    """The device for a human: the processor's model and threads, or the GPU's name."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device == "mps":
        return "Apple GPU (mps)"
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"CPU ({model}, {torch.get_num_threads()} threads)"


def set_up(device: str) -> None:
    """The setting that pays on a GPU: the fastest kernels by trial. fp32 stays fp32, not TF32."""
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
