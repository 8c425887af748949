"""Transfer learning on a frozen network: the published loop, timm's way, and reslab's.

    python benchmarks/transfer.py                         a ResNet-152, random weights, K of 1 and 4
    python benchmarks/transfer.py --network resnet18 --views 1        a quick one
    python benchmarks/transfer.py --real                  tf_efficientnet_lite0, with its accuracies

20 epochs on food10. The loops that compute the frozen part in every epoch are timed on a slice of
--steps batches of training and of testing each, in a process of their own, and stand for their 20
epochs; reslab runs in full, with an empty cache, then again with another seed and learning rate.
With --rate the extraction is held against the bare forward pass of the same folded network.
"""

import copy
import multiprocessing
import shutil
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import SHARED, food_folder, parser, seconds, table
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

EPOCHS, BATCH = 20, 64
REAL = "tf_efficientnet_lite0"


class Listed(Dataset[tuple[torch.Tensor, int]]):
    """Photos named in a list file, opened when they are asked for."""

    def __init__(self, folder: Path, name: str, transform: Any) -> None:
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


def network_of(name: str, weights: Path) -> nn.Module:
    if name == REAL:
        import timm
        from safetensors.torch import load_file

        network: nn.Module = timm.create_model(name)
        network.load_state_dict(load_file(weights))
        network.reset_classifier(10)
    else:
        import torchvision

        network = torchvision.models.get_model(name, weights=None)
        network.load_state_dict(torch.load(weights))
        network.fc = nn.Linear(network.fc.in_features, 10)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key.startswith(("fc.", "classifier.")))
    return network


def published(name: str, weights: Path, work: Path) -> tuple[nn.Module, list[DataLoader[Any]]]:
    """The publication's network and loaders of train and test."""
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name == REAL else (
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # fmt: skip
    train = T.Compose([
        T.Resize((300, 300)), T.RandomRotation(45), T.CenterCrop(256), T.RandomHorizontalFlip(),
        T.RandomVerticalFlip(), T.ColorJitter(0.2, 0.1, 0.1, 0.1), T.RandomGrayscale(0.1),
        T.ToTensor(), T.Normalize(mean, std),
    ])  # fmt: skip
    test = T.Compose([T.Resize((256, 256)), T.ToTensor(), T.Normalize(mean, std)])
    folder = food_folder(work)
    return network_of(name, weights), [
        DataLoader(Listed(folder, "train.txt", train), BATCH, shuffle=True),
        DataLoader(Listed(folder, "test.txt", test), BATCH),
    ]


def timm_way(name: str, weights: Path, work: Path) -> tuple[nn.Module, list[DataLoader[Any]]]:
    """timm's transforms for the network, its layout, and two loading processes."""
    import timm.data

    network = network_of(name, weights).to(memory_format=torch.channels_last)
    config = timm.data.resolve_data_config({"input_size": (3, 256, 256)}, model=network)
    folder = food_folder(work)
    return network, [
        DataLoader(
            Listed(folder, f"{split}.txt", timm.data.create_transform(**config, is_training=train)),
            BATCH,
            shuffle=train,
            num_workers=2,
        )
        for split, train in (("train", True), ("test", False))
    ]


def epochs_every_time(connection: Connection, way: str, name: str, weights: Path, work: Path,
                      steps: int) -> None:  # fmt: skip
    """Minutes of 20 epochs that compute the frozen part each time, by a slice of each loader."""
    network, loaders = {"published": published, "timm": timm_way}[way](name, weights, work)
    layout = torch.channels_last if way == "timm" else torch.contiguous_format
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-3)

    def learn(batches: Iterator[Any], train: bool) -> None:
        for _ in range(steps):
            x, labels = next(batches)
            x = x.to(memory_format=layout)
            with torch.set_grad_enabled(train):
                loss = F.cross_entropy(network(x), labels)
            if train:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    total = 0.0
    for loader, train in zip(loaders, (True, False), strict=True):
        network.train(train)
        batches = iter(loader)
        next(batches)  # the loading processes have started
        count = len(loader.dataset)
        total += seconds(lambda b=batches, t=train: learn(b, t)) / steps / BATCH * count
    connection.send(EPOCHS * total)


def in_a_process(way: str, *given: object) -> float:
    near, far = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    worker = spawn.Process(target=epochs_every_time, args=(far, way, *given))
    worker.start()
    found = float(near.recv())
    worker.join()
    return found


