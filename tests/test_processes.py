"""Several processes: the same bits as one, every picture once, and one message when one fails."""

import copy
import hashlib
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import reslab
from launching import ended, meeting_place, started
from reslab.learning.loop import gradients_of
from reslab.learning.loss import Loss
from reslab.learning.parts.part import Moment, Part
from reslab.learning.parts.stochastic_depth import StochasticDepth
from reslab.learning.pieces import Pieces, _over_all, nodes_within, tree_sum
from reslab.pictures import draws
from reslab.processes import Team
from reslab.training.launching import in_parts

LONG = bool(os.environ.get("RESLAB_LONG"))
COMMAND = "from reslab.cli import main; main()"


def digests(run):
    """SHA-256 of checkpoint, model, history without its seconds, and predictions of a run."""
    found = {}
    for name in ("checkpoints/last.safetensors", "model.safetensors"):
        digest = hashlib.sha256()
        for key, value in sorted(safetensors.torch.load_file(Path(run) / name).items()):
            digest.update(key.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().data)
        found[name] = digest.hexdigest()
    lines = (Path(run) / "history.jsonl").read_text().splitlines()
    history = [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]
    found["history"] = hashlib.sha256(json.dumps(history).encode()).hexdigest()
    predictions = (Path(run) / "predictions.csv").read_bytes()
    found["predictions.csv"] = hashlib.sha256(predictions).hexdigest()
    return found


# Each of what a step may hold is in one of these: batch norm, Muon, averaging, an average of the
# weights, mixing, stochastic depth, growing pictures, features, a solved head, clipping.
FIVE = {
    "mnist": {"recipe": "mnist-fast", "epochs": 1, "batch_size": 60},
    "cifar": {
        "recipe": "cifar10-fast", "epochs": 2, "batch_size": 24,
        "fields": {"micro_batch": 3, "preprocess.size": [16, 16], "optimizer.lr": 0.05},
    },
    "average": {
        "network": "small-resnet", "epochs": 2, "batch_size": 23, "ema_decay": 0.9,
        "fields": {
            "drop_path": 0.3, "mix.mixup": 0.4, "mix.cutmix": 0.5, "augment.rotate": 20,
            "progressive.start": 0.5, "progressive.multiple": 4, "micro_batch": 3,
        },
    },
    "frozen": {"recipe": "photos", "network": "resnet18", "views": 2, "epochs": 3},
    "layer": {
        "recipe": "photos", "network": "resnet18", "train_from": "layer4.1", "epochs": 1,
        "fields": {"drop_path": 0.2, "optimizer.clip_norm": 1.0, "mix.mixup": 0.2},
    },
}  # fmt: skip
TRAIN = """
import json, os, sys
import reslab
_, todo, out = sys.argv
for name, (data, options) in json.loads(todo).items():
    reslab.train(data, out=f"{out}/{name}", quiet=True, **options)
from reslab.cli import main
def status(*words):
    sys.argv = ["reslab", *words]
    try:
        main()
    except SystemExit as ended:
        return ended.code
print(status("train", "/nowhere"), status("search", "digits"), flush=True)
if os.environ["RANK"] == "1":
    import reslab.training.following as following
    following.draw_preview = lambda session: os._exit(9)
print(status("train", "digits", "--quiet", "--out", out + "/lost"), flush=True)
"""


def trainings(split_photos, weights, names):
    """(data, options) of some of the five, so that they can be written as JSON."""
    found = {}
    for name in names:
        options = copy.deepcopy(FIVE[name])
        if options.get("network") == "resnet18":
            options["weights"] = str(weights)
            options.setdefault("fields", {})["preprocess.size"] = [32, 32]
        found[name] = ("digits" if name == "mnist" else str(split_photos), options)
    return found


def test_two_processes_give_the_bits_of_one_and_one_message(
    split_photos, weights, tmp_path, monkeypatch
):
    """Bit for bit what a plain run in four parts gives; then what goes wrong is said once."""
    monkeypatch.chdir(tmp_path)
    todo = trainings(split_photos, weights, FIVE if LONG else ("average", "layer"))
    for name, (data, options) in todo.items():
        reslab.train(data, out=tmp_path / "one" / name, parts=4, quiet=True, **options)
    for count in (1, 2, 3, 4) if LONG else (2,):
        folder = tmp_path / f"cache{count}"
        words = json.dumps(todo), tmp_path / str(count)
        with started(count, TRAIN, *words, RESLAB_CACHE=str(folder)) as processes:
            told = ended(processes, 600)
        for name in todo:
            assert digests(tmp_path / str(count) / name) == digests(tmp_path / "one" / name), told
        if count == 2:
            (status, out, error), (killed, _, others) = told
            assert (status, out.split(), killed) == (0, ["2", "2", "2"], 9), told
            said = [line for line in (error + others).splitlines() if "reslab: " in line]
            assert len(said) == 3, said
            assert "/nowhere: no such file" in said[0] + said[1]
            assert "process 1 of 2" in said[2]
            recipe = reslab.load_recipe(tmp_path / "2" / "layer" / "recipe.toml")
            assert recipe.parts == 4  # so that it can be repeated without torchrun


