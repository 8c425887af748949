"""In which precision to train: fp32, or bf16 where the processor, a check and a clock agree."""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from reslab.disk import read_regular, write_safely
from reslab.errors import InputError
from reslab.learning.device import device_name
from reslab.networks.folding import folded_in_each_pass
from reslab.networks.inference import as_input
from reslab.pictures.batches import Batch
from reslab.pictures.cache import cache_folder

FASTER = 1.15  # what bf16 must gain, so that a noisy clock does not decide
SHORT = 30.0  # seconds of training below which nothing is measured
LOGITS_AGREE = 0.05  # relative error of the logits, of their spread over the batch
GRADIENTS_AGREE = 0.95  # cosine between the gradients of all weights


def choose_precision(
    asked: str,
    network: nn.Module,
    batch: Callable[[], Batch],
    shape: tuple[int, ...],
    steps: int,
    device: str,
    *,
    train_mode: bool = True,
    folds: bool = False,
) -> tuple[str, str]:
    """(precision, why) for `steps` passes over batches such as `batch` makes, inputs of `shape`.

    train_mode: whether the network is in training mode, as opposed to frozen, during a step.
    folds: whether its frozen norms are folded in each pass.

    On a CPU "auto" is bf16 only if the processor computes in it, its logits and gradients agree
    with fp32's, and a step is measured to be faster; the finding is kept in the cache, so that
    the same run is computed the same way again.
    """
    if asked != "auto":
        return asked, "as asked"
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported():
            return "bf16", "auto: the GPU computes in bf16"
        return "fp32", "auto: the GPU has no bf16"
    if device != "cpu":
        return "fp32", f"auto: bf16 is not tried on {device}"
    if not computes_in_bf16():
        return "fp32", "auto: the processor has no bf16 instructions"
    place = _place(network, shape)
    seconds, known = _recall(place)
    clock: _Steps | None = None
    if seconds is None:
        clock = _Steps(network, *batch(), train_mode, folds)
        seconds = clock.seconds("fp32")
        _remember(place, seconds, None)
    if seconds * steps < SHORT:
        return "fp32", "auto: too short a run to measure bf16"
    if known is not None:
        return known[0], f"{known[1]} (earlier, on this machine)"
    try:
        found = _measure(clock or _Steps(network, *batch(), train_mode, folds))
    except (RuntimeError, ValueError) as error:  # an operation that knows no bf16
        return "fp32", f"auto: bf16 cannot be tried ({str(error).strip().splitlines()[0]})"
    _remember(place, seconds, found)
    return found


def _measure(clock: "_Steps") -> tuple[str, str]:
    full = [clock.seconds("fp32")]
    logits, gradients = clock.results("fp32")
    logits16, gradients16 = clock.results("bf16")
    error = float((logits16 - logits).norm() / (logits - logits.mean(0)).norm().clamp(min=1e-12))
    cosine = float(F.cosine_similarity(gradients16, gradients, dim=0))
    if not (error <= LOGITS_AGREE and cosine >= GRADIENTS_AGREE):
        return (
            "fp32",
            f"auto: bf16 is off by {error:.1%} in logits, cosine {cosine:.3f} in gradients",
        )
    half = [clock.seconds("bf16")]
    for _ in range(2):  # in turn, so that a slow moment meets both
        full.append(clock.seconds("fp32"))
        half.append(clock.seconds("bf16"))
    gain = min(full) / min(half)
    measured = f"bf16 measured {gain:.2f} times as fast"
    if gain < FASTER:
        return "fp32", f"auto: {measured} only"
    return "bf16", f"auto: {measured}; logits agree to {error:.1%}, gradients' cosine {cosine:.3f}"


class _Steps:
    """Training steps on a copy of the network, without a trace on the network itself."""

    def __init__(
        self,
        network: nn.Module,
        x: torch.Tensor,
        labels: torch.Tensor,
        train_mode: bool,
        folds: bool,
    ) -> None:
        self._x, self._labels = as_input(x, "cpu"), labels
        self._network = copy.deepcopy(network).train(train_mode)
        if folds:
            self._network = folded_in_each_pass(self._network, self._x[:1])

    def seconds(self, precision: str) -> float:
        """Seconds of a step, after one to warm up."""
        self.results(precision)
        started = time.perf_counter()
        self.results(precision)
        return time.perf_counter() - started

    def results(self, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits (N, classes), all gradients in one vector) in fp32."""
        trained = [p for p in self._network.parameters() if p.requires_grad]
        with torch.random.fork_rng(), torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            torch.manual_seed(0)
            logits = self._network(self._x).float()
        loss = F.cross_entropy(logits, self._labels)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        flat = [gradient.flatten() for gradient in gradients if gradient is not None]
        return logits.detach(), torch.cat(flat)


def computes_in_bf16() -> bool:
    """Whether the processor says that it multiplies bf16 numbers; only Linux tells."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return False
    for line in info.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))
    return False


def _place(network: nn.Module, shape: tuple[int, ...]) -> Path:
    """Where the finding for this machine, network and input is kept."""
    shapes = [(key, *value.shape) for key, value in network.state_dict().items()]
    trained = [p.requires_grad for p in network.parameters()]
    made_of = (shape, shapes, trained, str(network))
    facts = (device_name("cpu"), torch.__version__, *made_of)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
    return cache_folder() / "precision" / f"{digest}.json"


def _recall(place: Path) -> tuple[float | None, tuple[str, str] | None]:
    """(seconds of a pass in fp32, what was chosen and why), as far as they are known."""
    try:
        found = json.loads(read_regular(place, 1 << 16))
        seconds, precision, reason = found
        if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            return None, None
        if precision in ("fp32", "bf16"):
            return float(seconds), (precision, str(reason))
        return float(seconds), None
    except (OSError, ValueError, TypeError, RecursionError):
        return None, None


def _remember(place: Path, seconds: float, found: tuple[str, str] | None) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_safely(place, json.dumps([seconds, *(found or (None, None))]).encode())
    except (OSError, InputError):
        pass  # no cache: it is measured anew next time
