"""Parts of a training step: each has its place, its randomness by address, its share of what is
saved. The moving average is one; the others here exist in this file alone."""

import hashlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reslab
import reslab.learning.parts as parts
from reslab.learning.loss import Loss, hits
from reslab.learning.parts import build_parts
from reslab.learning.parts.moving_average import MovingAverage
from reslab.learning.parts.part import Moment, Part
from reslab.learning.schedules import CURVES, rate_factor, spans_the_run
from reslab.networks.model_file import load_model, read_tensors
from reslab.recipes.groups import Schedule
from reslab.recipes.recipe import Recipe
from reslab.training import training

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = {"seed": 3, "epochs": 3, "batch_size": 16, "quiet": True}


def sha(run):
    return hashlib.sha256(run.model.read_bytes()).hexdigest()


def whole_and_resumed(data, tmp_path, monkeypatch, stops=(2, 3, 4), **settings):
    """A run, and the same one stopped after each of these numbers of events."""
    settings = SETTINGS | settings
    whole = reslab.train(data, out=tmp_path / "whole", **settings)
    original = training.train_epochs
    left = iter(stops)

    def stopping(*given):
        events = original(*given)
        stop = next(left, None)
        yield from events if stop is None else itertools.islice(events, stop)
        if stop is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_epochs", stopping)
    with pytest.raises(KeyboardInterrupt):
        reslab.train(data, out=tmp_path / "part", checkpoint_every="1step", **settings)
    for _ in stops[1:]:
        with pytest.raises(KeyboardInterrupt):
            reslab.resume(tmp_path / "part", quiet=True)
    part = reslab.resume(tmp_path / "part", quiet=True)
    monkeypatch.setattr(training, "train_epochs", original)
    return whole, part


# The moving average


def test_the_average_is_that_of_its_formula():
    network = nn.Linear(2, 2)
    average = MovingAverage.of(Recipe(ema_decay=0.6), network, 2)
    expected = None
    for step in range(8):
        with torch.no_grad():
            network.weight.fill_(float(step**2))
        average.weights(network, Moment(seed=0, epoch=step // 4, step=step % 4, steps=4))
        decay = min(0.6, (1 + step) / (10 + step))
        before = expected
        expected = step**2 if before is None else decay * before + (1 - decay) * step**2
    assert average.judged(network).weight[0, 0].item() == pytest.approx(expected)
    assert network.weight[0, 0].item() == 49  # what trains is left alone


def test_no_average_unless_the_recipe_asks():
    assert build_parts(Recipe(), nn.Linear(2, 2), 2) == ()


def test_a_run_keeps_the_average_and_goes_on_bit_for_bit(split_photos, tmp_path, monkeypatch):
    whole, part = whole_and_resumed(split_photos, tmp_path, monkeypatch, ema_decay=0.9)
    assert sha(part) == sha(whole)
    assert part.test == whole.test
    plain = reslab.train(split_photos, out=tmp_path / "plain", **SETTINGS)
    assert sha(plain) != sha(whole)
    # The weights that train do not know of the average; only what is judged and kept does.
    tensors = [read_tensors(run.last_checkpoint)[0] for run in (plain, whole)]
    trained = [{k: v for k, v in one.items() if not k.startswith("part.")} for one in tensors]
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])
    kept = load_model(whole.path).network.state_dict()
    saved = {k.removeprefix("part.ema."): v for k, v in tensors[1].items() if "part.ema." in k}
    assert saved.keys() == kept.keys()
    found = reslab.evaluate(whole.path, split_photos, quiet=True)
    assert found.loss == pytest.approx(whole.test["loss"], rel=1e-5)


def test_a_checkpoint_without_the_average_is_refused(split_photos, tmp_path):
    run = reslab.train(split_photos, out=tmp_path / "run", **SETTINGS)
    recipe = run.recipe().with_fields({"ema_decay": 0.9, "epochs": 4, "schedule.name": "constant"})
    run.write_recipe(recipe)
    run.write_info(status="interrupted")
    with pytest.raises(reslab.InputError, match=r"ema_decay = 0\.9 where the run has 0"):
        reslab.resume(run.path, quiet=True)