MEET = """
import os, sys, threading, time
import torch
from reslab.learning.pieces import sum_of, tree_sum
from reslab.processes import LostProcessError, Team, team, together

watch = Team.watch
Team.watch = lambda *given: (watch(*given), time.sleep(0.4))  # it does not end at once

def piece(number):  # more numbers than are sent to all at once
    return torch.randn(40001, generator=torch.Generator().manual_seed(number)) * 10.0**number

for turn in range(2):
    with together():
        own = team()
        told = own.gather(torch.tensor([own.rank])), own.swap(torch.tensor([1.0, 2.0]) + own.rank)
        print(own.numbers(own.rank), *[x.tolist() for x in told[0]], told[1].tolist(),
              own.led(lambda: own.rank),
              all(torch.equal(sum_of(parts, own, piece),
                              tree_sum(0, parts, lambda node: piece(node[0])
                                       if node[1] - node[0] == 1 else None))
                  for parts in (2, 3, 4, 5, 7)))
# Python that ends while a thread is in the store's C++ code may be aborted.
print("watched by", [thread.name for thread in threading.enumerate()])
try:
    with together():
        if team().rank == 1 and sys.argv[1] == "dies":
            os._exit(9)
        team().wait()
        print("together")
except LostProcessError as error:
    print(error)
"""


def test_processes_meet_again_where_others_have_met_before_them():
    """torchrun's store outlives its processes; what the dead have said there misleads nobody."""
    with meeting_place() as port:
        for ends in ("dies", "lives"):
            with started(2, MEET, ends, port=port) as processes:
                (first, out, error), (second, others, _) = ended(processes)
            assert (first, second) == (0, 9 if ends == "dies" else 0), error
            assert out.splitlines()[:2] == ["[0, 1] [0] [1] [1.0, 2.0] 0 True"] * 2
            assert out.splitlines()[2] == "watched by ['MainThread']"
            last = out.splitlines()[3]
            assert last == "together" if ends == "lives" else "process 1 of 2" in last
            if ends == "lives":
                met = ["[0, 1] [0] [1] [2.0, 3.0] 0 True"] * 2
                assert others.splitlines() == [*met, "watched by ['MainThread']", "together"]


@pytest.mark.parametrize("count", range(1, 8))
def test_the_sum_is_the_same_however_many_share_it(count):
    parts = 7
    torch.manual_seed(0)
    pieces = torch.randn(parts, 1000) * torch.logspace(-3, 3, parts)[:, None]
    own = [Team(rank, count).share(parts) for rank in range(count)]
    assert [piece for share in own for piece in share] == list(range(parts))
    nodes = [nodes_within(share, 0, parts) for share in own]

    def leaf(node):
        return pieces[node[0]].clone() if node[1] - node[0] == 1 else None

    sums = [torch.stack([tree_sum(*node, leaf) for node in each]) for each in nodes]
    assert torch.equal(_over_all(parts, nodes, sums), tree_sum(0, parts, leaf))


class Half(Team):
    """One of two processes, which are played one after the other: the second first."""

    told: list[torch.Tensor]

    def gather(self, own):
        if self.rank == 1:
            self.told.append(own)
            raise StopIteration
        return [own, self.told.pop()]


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.branch = nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.head(self.drop((x + self.branch(x)).flatten(1)))


def step_of(network, team, device="cpu"):
    """The gradients, statistics, loss and hits of one step in four parts."""
    x, targets = torch.arange(8 * 16.0).sin().view(8, 1, 4, 4), torch.arange(8) % 3
    depth = StochasticDepth({network.branch: 0.5})
    pieces = Pieces(4, team, network, (depth,), device)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)

    def compute(part, wanted, moment, count):
        with draws.torch_stream(*moment.address("step")):
            return gradients_of(network, part, wanted, Loss(), 1, count, autocast)

    made = [
        (x[2 * piece : 2 * piece + 2], targets[2 * piece : 2 * piece + 2]) for piece in range(4)
    ]
    own = [made[piece] for piece in pieces.own]
    loss = pieces.step(own, 8, Moment(0, 0, 3, 10), compute)
    gradients = [p.grad.clone() for p in network.parameters()]
    return [torch.tensor(loss), *gradients, *[value.clone() for value in network.buffers()]]


