"""Two processes of a thread each against one of two threads, and what the same bits cost.

python benchmarks/processes.py                       # small-resnet, mnist-fast and cifar10-fast
python benchmarks/processes.py --recipes mnist-fast --repeats 5

Five ways take turns, each the fastest epoch of a run: reslab's plain path in one process of two
threads; reslab in four parts, in one process of a thread and in two; in two parts, one for each of
two processes; and a plain script with torch's DistributedDataParallel in two, over the same network
and batches, from tensors in memory and without augmentation, which sums in whatever order comes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import parser, table

PICTURES = {"small-resnet": 64, "mnist-fast": 128, "cifar10-fast": 100}  # a batch
TRAIN = """
import json, sys
import reslab
data, recipe, options, out = json.loads(sys.argv[1])
reslab.train(data, recipe=recipe, out=out, quiet=True, precision="fp32", **options)
"""
DDP = """
import json, sys, time
import reslab
import torch
import torch.distributed as dist
from reslab.networks.catalogue import NetworkSpec, build_network
name, classes, channels, size, count, batch, epochs = json.loads(sys.argv[1])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
network = build_network(NetworkSpec(name, classes, channels, (size, size)), 0)
network = network.to(memory_format=torch.channels_last)
network = torch.nn.parallel.DistributedDataParallel(network)
trained = [p for p in network.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
x = torch.randn(count, channels, size, size).to(memory_format=torch.channels_last)
labels = torch.randint(0, classes, (count,))
best = float("inf")
for epoch in range(epochs):
    started = time.perf_counter()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
    for rows in order.tensor_split(-(-count // batch)):
        own = rows.tensor_split(world)[rank]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[own]), labels[own]).backward()
        optimizer.step()
    best = min(best, time.perf_counter() - started)
if rank == 0:
    print("seconds", best)
dist.destroy_process_group()
"""


def torchrun(code: str, words: object, count: int, threads: int) -> str:
    """What a script prints, started by torchrun, or by itself where `count` is 0."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        start = [sys.executable]
        if count:
            start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        done = subprocess.run(
            [*start, script.name, json.dumps(words)], capture_output=True, text=True, check=False,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def fastest(data: str, recipe: str, options: dict[str, object], count: int, threads: int) -> float:
    """Seconds of training in a run's fastest epoch."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun(TRAIN, (data, recipe, options, f"{folder}/run"), count, threads)
        lines = Path(folder, "run", "history.jsonl").read_text().splitlines()
        return min(float(json.loads(line)["seconds"]) for line in lines)


def by_torch(words: object) -> float:
    """Seconds of the plain script's fastest epoch."""
    return float(torchrun(DDP, words, 2, 1).split()[-1])


def pictures_of(recipe: str, folder: Path) -> tuple[str, int, int, int, int]:
    """(data, classes, channels, size, training pictures) for a recipe."""
    if recipe != "cifar10-fast":
        return (
            ("digits", 10, 1, 8, 1294) if recipe == "small-resnet" else ("digits", 10, 1, 28, 1438)
        )
    import numpy as np
    from PIL import Image

    drawn = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 4)):
        for name in range(10):
            (folder / split / str(name)).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = drawn.integers(0, 255, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / str(name) / f"{number}.png")
    return str(folder), 10, 3, 32, 600


def compare(recipe: str, rounds: int, epochs: int) -> None:
    """Measure the four ways of one recipe in turn, and print them."""
    batch = PICTURES[recipe]
    plain: dict[str, object] = {"epochs": epochs, "batch_size": batch}
    parts, halves = plain | {"parts": 4}, plain | {"parts": 2}
    if recipe == "cifar10-fast":
        plain["micro_batch"] = batch // 4  # as the recipe has it, and as the parts are
    with tempfile.TemporaryDirectory() as drawn:
        data, *shape = pictures_of(recipe, Path(drawn))
        rival = (recipe, *shape, batch, epochs)
        ways: dict[str, Callable[[], float]] = {
            "1 process of 2 threads, whole batches": lambda: fastest(data, recipe, plain, 0, 2),
            "1 process of 1 thread, 4 parts": lambda: fastest(data, recipe, parts, 0, 1),
            "2 processes of 1 thread, 4 parts": lambda: fastest(data, recipe, parts, 2, 1),
            "2 processes of 1 thread, 2 parts": lambda: fastest(data, recipe, halves, 2, 1),
            "DistributedDataParallel, 2 processes": lambda: by_torch(rival),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
    best = {name: min(times) for name, times in found.items()}
    whole, _, exact, halved, rough = best.values()
    rows = [(name, f"{value:.2f} s an epoch") for name, value in best.items()]
    rows.append(("2 processes against 1 of 2 threads", f"{whole / exact:.2f} times as fast"))
    told = f"{exact / rough:.2f} times as long, {halved / rough:.2f} with 2 parts"
    rows.append(("cost against DistributedDataParallel", told))
    table(f"{recipe}, batches of {batch}", rows)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--recipes", nargs="+", default=list(PICTURES), choices=list(PICTURES))
    arguments.add_argument("--epochs", type=int, default=4)
    asked = arguments.parse_args()
    for recipe in asked.recipes:
        compare(recipe, asked.repeats, asked.epochs)


if __name__ == "__main__":
    main()
