"""Built-in data sets: digits from scikit-learn, the others through torchvision's own classes."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.pictures.cache import cache_folder
from reslab.pictures.held_pixels import HeldPixels
from reslab.pictures.names import Names
from reslab.pictures.table import Pictures, Samples

BUILTINS = {
    "digits": "1,797 handwritten digits, 8x8, in scikit-learn: no download",
    "mnist": "70,000 handwritten digits, 28x28",
    "fashion-mnist": "70,000 pictures of clothes, 28x28",
    "cifar10": "60,000 pictures of 10 classes, 32x32",
    "cifar100": "60,000 pictures of 100 classes, 32x32",
}
_TORCHVISION = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
_FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


_PACKED = 4  # files of MNIST and its like, as they are published


def open_builtin(name: str, data_root: str | Path | None) -> Pictures:
    """A built-in data set, from `data_root`, RESLAB_DATA or the cache; downloaded if absent."""
    if name == "digits":
        return _digits()
    given = data_root or os.environ.get("RESLAB_DATA")
    root = user_path(given) if given else cache_folder() / "data"
    import torchvision

    folder = root / _FOLDERS[name]
    present = folder.is_dir()
    packed = len(list(folder.glob("*-ubyte.gz"))) == _PACKED  # torchvision unpacks them
    absent = [part for part in (folder, *folder.parents) if not part.exists()]
    data_set = getattr(torchvision.datasets, _TORCHVISION[name])
    splits = {}
    for split in ("train", "test"):
        try:
            found = data_set(str(root), train=split == "train", download=packed or not present)
        except Exception as error:  # torchvision raises what it meets: OSError, ValueError, ...
            for part in absent:  # an empty folder would pass for damaged data the next time
                with suppress(OSError):
                    part.rmdir()
            raise InputError(_missing(name, root, present, error)) from None
        pixels, labels = torch.as_tensor(found.data), found.targets
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        splits[split] = _samples(split, pixels, np.asarray(labels, dtype=np.int64))
    classes = tuple(str(label) for label in found.classes)
    if name == "mnist":  # torchvision names them "0 - zero"
        classes = tuple(str(digit) for digit in range(10))
    return Pictures(name, classes, splits)


def _missing(name: str, root: Path, present: bool, error: Exception) -> str:
    folder = root / _FOLDERS[name]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if present:
        return f"{folder}: {name} is incomplete or damaged ({reason}); delete the folder or mend it"
    return (
        f"{name} is not in {root} and could not be downloaded ({reason});"
        f" put its files into {folder} or name their folder with --data-root"
    )


def _digits() -> Pictures:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(np.rint(found.images * (255 / 16)).astype(np.uint8))[:, None]
    samples = _samples("digits", pixels, found.target.astype(np.int64))
    return Pictures("digits", tuple(str(digit) for digit in range(10)), {"train": samples})


def _samples(name: str, pixels: torch.Tensor, labels: np.ndarray) -> Samples:
    names = Names.of(f"{name}/{row:05d}" for row in range(len(labels)))
    return Samples(names, labels, pixels=HeldPixels(pixels))