def test_each_part_has_draws_of_its_own():
    noted = []

    class Noting(Part):
        def passing(self, moment):
            noted.append(moment.address("step"))

    def compute(part, wanted, moment, count):
        noted.append(moment.address("step"))
        return gradients_of(network, part, wanted, Loss(), 1, count, plain)

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    plain = torch.autocast("cpu", torch.bfloat16, enabled=False)
    made = [(torch.ones(1, 1, 2, 2), torch.zeros(1).long())] * 4
    Pieces(4, Team(), network, (Noting(),), "cpu").step(made, 4, Moment(0, 0, 3, 10), compute)
    assert noted == [(0, "step", 0, 3, piece) for piece in range(4) for _ in range(2)]


def test_chance_and_statistics_belong_to_the_part_and_not_to_the_process():
    alone = step_of(Layers(), Team())
    told = []
    for rank in (1, 0):
        half = Half(rank, 2)
        half.told = told
        try:
            shared = step_of(Layers(), half)
        except (StopIteration, RuntimeError):
            assert rank == 1
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one, two)
    plain = Layers()  # and dropout does act
    plain.drop.p = 0.0
    assert not torch.equal(step_of(plain, Team())[1], alone[1])


def test_more_processes_than_parts_are_refused(monkeypatch):
    monkeypatch.setattr("reslab.training.launching.team", lambda: Team(0, 5))
    monkeypatch.setattr("reslab.training.launching.launched", lambda: True)
    with pytest.raises(reslab.InputError, match="5 processes would share"):
        in_parts(reslab.Recipe())
    assert in_parts(reslab.Recipe(parts=8)).parts == 8


def test_a_part_without_pictures_is_refused(split_photos, tmp_path):
    with pytest.raises(reslab.InputError, match=r"parts = 9: a batch may hold 7 pictures"):
        reslab.train(split_photos, out=tmp_path / "run", batch_size=8, parts=9, quiet=True)