def reslab_run(given: Any, weights: Path, views: int, fresh: bool, **more: Any) -> Any:
    import os

    import reslab

    cache = given.work / "transfer-cache"
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    os.environ["RESLAB_CACHE"] = str(cache)
    return reslab.train(
        food_folder(given.work),
        recipe="photos-resnet152",
        network=given.network,
        weights=weights,
        epochs=EPOCHS,
        precision=given.precision,
        out=given.work / "transfer-run",
        overwrite=True,
        **more,
        fields={"views": views, "preprocess.size": 256, **given.extra},
    )


def forward_rate(given: Any, weights: Path) -> tuple[float, float]:
    """(extraction, bare folded forward pass) in views a second, the same network.

    Each view passes in the precision that it is computed in: those held out in float32.
    """
    from reslab.features.extraction import TOGETHER
    from reslab.networks.cutting import cut
    from reslab.networks.folding import folded

    run = reslab_run(given, weights, 1, fresh=True)
    info = run.info["features"]
    extraction = info["computed"] / run.info["seconds"]["features"]
    network = network_of(given.network, weights).eval().to(memory_format=torch.channels_last)
    x = torch.randn(TOGETHER, 3, 256, 256).to(memory_format=torch.channels_last)
    before = folded(cut(network, "classifier" if given.network == REAL else "fc").before, x[:1])
    learned_from = run.info["counts"]["train"]
    held_out = info["computed"] - learned_from
    bare = learned_from * _pass(before, x, info["precision"]) + held_out * _pass(before, x, "fp32")
    return extraction, info["computed"] / bare


def _pass(before: nn.Module, x: torch.Tensor, precision: str) -> float:
    """Seconds that a picture of a batch takes, the fastest of ten passes."""
    if precision == "bf16":
        before, x = copy.deepcopy(before).bfloat16(), x.bfloat16()
    with torch.inference_mode():
        before(x)
        return min(seconds(lambda: before(x)) for _ in range(10)) / len(x)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--network", default="resnet152")
    options.add_argument("--views", default="1,4")
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--precision", default="auto")
    options.add_argument("--real", action="store_true")
    options.add_argument("--rate", action="store_true")
    given = options.parse_args()
    given.extra = {}
    if given.real:
        given.network = REAL
        weights = SHARED / "weights" / f"{REAL}.safetensors"
    else:
        import torchvision

        weights = given.work / f"{given.network}-random.pth"
        if not weights.exists():
            torch.manual_seed(0)
            torch.save(torchvision.models.get_model(given.network).state_dict(), weights)
    if given.rate:
        extraction, bare = forward_rate(given, weights)
        table(f"extraction, {given.network}", [
            ("reslab, from files to features", f"{extraction:.1f} views/s"),
            ("the bare folded forward pass", f"{bare:.1f} views/s"),
            ("ratio", f"{extraction / bare:.0%}"),
        ])  # fmt: skip
        return
    loops = {
        way: in_a_process(way, given.network, weights, given.work, given.steps)
        for way in ("published", "timm")
    }
    passes = EPOCHS * 5000
    rows = [
        (f"{way}, every epoch", f"{taken / 60:8.1f} min  {passes:7,} passes  1.0"
         if way == "published" else
         f"{taken / 60:8.1f} min  {passes:7,} passes  {loops['published'] / taken:.1f}")
        for way, taken in loops.items()
    ]  # fmt: skip

    for name, text in rows:
        print(name, text, flush=True)

    def row(name: str, run: Any) -> tuple[str, str]:
        taken = run.info["seconds"]["total"]
        features = run.info["features"]
        text = (
            f"{taken / 60:8.2f} min  {features['computed']:7,} passes"
            f"  {loops['published'] / taken:.1f}  test {run.test['accuracy']:.2%},"
            f" {features['precision']}"
        )
        print(name, text, flush=True)
        return name, text

    for views in map(int, given.views.split(",")):
        rows.append(row(f"reslab, {views} view(s)", reslab_run(given, weights, views, True)))
        again = reslab_run(given, weights, views, False, seed=7, lr=3e-4)
        rows.append(row("  another seed and rate", again))
    solved = {"head": "solved", "class_weights": "balanced"}
    given.extra = solved
    rows.append(row("  a solved head", reslab_run(given, weights, views, False)))
    table(f"{given.network} on food10, {EPOCHS} epochs, times as fast as the published loop", rows)


if __name__ == "__main__":
    main()
