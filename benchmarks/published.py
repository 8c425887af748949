"""An epoch of a published recipe: its own loop, written plainly, against reslab's.

    python benchmarks/published.py mnist-resnet
    python benchmarks/published.py cifar10-resnet18 --steps 20
    python benchmarks/published.py cifar10-resnet18 --steps 20 --precision auto

Both train the same network on all training pictures with the same batch size and rate, the plain
loop in fp32 as published; it reads a torchvision data set through a DataLoader. With --steps only
that many steps are timed, data included, and the rate stands for the epoch. With --accuracy the
test accuracies after the timed epochs (one more than --repeats) stand beside each other.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import (
    cifar_folder,
    food_folder,
    in_turn,
    mnist_root,
    parser,
    seconds,
    table,
)
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision import transforms as T

from reslab.learning.loop import EpochEnd, TrainingState, judge, train_epochs
from reslab.learning.optimizers import build_optimizer
from reslab.learning.precision import choose_precision
from reslab.learning.preparation import DataSource, Prepared, prepare
from reslab.learning.recipe import Recipe, load_recipe
from reslab.networks.catalogue import build_network, head_prefix

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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


class Listed(Dataset[tuple[torch.Tensor, int]]):
    """Photos named in a list file, opened when they are asked for."""

    def __init__(self, folder: Path, name: str, transform: T.Compose) -> None:
        lines = (folder / name).read_text("utf-8").splitlines()
        self.items = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
        labels = sorted({label for _, label in self.items})
        self.index = {label: number for number, label in enumerate(labels)}
        self.folder, self.transform = folder, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.items[index]
        return self.transform(Image.open(self.folder / path).convert("RGB")), self.index[label]


def published_data(name: str, work: Path) -> tuple[Dataset, Dataset, str]:  # type: ignore[type-arg]
    """(training set, test set, reslab's DATA) as the publication reads them."""
    if name.startswith("mnist"):
        norm = [] if name == "mnist-resblock" else [T.Normalize((0.1307,), (0.3081,))]
        root, how = str(mnist_root(work)), T.Compose([T.ToTensor(), *norm])
        return datasets.MNIST(root, True, how), datasets.MNIST(root, False, how), "mnist"
    if name.startswith("cifar10"):
        folder = cifar_folder(work)
        how = T.Compose([T.Resize((96, 96)), T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)])
        return InMemory(folder / "train", how), InMemory(folder / "test", how), str(folder)
    folder = food_folder(work)
    train = T.Compose([
        T.Resize((300, 300)), T.RandomRotation(45), T.CenterCrop(256), T.RandomHorizontalFlip(),
        T.RandomVerticalFlip(), T.ColorJitter(0.2, 0.1, 0.1, 0.1), T.RandomGrayscale(0.1),
        T.ToTensor(), T.Normalize(*IMAGENET),
    ])  # fmt: skip
    test = T.Compose([T.Resize((256, 256)), T.ToTensor(), T.Normalize(*IMAGENET)])
    return Listed(folder, "train.txt", train), Listed(folder, "test.txt", test), str(folder)


def plain_network(prepared: Prepared) -> nn.Module:
    """The network as a tutorial has it: default memory layout, of what is frozen only weights."""
    network = build_network(prepared.spec, prepared.recipe.seed)
    if prepared.recipe.train == "head":
        head = head_prefix(prepared.recipe.network, network)
        for key, parameter in network.named_parameters():
            parameter.requires_grad_(key.startswith(head))
    return network


def plain_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    settings = recipe.optimizer
    if settings.name == "adam":
        return torch.optim.Adam(trained, lr=settings.lr)
    return torch.optim.SGD(trained, lr=settings.lr, momentum=settings.momentum)


def plain_steps(
    network: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader
) -> Iterator[int]:  # type: ignore[type-arg]
    network.train()
    for x, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        yield len(labels)


def plain_accuracy(network: nn.Module, data: Dataset, size: int) -> float:  # type: ignore[type-arg]
    network.eval()
    hits = count = 0
    with torch.no_grad():
        for x, labels in DataLoader(data, size):
            hits += int((network(x).argmax(1) == labels).sum())
            count += len(labels)
    return hits / count


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("name")
    options.add_argument("--steps", type=int, help="time this many steps instead of epochs")
    options.add_argument("--precision", default="fp32", choices=("fp32", "auto", "bf16"))
    options.add_argument("--accuracy", action="store_true", help="score both after the epochs")
    given = options.parse_args()
    train, test, data = published_data(given.name, given.work)
    recipe = load_recipe(given.name)
    changes: dict[str, object] = {"weights": "none", "train": "all", "split.validation": 0}
    source = DataSource.named(data, data_root=mnist_root(given.work) if data == "mnist" else None)
    head_only = recipe.train == "head"
    prepared = prepare(source.read(), recipe.with_fields(changes))
    if head_only:
        # Random weights do for timing; the publication's frozen backbone needs none of its own.
        from reslab.learning.preparation import freeze_backbone

        freeze_backbone(prepared.network, recipe.network)
        recipe = prepared.recipe.model_copy(update={"train": "head"})
    else:
        recipe = prepared.recipe
    batches = prepared.batches
    rows = torch.arange(recipe.batch_size)
    x, labels = batches.inputs(rows, 0), batches.labels[rows]
    steps_all = recipe.epochs * len(batches)
    precision, why = choose_precision(
        given.precision, prepared.network, x, labels, steps_all, "cpu"
    )
    recipe = recipe.model_copy(update={"precision": precision, "epochs": 1000})
    ours = TrainingState(
        prepared.network,
        build_optimizer(
            recipe.optimizer, prepared.network, head_prefix(recipe.network, prepared.network)
        ),
    )
    events = (
        event
        for event in train_epochs(ours, recipe, batches, {}, prepared.preprocessing, "cpu")
        if not isinstance(event, EpochEnd)
    )
    plain = plain_network(prepared)
    optimizer = plain_optimizer(recipe, plain)

    def endless() -> Iterator[int]:
        while True:
            yield from plain_steps(plain, optimizer, DataLoader(train, recipe.batch_size, True))

    theirs = endless()
    whole = given.steps is None
    steps = len(batches) if whole else given.steps

    def rate_of(source: Iterator[object], count: int) -> float:
        if not whole:
            next(source)  # its batch was made during the other's turn
        return seconds(lambda: [next(source) for _ in range(count)]) / count

    found = in_turn(
        {"plain": lambda: rate_of(theirs, steps), "reslab": lambda: rate_of(events, steps)},
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
        mine = judge(ours.network, prepared.stores["test"], prepared.preprocessing, 500, "cpu")[
            0
        ].accuracy
        rows_.append(
            ("accuracy after these epochs, published", f"{plain_accuracy(plain, test, 500):.2%}")
        )
        rows_.append(("accuracy after these epochs, reslab", f"{mine:.2%}"))
    table(f"{given.name}: an epoch, medians of {given.repeats}", rows_)


if __name__ == "__main__":
    main()
