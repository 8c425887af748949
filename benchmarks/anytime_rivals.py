"""Rivals of training by the clock: timm's way and fastai's `fine_tune`, in the same minutes.

Both as their documentation says, with their own defaults. Neither knows a clock: they are stopped
by one, and the number of epochs of fastai's schedule is what fits by a few batches that are timed
before and not counted, no more than the time for the test is. fastai is no dependency of ours:

    pip install --no-deps fastai fastcore fasttransform plum-dispatch "fastprogress<1.1" ...
"""

import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import SHARED
from torch.utils.data import DataLoader
from torchvision import transforms as T
from transfer import REAL, Listed, network_of

BATCH, RATE, DECAY, SMOOTHING = 32, 3e-4, 0.05, 0.1
FASTAI_BATCH = 64


def timm_way(data: Path, minutes: float, seed: int) -> list[tuple[str, str]]:
    """All layers from the first step on, along a cosine over the minutes; the last weights."""
    torch.manual_seed(seed)
    mean, std = (0.5,) * 3, (0.5,) * 3
    train = T.Compose([
        T.RandomResizedCrop(224, (0.5, 1.0), interpolation=T.InterpolationMode.BICUBIC),
        T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std),
    ])  # fmt: skip
    test = T.Compose([
        T.Resize(256, T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor(),
        T.Normalize(mean, std),
    ])  # fmt: skip
    began = time.monotonic()
    network = network_of(REAL, SHARED / "weights" / f"{REAL}.safetensors")
    network.requires_grad_(True)
    loader = DataLoader(
        Listed(data, "train.txt", train), BATCH, shuffle=True, num_workers=2, drop_last=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    network = network.to(memory_format=torch.channels_last)
    network.train()
    steps = 0
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        for x, y in loader:
            share = min(1.0, (time.monotonic() - began) / (60 * minutes))
            if share >= 1:
                break
            rate = RATE * min(1, (steps + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            logits = network(x.to(memory_format=torch.channels_last))
            F.cross_entropy(logits, y, label_smoothing=SMOOTHING).backward()
            optimizer.step()
            steps += 1
    network.eval()
    right = count = 0
    with torch.inference_mode():
        for x, y in DataLoader(Listed(data, "test.txt", test), 64, num_workers=2):
            right += int((network(x).argmax(1) == y).sum())
            count += len(y)
    return [(f"  timm's way, seed {seed}, {steps} steps", f"{right / count:.2%}")]


def fastai_way(data: Path, minutes: float, seed: int) -> list[tuple[str, str]]:
    """vision_learner and fine_tune: an epoch of the head, then all layers, at fastai's rates."""
    warnings.filterwarnings("ignore")
    from fastai.vision import all as fv
    from safetensors.torch import load_file

    def listed(name: str) -> tuple[list[Path], list[str]]:
        lines = [line.rsplit(maxsplit=1) for line in (data / name).read_text().splitlines()]
        return [data / path for path, _ in lines], [label for _, label in lines]

    def learner() -> Any:
        files, labels = listed("train.txt")
        normalise = fv.Normalize.from_stats([0.5] * 3, [0.5] * 3)
        loaders = fv.ImageDataLoaders.from_lists(
            data, files, labels, valid_pct=0.1, seed=seed, bs=FASTAI_BATCH, num_workers=2,
            item_tfms=fv.Resize(224), batch_tfms=[*fv.aug_transforms(), normalise],
        )  # fmt: skip
        found = fv.vision_learner(
            loaders, REAL, pretrained=False, normalize=False, metrics=fv.accuracy
        )
        weights = load_file(SHARED / "weights" / f"{REAL}.safetensors")
        found.model[0].model.load_state_dict(weights, strict=False)
        return found

    class Until(fv.Callback):
        """Ends the training at a moment."""

        def __init__(self, moment: float) -> None:
            self.moment, self.steps = moment, 0

        def before_batch(self) -> None:
            if time.monotonic() > self.moment:
                raise fv.CancelFitException
            self.steps += self.training

    def seconds_a_batch(*, frozen: bool) -> float:
        tried = learner()
        tried.freeze() if frozen else tried.unfreeze()
        with tried.no_bar(), tried.no_logging():
            until = Until(time.monotonic() + 8)
            tried.fit(1, cbs=until)
        return 8 / max(1, until.steps)

    batches = len(listed("train.txt")[0]) * 0.9 / FASTAI_BATCH
    head, whole = (batches * seconds_a_batch(frozen=one) for one in (True, False))
    epochs = max(1, round((60 * minutes - head) / whole))
    began = time.monotonic()
    fv.set_seed(seed)
    learn = learner()
    until = Until(began + 60 * minutes)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs, cbs=until)
    files, labels = listed("test.txt")
    said, _ = learn.get_preds(dl=learn.dls.test_dl(files))
    names = learn.dls.vocab
    right = sum(names[int(row.argmax())] == label for row, label in zip(said, labels, strict=True))
    told = f"  fastai's fine_tune({epochs}), seed {seed}, {until.steps} steps"
    return [(told, f"{right / len(labels):.2%}")]
