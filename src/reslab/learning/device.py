"""Where a run computes: chosen, named and set up."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from reslab.errors import InputError, nearest
from reslab.process import launched, processes_here

KINDS = ("auto", "cpu", "cuda", "mps")
# In torch's own words: on a CPU, there on Windows, of CUDA and of cuBLAS.
_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # mallopt's, from malloc.h of the GNU C library


def choose_device(asked: str) -> str:
    """A torch device name for "auto", "cpu", "cuda", "cuda:1" or "mps"."""
    kind = asked.split(":")[0]
    if kind not in KINDS:
        raise InputError(f"--device {asked}: not a device{nearest(asked, KINDS)}")
    if launched() and asked in ("auto", "cuda") and torch.cuda.is_available():
        return _own_gpu()
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


def _own_gpu() -> str:
    """The GPU of this process among those that torchrun has started on this machine."""
    if processes_here() > torch.cuda.device_count():
        raise InputError(
            f"torchrun has started {processes_here()} processes on a machine with"
            f" {torch.cuda.device_count()} GPU(s): start as many as there are, or add --device cpu"
        )
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    return device


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
    """What pays on a device: on a GPU the fastest kernels by trial (fp32 stays fp32, not TF32); on
    a CPU memory that is kept for the next tensor."""
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        # torch puts an object with these parts in the module's place, which mypy does not see.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    elif device == "cpu":
        keep_freed_memory()


@contextmanager
def computing_exactly(exactly: bool, device: str) -> Iterator[None]:
    """Inside the block, if asked, nothing but the numbers themselves decides on a bit of a result.

    On a CPU one thread computes, for sums over several depend on their number; on a GPU kernels are
    not chosen by trial, and only those that give the same result each time.
    """
    if not exactly:
        yield
        return
    threads, kernels = torch.get_num_threads(), torch.backends.cudnn
    before = kernels.benchmark, torch.are_deterministic_algorithms_enabled()
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        kernels.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        kernels.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1])


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    kinds = MemoryError | torch.OutOfMemoryError
    return isinstance(error, kinds) or any(words in str(error) for words in _NO_MEMORY)


def keep_freed_memory() -> None:
    """Let the allocator keep up to 1 GiB of freed memory instead of giving it back at once.

    The GNU C library maps every large tensor anew and unmaps it when it is freed, so that the
    system fills pages with zeros all the time: without that a forward pass of a ResNet-50 was 1.4
    times as fast, a step of mnist-cnn 1.7 times (LOG.md). Does nothing elsewhere, or where the user
    has set the allocator up by its own variables.
    """
    own = [name for name in os.environ if name.startswith("MALLOC_")]
    if platform.libc_ver()[0] == "glibc" and not own and "GLIBC_TUNABLES" not in os.environ:
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 1 << 30)