# Any other part


class Noise(Part):
    """Adds noise to batches, shortens gradients, counts its steps; mixes labels a little."""

    name = "noise"

    def __init__(self):
        self.steps = torch.zeros((), dtype=torch.int64)

    @classmethod
    def of(cls, recipe, network, classes):
        return cls()

    def batch(self, x, targets, moment):
        drawn = torch.randn(x.shape, generator=moment.generator(self)) * (self.steps % 3)
        mixed = F.one_hot(targets, 3).float() * 0.9 + 0.1 / 3
        return x + 0.1 * drawn, mixed

    def gradients(self, network, moment):
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)

    def weights(self, network, moment):
        self.steps += 1

    def state(self):
        return {"steps": self.steps}

    def load(self, tensors):
        self.steps.copy_(tensors["steps"])


def test_one_more_part_is_one_line_and_exact_under_resume(split_photos, tmp_path, monkeypatch):
    plain = reslab.train(split_photos, out=tmp_path / "plain", **SETTINGS)
    monkeypatch.setattr(parts, "PARTS", (*parts.PARTS, Noise))
    whole, part = whole_and_resumed(split_photos, tmp_path, monkeypatch)
    assert sha(part) == sha(whole) != sha(plain)
    steps = read_tensors(part.last_checkpoint)[0]["part.noise.steps"]
    assert int(steps) == 3 * 5


def test_what_a_part_draws_depends_on_its_address_alone():
    first, other = Noise(), MovingAverage(0.9, nn.Linear(1, 1))
    moment = Moment(seed=1, epoch=2, step=3, steps=5)
    torch.rand(7)
    drawn = torch.rand(4, generator=moment.generator(first))
    assert torch.equal(drawn, torch.rand(4, generator=moment.generator(first)))
    for generator in (
        moment.generator(other),
        Moment(seed=2, epoch=2, step=3, steps=5).generator(first),
        Moment(seed=1, epoch=3, step=3, steps=5).generator(first),
        Moment(seed=1, epoch=2, step=4, steps=5).generator(first),
    ):
        assert not torch.equal(drawn, torch.rand(4, generator=generator))


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])])
def test_the_loss_of_certain_probabilities_is_that_of_classes(weights):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = Loss(0.1, weights)
    certain = F.one_hot(labels, 3).float()
    torch.testing.assert_close(loss(logits, certain), loss(logits, labels))
    assert hits(logits, certain) == hits(logits, labels)


# The step schedule


def test_the_step_schedule_is_torchs():
    schedule = Schedule(name="step", every=3, gamma=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    for epoch in range(10):
        rate = optimizer.param_groups[0]["lr"]
        for step in (0, 6):
            factor = rate_factor(schedule, epoch * 7 + step, 10 * 7, 7)
            assert 0.8 * factor == pytest.approx(rate)
        optimizer.step()
        theirs.step()


def test_a_step_schedule_goes_on_for_more_epochs_bit_for_bit(split_photos, tmp_path):
    fields = {"schedule.name": "step", "schedule.every": 2, "schedule.gamma": 0.1}
    settings = SETTINGS | {"fields": fields}
    whole = reslab.train(split_photos, out=tmp_path / "whole", **settings | {"epochs": 5})
    rates = [row["learning_rate"] for row in whole.history]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    short = reslab.train(split_photos, out=tmp_path / "short", **settings)
    assert sha(reslab.resume(short.path, epochs=5, quiet=True)) == sha(whole)


def test_every_schedule_has_its_curve():
    assert set(CURVES) == set(Schedule.model_fields["name"].annotation.__args__)
    assert {name for name in CURVES if not spans_the_run(Schedule(name=name))} == {
        "constant", "step",
    }  # fmt: skip
    assert spans_the_run(Schedule(name="step", warmup=0.1))
