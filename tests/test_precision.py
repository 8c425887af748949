"""bf16 only where the processor, the numbers and the clock agree; and what was found is kept."""

import pytest
import torch
from torch import nn

from reslab.learning import precision
from reslab.learning.device import set_up
from reslab.learning.precision import choose_precision


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A processor with bf16 on which it is 2 times as fast, and long runs of 10 s a step."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: True)
    speed = {"fp32": 10.0, "bf16": 5.0}
    monkeypatch.setattr(precision._Steps, "seconds", lambda self, kind: speed[kind])
    return speed


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    )


def choose(net=None, asked="auto", steps=100):
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = x, torch.arange(32) % 3
    return choose_precision(asked, net or network(), lambda: batch, x.shape, steps, "cpu")


def test_bf16_where_everything_agrees():
    kind, why = choose()
    assert kind == "bf16"
    assert "2.00 times as fast" in why


def test_asked_is_asked():
    assert choose(asked="fp32") == ("fp32", "as asked")
    assert choose(asked="bf16") == ("bf16", "as asked")


def test_fp32_where_the_processor_has_no_bf16(monkeypatch):
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: False)
    assert choose() == ("fp32", "auto: the processor has no bf16 instructions")


def test_fp32_where_it_is_hardly_faster(machine):
    machine["bf16"] = 9.5
    kind, why = choose()
    assert kind == "fp32"
    assert "1.05 times as fast only" in why


def test_fp32_where_the_numbers_disagree():
    """Two large weights that nearly cancel: bf16 keeps nothing of their difference."""

    class Cancelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 3)

        def forward(self, x):
            y = self.first(x.flatten(1) + 1000)
            return y - nn.functional.linear(torch.full_like(x.flatten(1), 1000), self.first.weight)

    kind, why = choose(Cancelling())
    assert kind == "fp32"
    assert "off by" in why


def test_a_short_run_is_not_measured():
    assert choose(steps=2) == ("fp32", "auto: too short a run to measure bf16")


def test_what_was_found_is_kept_for_this_network_and_input(machine):
    first = choose()
    machine["bf16"] = 20.0  # a busy moment must not turn the same run into another
    assert choose(steps=2)[0] == "fp32"  # nor does a shorter run make it forgotten
    kind, why = choose(steps=200)
    assert kind == first[0] == "bf16"
    assert why.endswith("(earlier, on this machine)")
    other = network().append(nn.Linear(3, 3))
    assert choose(other)[0] == "fp32"


def test_measuring_leaves_no_trace():
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    choose(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_on_a_gpu_float32_is_not_tf32():
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    assert before[1] == "tf32"  # torch's own choice
    try:
        set_up("cuda")  # sets torch up, and needs no GPU for it
        assert cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision in ("ieee", "none")
    finally:
        cudnn.benchmark, cudnn.conv.fp32_precision = before
