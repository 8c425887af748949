"""What the benchmarks share: the machine, taking turns, medians, one table."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from reslab.learning.device import device_name

SHARED = Path(
    os.environ.get("RESLAB_SHARED") or Path(__file__).resolve().parent.parent.parent / "shared"
)
Contender = Callable[[], float]


def parser(what: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=what)
    found.add_argument("--repeats", type=int, default=3, help="measurements of each, in turn")
    found.add_argument("--work", type=Path, default=Path("/tmp/reslab-bench"), help="for data")
    return found


def machine() -> str:
    return f"{device_name('cpu')}, torch {torch.__version__}"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(contenders: dict[str, Contender], repeats: int) -> dict[str, float]:
    """Each contender's median, measured in turn after a first round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, work in contenders.items():
            value = work()
            if turn:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    rows = [("machine", machine()), *rows]
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def mnist_root(work: Path) -> Path:
    """The folder that torchvision's MNIST reads, unpacked once."""
    root = work / "mnist"
    if not (root / "MNIST").is_dir():
        import zipfile

        zipfile.ZipFile(SHARED / "data" / "mnist.zip").extractall(root)
    return root


def cifar_folder(work: Path) -> Path:
    """CIFAR-10 as 60,000 files, unpacked once."""
    folder = work / "cifar10"
    if not (folder / "test").is_dir():
        import subprocess
        import sys

        script = SHARED / "data" / "unpack_cifar10.py"
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


def food_folder(work: Path) -> Path:
    """food10 with its lists, unpacked once."""
    folder = work / "food10"
    if not (folder / "train.txt").is_file():
        import zipfile

        zipfile.ZipFile(SHARED / "data" / "food10.zip").extractall(folder)
    return folder


def random_model(work: Path, name: str) -> Path:
    """A model file of 10 classes at 224 pixels with random weights, which cost as others do."""
    from reslab.networks.catalogue import NetworkSpec, build_network
    from reslab.networks.model_file import Model, save_model
    from reslab.pictures.preprocessing import Preprocessing

    spec = NetworkSpec(name, 10, 3, (224, 224))
    network = build_network(spec, 0)
    half = (0.5, 0.5, 0.5)
    record = Preprocessing(
        size=(224, 224), mode="crop", crop_fraction=0.875, channels=3, mean=half, std=half
    )
    path = work / f"{name}.safetensors"
    classes = tuple(f"class {number}" for number in range(10))
    save_model(path, network.state_dict(), Model(network, spec, classes, record))
    return path
