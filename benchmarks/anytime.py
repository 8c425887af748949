"""Training by the clock on food10, and a full fine-tuning in timm's way in the same minutes.

    python benchmarks/anytime.py --minutes 1 3 10 30       an empty cache for each
    python benchmarks/anytime.py --minutes 10 --rival         the rival too
    python benchmarks/anytime.py --kills 100 --minutes 0.5    digits, killed and resumed so often

Of each run: its wall-clock time, when the first model lay on the disk, whether it predicted while
training went on, and the accuracy on the 1,250 test photos, which is scored once. The rival is a
loop over torchvision's transforms with two loading processes: AdamW, label smoothing, a cosine over
the minutes, the last weights; its time for the test is not counted.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import SHARED, food_folder, parser, table
from torch.utils.data import DataLoader
from torchvision import transforms as T
from transfer import REAL, Listed, network_of

BATCH, RATE, DECAY, SMOOTHING = 32, 3e-4, 0.05, 0.1


def command(data: Path, out: Path, minutes: float) -> list[str]:
    weights = SHARED / "weights" / f"{REAL}.safetensors"
    words = ["train", str(data), "--network", REAL, "--weights", str(weights), "--json"]
    return [*reslab(), *words, "--minutes", str(minutes), "--out", str(out), "--overwrite"]


def reslab() -> list[str]:
    return [sys.executable, "-m", "reslab"]


def by_clock(data: Path, work: Path, minutes: float) -> list[tuple[str, str]]:
    """A run of so many minutes with an empty cache, watched from outside."""
    out, cache = work / f"anytime-{minutes:g}", work / "anytime-cache"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"RESLAB_CACHE": str(cache)}
    photo = next((data / "images").rglob("*.jpg"))
    load, began = os.getloadavg()[0], time.monotonic()
    child = subprocess.Popen(
        command(data, out, minutes), env=environment, stdout=subprocess.PIPE, text=True
    )
    while child.poll() is None and not (out / "model.safetensors").exists():
        time.sleep(0.1)
    first = time.monotonic() - began
    predicted = subprocess.run(
        [*reslab(), "predict", str(out), str(photo)], capture_output=True, check=False
    )
    while_training = predicted.returncode == 0 and child.poll() is None
    said, _ = child.communicate()
    took = time.monotonic() - began
    info = json.loads(said.splitlines()[-1])
    test = info.get("test") or {}
    stages = ", ".join(
        f"{stage['name']} {stage['seconds']:.0f} s" for stage in info.get("stages", [])
    )
    return [
        (f"{minutes:g} min", f"{took:.1f} s, {60 * minutes - took:+.1f} s left"),
        ("  test accuracy", f"{test['accuracy']:.2%}" if test else "not scored"),
        ("  first model", f"after {first:.1f} s, predicting while it trained: {while_training}"),
        ("  stages", stages),
        ("  load", f"{load:.1f} before, {os.getloadavg()[0]:.1f} after"),
    ]


def rival(data: Path, minutes: float) -> list[tuple[str, str]]:
    """All layers from the first step on, along a cosine over the minutes."""
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
    return [(f"  timm's way, {steps} steps", f"{right / count:.2%}, then the time for the test")]


def killed(work: Path, minutes: float, kills: int) -> list[tuple[str, str]]:
    """A run on digits that is killed at random moments and resumed each time; every tenth resume
    is let go to its end, and its time taken."""
    out = work / "anytime-killed"
    shutil.rmtree(out, ignore_errors=True)
    draw, sound, left, unscored = random.Random(0), 0, [], 0
    for number in range(1, kills + kills // 10 + 1):
        words = ["train", "digits", "--minutes", str(minutes), "--out", str(out), "--overwrite"]
        if (out / "run.json").exists():
            words = ["resume", str(out), "--minutes", str(minutes)]
        began = time.monotonic()
        child = subprocess.Popen([*reslab(), *words, "--json"], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        if number % 11:
            time.sleep(draw.uniform(1, 60 * minutes - 2))
            child.kill()
            child.wait()
        else:
            said, _ = child.communicate()
            left.append(60 * minutes - (time.monotonic() - began))
            unscored += child.returncode != 0 or not json.loads(said.splitlines()[-1]).get("test")
        if (out / "model.safetensors").exists():
            summary = [*reslab(), "summary", str(out), "--json"]
            sound += subprocess.run(summary, capture_output=True, check=False).returncode == 0
        else:
            sound += 1
        print(f"{number}: {sound} sound, left {left[-1:]}", file=sys.stderr, flush=True)
    return [
        (f"{kills} kills", f"{sound - len(left)} times the model was sound, or there was none yet"),
        ("  let to its end", f"{len(left)} times, of which {unscored} without a test score"),
        ("  seconds left", f"{min(left):.1f} to {max(left):.1f}" if left else "none"),
    ]


def main() -> None:
    arguments: argparse.ArgumentParser = parser(__doc__ or "")
    arguments.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10, 30])
    arguments.add_argument("--rival", action="store_true", help="measure timm's way too")
    arguments.add_argument("--kills", type=int, default=0, help="kill a run so often")
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    data = Path() if given.kills else food_folder(given.work)
    rows: list[tuple[str, str]] = []
    for minutes in given.minutes:
        if given.kills:
            rows += killed(given.work, minutes, given.kills)
            continue
        rows += by_clock(data, given.work, minutes)
        if given.rival:
            rows += rival(data, minutes)
    table("training by the clock on food10", rows)


if __name__ == "__main__":
    main()
