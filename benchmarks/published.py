"""An epoch of a published recipe: its own loop, written plainly, against reslab's.

    python benchmarks/published.py mnist-resnet
    python benchmarks/published.py cifar10-resnet18 --steps 20
    python benchmarks/published.py cifar10-resnet18 --steps 20 --precision auto

Both train the same network on all training pictures with the same batch size and rate, the plain
loop in fp32 as published; it reads a torchvision data set through a DataLoader, in a process of its
own, as it would run without reslab. With --steps only that many steps are timed, data included, and
the rate stands for the epoch. With --accuracy the test accuracies after the timed epochs (one more
than --repeats) stand beside each other. The recipes on a frozen network are in transfer.py.
"""

import multiprocessing
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import (
    cifar_folder,
    in_turn,
    mnist_root,
    parser,
    seconds,
    table,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision import transforms as T

from reslab.judging.scoring import judge
from reslab.learning.device import set_up
from reslab.learning.loop import train_epochs
from reslab.learning.optimizers import build_optimizer
from reslab.learning.precision import choose_precision
from reslab.learning.state import Milestone, TrainingState
from reslab.networks.catalogue import NetworkSpec, build_network, default_input, head_prefix
from reslab.pictures.data_source import DataSource
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe
from reslab.training.preparation import prepare


class InMemory(Dataset[tuple[torch.Tensor, int]]):
    """CIFAR-10 as torchvision holds it: an array, one picture made of it when it is asked for."""

    def __init__(self, folder: Path, transform: T.Compose) -> None:
        found = datasets.ImageFolder(str(folder))
        self.held = [(found.loader(path).copy(), label) for path, label in found.samples]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture, label = self.held[index]
        return self.transform(picture), label


def published_data(name: str, work: Path) -> tuple[Dataset, Dataset]:
    """(training set, test set) as the publication reads them."""
    if name.startswith("mnist"):
        norm = [] if name == "mnist-resblock" else [T.Normalize((0.1307,), (0.3081,))]
        root, how = str(mnist_root(work)), T.Compose([T.ToTensor(), *norm])
        return datasets.MNIST(root, True, how), datasets.MNIST(root, False, how)
    folder = cifar_folder(work)
    how = T.Compose([T.Resize((96, 96)), T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)])
    return InMemory(folder / "train", how), InMemory(folder / "test", how)


def plain_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    settings = recipe.optimizer
    if settings.name == "adam":
        return torch.optim.Adam(trained, lr=settings.lr)
    return torch.optim.SGD(trained, lr=settings.lr, momentum=settings.momentum)


def as_published(name: str, network: nn.Sequential) -> nn.Sequential:
    """The network with pooling and activation in the publication's order, where ours turned it."""
    layers = list(network)
    if name == "mnist-resnet":
        for place, (first, then) in enumerate(pairwise(network)):
            if isinstance(first, nn.MaxPool2d) and isinstance(then, nn.ReLU):
                layers[place : place + 2] = then, first
    return nn.Sequential(*layers)


def plain_steps(
    network: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader
) -> Iterator[int]:
    network.train()
    for x, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        yield len(labels)


def plain_accuracy(network: nn.Module, data: Dataset, size: int) -> float:
    network.eval()
    hits = count = 0
    with torch.no_grad():
        for x, labels in DataLoader(data, size):
            hits += int((network(x).argmax(1) == labels).sum())
            count += len(labels)
    return hits / count


def plain_side(connection: Connection, name: str, work: Path, recipe: Recipe) -> None:
    """The published loop, in a process of its own: asked for steps it answers their seconds."""
    train, test = published_data(name, work)
    channels, size = default_input(recipe.network)
    torch.manual_seed(recipe.seed)
    spec = NetworkSpec(recipe.network, 10, channels, size)
    network = as_published(recipe.network, build_network(spec, recipe.seed))
    optimizer = plain_optimizer(recipe, network)

    def endless() -> Iterator[int]:
        while True:
            yield from plain_steps(network, optimizer, DataLoader(train, recipe.batch_size, True))

    steps = endless()
    while asked := connection.recv():
        if asked == "accuracy":
            connection.send(plain_accuracy(network, test, 500))
        else:
            connection.send(rate_of(steps, *asked))


def rate_of(source: Iterator[object], count: int, whole: bool) -> float:
    """Seconds a step."""
    if not whole:
        next(source)  # its batch was made during the other's turn
    return seconds(lambda: [next(source) for _ in range(count)]) / count


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("name")
    options.add_argument("--steps", type=int, help="time this many steps instead of epochs")
    options.add_argument("--precision", default="fp32", choices=("fp32", "auto", "bf16"))
    options.add_argument("--accuracy", action="store_true", help="score both after the epochs")
    given = options.parse_args()
    recipe = load_recipe(given.name)
    connection, far_end = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    words = (far_end, given.name, given.work, recipe)
    spawn.Process(target=plain_side, args=words, daemon=True).start()

    set_up("cpu")
    data = "mnist" if given.name.startswith("mnist") else str(cifar_folder(given.work))
    source = DataSource.named(
        data, {"data_root": mnist_root(given.work)} if data == "mnist" else None
    )
    prepared = prepare(source.read(), recipe.with_fields({"split.validation": 0}))
    recipe, batches = prepared.recipe, prepared.batches
    rows = torch.arange(recipe.batch_size)
    precision, why = choose_precision(
        given.precision,
        prepared.network,
        lambda: (batches.inputs(rows, 0), batches.labels[rows]),
        (len(rows), prepared.spec.channels, *prepared.spec.size),
        recipe.epochs * len(batches),
        "cpu",
    )
    recipe = recipe.model_copy(update={"precision": precision, "epochs": 1000})
    head = head_prefix(recipe.network, prepared.network)
    optimizer = build_optimizer(recipe.optimizer, prepared.network, head)
    ours = TrainingState(prepared.network, optimizer)
    events = (
        event
        for event in train_epochs(ours, recipe, batches, {}, "cpu")
        if not isinstance(event, Milestone)
    )
    whole = given.steps is None
    steps = len(batches) if whole else given.steps

    def theirs(asked: object) -> float:
        connection.send(asked)
        return float(connection.recv())

    found = in_turn(
        {
            "plain": lambda: theirs((steps, whole)),
            "reslab": lambda: rate_of(events, steps, whole),
        },
        given.repeats,
    )
    epoch = {name: value * len(batches) for name, value in found.items()}
    rows_ = [
        ("precision", f"{precision} ({why})"),
        ("published loop", f"{epoch['plain']:.1f} s an epoch of {len(batches)} steps"),
        ("reslab", f"{epoch['reslab']:.1f} s"),
        ("ratio", f"{epoch['plain'] / epoch['reslab']:.2f}"),
    ]
    if given.accuracy:
        mine = judge(prepared.network, prepared.evaluation["test"](), "cpu")[0].accuracy
        rows_ += [
            ("accuracy after these epochs, published", f"{theirs('accuracy'):.2%}"),
            ("accuracy after these epochs, reslab", f"{mine:.2%}"),
        ]
    connection.send(None)
    table(f"{given.name}: an epoch, medians of {given.repeats}", rows_)


if __name__ == "__main__":
    main()
