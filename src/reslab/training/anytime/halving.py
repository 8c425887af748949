"""In which precision features are computed: in bf16 where that is measured to be faster."""

import copy
import time

import torch

from reslab.learning.precision import computes_in_bf16
from reslab.networks.folding import folded
from reslab.networks.inference import as_input
from reslab.training.preparation import Prepared

FASTER = 1.15  # times, that bf16 must be: what was computed before is computed anew
CLOSE = 0.1  # relative error of the logits, that it may make
TOGETHER = 16  # pictures


def features_precision(base: Prepared, device: str) -> tuple[str, float]:
    """The precision for features that a clock waits for, and how many times as fast it is.

    Held-out pictures stay in float32.
    A whole training is measured in both, which takes long; a forward pass is twice as fast in bf16
    on processors on which a training step is not.
    """
    if device != "cpu" or not computes_in_bf16():
        return "fp32", 1.0
    rows = torch.arange(min(TOGETHER, len(base.pixels.samples)))
    x = as_input(base.pixels.inputs(rows, epoch=0), device)
    network = folded(base.network, x[:1])
    try:
        halved = copy.deepcopy(network).to(torch.bfloat16)
        with torch.inference_mode():
            exact, found = network(x), halved(x.bfloat16()).float()
            full, half = (min(_seconds(*one) for _ in range(2)) for one in
                          ((network, x), (halved, x.bfloat16())))  # fmt: skip
    except RuntimeError:  # an operation that knows no bf16
        return "fp32", 1.0
    error = float((found - exact).norm() / (exact - exact.mean(0)).norm().clamp(min=1e-12))
    return ("bf16", full / half) if full > FASTER * half and error < CLOSE else ("fp32", 1.0)


def _seconds(network: torch.nn.Module, x: torch.Tensor) -> float:
    started = time.perf_counter()
    network(x)
    return time.perf_counter() - started