def test_one_part_is_the_step_of_a_whole_batch(split_photos, tmp_path):
    """The tree of one piece is that piece; with one thread each, the weights are the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [
            reslab.train(
                split_photos, out=tmp_path / str(parts), epochs=2, batch_size=16, parts=parts,
                quiet=True,
            )
            for parts in (None, 1)
        ]  # fmt: skip
    finally:
        torch.set_num_threads(before)
    whole, one = (safetensors.torch.load_file(run.model) for run in runs)
    for name, value in whole.items():
        torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not LONG, reason="ten minutes; RESLAB_LONG=1 runs it")
def test_killed_at_random_with_other_numbers_of_processes(tmp_path):
    """30 kills of a rank at a random time; each time another number of processes goes on."""
    drawn = random.Random(0)
    options = ("--recipe", "mnist-fast", "--batch-size", "60", "--epochs", "60")
    words = ("train", "digits", *options, "--checkpoint-every", "3steps", "--quiet")
    unbroken = reslab.train(
        "digits", recipe="mnist-fast", batch_size=60, epochs=60, parts=4, quiet=True,
        checkpoint_every="3steps", out=tmp_path / "unbroken",
    )  # fmt: skip
    out, kills, since = tmp_path / "killed", 0, 0.0
    while kills < 30:
        count = drawn.choice((1, 2, 3, 4))
        with started(count, COMMAND, *words, "--out", out) as processes:
            last = out / "checkpoints" / "last.safetensors"
            begun = time.monotonic()
            before = last.stat().st_mtime_ns if last.exists() else 0
            while not last.exists() or last.stat().st_mtime_ns == before:
                assert time.monotonic() - begun < 300, processes[0].poll()
                time.sleep(0.05)
            time.sleep(drawn.random())
            processes[drawn.randrange(count)].kill()
            kills += 1
            fallen = time.monotonic()
            told = ended(processes, 60)
            since = max(since, time.monotonic() - fallen)
            print(f"kill {kills}: {count} processes, {since:.1f} s at most", flush=True)
            assert all(status != 0 for status, _, _ in told), (kills, told)
    with started(2, COMMAND, *words, "--out", out) as processes:
        assert [status for status, _, _ in ended(processes, 600)] == [0, 0]
    assert digests(out) == digests(unbroken.path)
    print(f"\n{kills} kills; all processes had ended after {since:.1f} s at most")


@pytest.mark.skipif(not LONG, reason="two minutes of waiting; RESLAB_LONG=1 runs it")
@pytest.mark.parametrize("what", ["STOP", "TERM", "INT"])
def test_a_signal_to_one_process_ends_all(tmp_path, what):
    """Stopped, it is taken for lost within a minute; asked to end, all save the same step."""
    import signal

    number = getattr(signal, f"SIG{what}")
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    words = ("train", "digits", "--epochs", "500", "--quiet", "--out", tmp_path / "run")
    with started(2, COMMAND, *words) as processes:
        while not (tmp_path / "run" / "history.jsonl").exists():
            time.sleep(0.1)
        processes[1].send_signal(number)
        begun = time.monotonic()
        if what == "STOP":
            _, error = processes[0].communicate(timeout=60)
            assert "process 1 of 2" in error
            assert "hangs" in error
            return
        told = ended(processes, 60)
    assert time.monotonic() - begun < 60
    assert [status for status, _, _ in told] == [128 + number] * 2, told
    assert sum(error.count("reslab: stopped") for _, _, error in told) == 1


@pytest.mark.skipif(not LONG, reason="starts torchrun; RESLAB_LONG=1 runs it")
def test_torchruns_restarts_go_on_with_the_run(tmp_path):
    """One process is killed twice; the third start ends the run, bit for bit."""
    import signal
    import subprocess
    import sys

    out = tmp_path / "run"
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        *["--max-restarts", "3", "-m", "reslab", "train", "digits", "--recipe", "mnist-fast"],
        *["--batch-size", "60", "--epochs", "6", "--checkpoint-every", "3steps", "--quiet"],
        *["--out", str(out)],
    ]
    log = tmp_path / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        killed: set[int] = set()
        while process.poll() is None and len(killed) < 2:
            time.sleep(0.2)
            try:
                told = json.loads((out / "run.json").read_text())["process"]
                number = int(told.split()[1])
            except (OSError, KeyError, IndexError):
                continue
            last = out / "checkpoints" / "last.safetensors"
            if number in killed or time.time() - last.stat().st_mtime > 1:
                continue
            os.kill(number, signal.SIGKILL)
            killed.add(number)
        assert process.wait(600) == 0, log.read_text()
    assert len(killed) == 2
    whole = reslab.train(
        "digits", recipe="mnist-fast", batch_size=60, epochs=6, parts=4, quiet=True,
        out=tmp_path / "whole",
    )  # fmt: skip
    assert digests(out) == digests(whole.path)


@pytest.mark.skipif(not LONG, reason="starts torchrun; RESLAB_LONG=1 runs it")
def test_a_machine_is_lost_and_another_comes(tmp_path, monkeypatch):
    """Two torchruns as on two machines; one is killed with its process, and a third joins."""
    import signal
    import socket
    import subprocess
    import sys

    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"localhost:{free.getsockname()[1]}"
    out, log = tmp_path / "run", tmp_path / "log"
    history = out / "history.jsonl"
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2"],
        *["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", place],
        *["--rdzv-id", "job", "--rdzv-conf", "join_timeout=60,last_call_timeout=10"],
        *["--local-addr", "localhost", "--max-restarts", "5", "-m", "reslab", "train", "digits"],
        *["--recipe", "mnist-fast", "--epochs", "40", "--checkpoint-every", "5steps", "--quiet"],
        *["--out", str(out)],
    ]

    def until(reached):
        begun = time.monotonic()
        while not reached():
            assert time.monotonic() - begun < 120, log.read_text()
            time.sleep(0.1)

    machines = []

    def machine():
        with log.open("ab") as said:
            machines.append(
                subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
            )
        return machines[-1]

    def kill(torchrun):
        own = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        for number in (torchrun.pid, *map(int, own)):
            os.kill(number, signal.SIGKILL)
        torchrun.wait()

    try:
        keeper = machine()  # the one that keeps torchrun's store
        time.sleep(3)
        lost = machine()
        until(lambda: history.exists() and len(history.read_text().splitlines()) > 4)
        kill(lost)
        until(lambda: "of 2 (they count from 0)" in log.read_text())
        another = machine()
        assert keeper.wait(300) == another.wait(60) == 0, log.read_text()
    finally:
        for one in machines:
            if one.poll() is None:
                kill(one)
    whole = reslab.train(
        "digits", recipe="mnist-fast", epochs=40, parts=4, quiet=True, out=tmp_path / "whole"
    )
    assert digests(out) == digests(whole.path)
