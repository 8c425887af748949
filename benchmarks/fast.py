"""The two recipes for time to accuracy against the published loops and the machine's ceiling.

python benchmarks/fast.py mnist                 # a run a seed, and an epoch of the published loop
python benchmarks/fast.py cifar10               # steps against the network's own convolutions
python benchmarks/fast.py cifar10 --seeds 3     # whole runs too
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import reslab  # before torch: it sets how torch's threads wait

# isort: split
import torch
import torch.nn.functional as F
from measuring import cifar_folder, in_turn, mnist_root, parser, seconds, table
from torch import nn


def whole_runs(
    data: str, recipe: str, seeds: Iterable[int], **more: object
) -> list[dict[str, float]]:
    import tempfile

    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = reslab.train(
                data, recipe=recipe, seed=seed, out=f"{folder}/run", quiet=True, **more
            )
            plain = run.test.get("without_averaging", run.test)
            found.append({
                "accuracy": run.test["accuracy"],
                "plain": plain["accuracy"],
                "seconds": run.info["seconds"]["train"],
            })  # fmt: skip
            print(f"  seed {seed}: {found[-1]}", flush=True)
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})"


def convolution_ceiling(network: nn.Module, size: int, dtype: torch.dtype) -> float:
    """Seconds a training step of `size` pictures spends in the network's convolutions alone.

    Each convolution's own shapes, channels last; its forward pass and both gradients.
    """
    shapes = []

    def note(layer: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        shapes.append((layer, given[0].shape[1:], given[0].requires_grad))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network(torch.randn(2, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    total = 0.0
    for conv, shape, needs in shapes:
        if not conv.weight.requires_grad:
            continue
        x = torch.randn(size, *shape, dtype=dtype).to(memory_format=torch.channels_last)
        x.requires_grad_(needs)
        weight = conv.weight.detach().to(dtype).requires_grad_()
        y = F.conv2d(x, weight, padding=conv.padding)
        gradient = torch.randn_like(y)

        def work(x: torch.Tensor = x, weight: torch.Tensor = weight, conv: nn.Conv2d = conv,
                 gradient: torch.Tensor = gradient) -> None:  # fmt: skip
            x.grad = weight.grad = None
            F.conv2d(x, weight, padding=conv.padding).backward(gradient)

        work()
        total += statistics.median(seconds(work) for _ in range(5))
    return total


def mnist(given: object) -> None:
    root = mnist_root(given.work)
    script = str(Path(__file__).with_name("published.py"))
    words = [sys.executable, script, "mnist-resnet", "--work", str(given.work), "--repeats", "1"]
    runs, epochs = [], []
    for seed in range(given.seeds or 5):  # in turn with its rival
        runs += whole_runs("mnist", "mnist-fast", [seed], data_root=root)
        published = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        epochs.append(float(published.split("published loop")[1].split()[0]))
    epoch = statistics.median(epochs)
    taken = statistics.median(run["seconds"] for run in runs)
    table("mnist-fast", [
        ("accuracy, mean and range of seeds", spread([run["accuracy"] for run in runs])),
        ("training", f"{taken:.1f} s"),
        ("published mnist-resnet, 10 epochs", f"{10 * epoch:.0f} s (one epoch of {epoch:.1f} s)"),
        ("ratio", f"{10 * epoch / taken:.0f}"),
    ])  # fmt: skip


def cifar10(given: object) -> None:
    from reslab.learning.device import set_up
    from reslab.learning.loop import train_epochs
    from reslab.learning.optimizers import build_optimizer
    from reslab.learning.precision import choose_precision
    from reslab.learning.state import Milestone, TrainingState
    from reslab.networks.catalogue import build_network, head_prefix
    from reslab.pictures.data_source import DataSource
    from reslab.recipes.files import load_recipe
    from reslab.training.preparation import prepare

    set_up("cpu")
    folder = str(cifar_folder(given.work))
    prepared = prepare(DataSource.named(folder).read(), load_recipe("cifar10-fast"))
    recipe, batches = prepared.recipe, prepared.batches
    assert recipe.micro_batch is not None
    x, labels = (part[: recipe.micro_batch] for part in batches.batch(0, 0))
    passes = recipe.epochs * len(batches.samples) // recipe.micro_batch
    precision, why = choose_precision(
        "auto", prepared.network, lambda: (x, labels), tuple(x.shape), passes, "cpu"
    )
    recipe = recipe.model_copy(update={"precision": precision})
    head = head_prefix(recipe.network, prepared.network)
    state = TrainingState(
        prepared.network, build_optimizer(recipe.optimizer, prepared.network, head)
    )
    events = (
        event
        for event in train_epochs(state, recipe, batches, {}, "cpu")
        if not isinstance(event, Milestone)
    )
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    twin = build_network(prepared.spec, 0).to(memory_format=torch.channels_last)
    parts = recipe.batch_size // recipe.micro_batch
    found = in_turn(
        {
            "step": lambda: seconds(lambda: [next(events) for _ in range(3)]) / 3,
            "ceiling": lambda: parts * convolution_ceiling(twin, recipe.micro_batch, dtype),
            "data": lambda: seconds(lambda: batches.batch(1, 3)),
        },
        given.repeats,
    )
    rows = [
        ("precision", f"{precision} ({why})"),
        (f"a step of {recipe.batch_size:,} pictures", f"{found['step']:.2f} s"),
        ("its convolutions alone", f"{found['ceiling']:.2f} s"),
        ("of the ceiling", f"{found['ceiling'] / found['step']:.0%}"),
        ("making the batch", f"{found['data'] / found['step']:.1%} of the step"),
    ]
    if given.seeds:
        began = time.perf_counter()
        runs = whole_runs(folder, "cifar10-fast", range(given.seeds))
        rows += [
            ("accuracy, averaged", spread([run["accuracy"] for run in runs])),
            ("accuracy, plain", spread([run["plain"] for run in runs])),
            ("training", f"{statistics.median(run['seconds'] for run in runs):.0f} s"),
            ("whole runs", f"{(time.perf_counter() - began) / given.seeds:.0f} s each"),
        ]
    table("cifar10-fast", rows)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("data", choices=("mnist", "cifar10"))
    options.add_argument("--seeds", type=int, default=0)
    given = options.parse_args()
    {"mnist": mnist, "cifar10": cifar10}[given.data](given)


if __name__ == "__main__":
    main()
