"""Training by the clock on food10, and its rivals in the same minutes.

    python benchmarks/anytime.py --minutes 1 3 10 30 --seeds 0 1 2      an empty cache for each
    python benchmarks/anytime.py --minutes 3 --rivals timm fastai recipe      rivals alone
    python benchmarks/anytime.py --minutes 1 --a-class 5      so many training photos a class
    python benchmarks/anytime.py --kills 100 --minutes 0.5    digits, killed and resumed so often

Of each run: its wall-clock time from its start to its exit, seen from outside; when the first model
lay on the disk, whether it predicted while training went on, and the accuracy on the 1,250 test
photos, which is scored once. The rivals are in anytime_rivals.py; "recipe" is `reslab train` as it
is without a clock, which takes as long as it takes.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anytime_rivals import fastai_way, timm_way
from measuring import SHARED, food_folder, parser, table
from transfer import REAL

PRETRAINED = ("--network", REAL, "--weights", str(SHARED / "weights" / f"{REAL}.safetensors"))


def fixed_recipe(data: Path, minutes: float, seed: int) -> list[tuple[str, str]]:
    """The recipe for photos, with an empty cache and no clock."""
    with tempfile.TemporaryDirectory() as work:
        words = ["train", str(data), *PRETRAINED, "--json", "--quiet", "--seed", str(seed)]
        words += ["--out", f"{work}/run"]
        began = time.monotonic()
        environment = os.environ | {"RESLAB_CACHE": f"{work}/cache"}
        told = subprocess.run([*reslab(), *words], env=environment, stdout=subprocess.PIPE,
                              text=True, check=True).stdout  # fmt: skip
        took = time.monotonic() - began
    accuracy = json.loads(told.splitlines()[-1])["test"]["accuracy"]
    return [(f"  the recipe without a clock, seed {seed}, {took:.0f} s", f"{accuracy:.2%}")]


RIVALS = {"timm": timm_way, "fastai": fastai_way, "recipe": fixed_recipe}


def command(data: Path, out: Path, minutes: float, seed: int) -> list[str]:
    words = ["train", str(data), *PRETRAINED, "--json", "--minutes", str(minutes)]
    return [*reslab(), *words, "--seed", str(seed), "--out", str(out), "--overwrite"]


def with_few(data: Path, work: Path, count: int) -> Path:
    """A folder of lists with so many training photos of each class, and all of the test's."""
    folder = work / f"food10-{count}"
    folder.mkdir(exist_ok=True)
    lines: dict[str, list[str]] = {}
    for line in (data / "train.txt").read_text().splitlines():
        lines.setdefault(line.rsplit(maxsplit=1)[1], []).append(line)
    few = [line for of in lines.values() for line in random.Random(0).sample(of, count)]
    (folder / "train.txt").write_text("\n".join(few) + "\n")
    for name in ("test.txt", "classes.txt"):
        shutil.copy(data / name, folder)
    if not (folder / "images").exists():
        (folder / "images").symlink_to(data / "images")
    return folder


def reslab() -> list[str]:
    return [sys.executable, "-m", "reslab"]


def by_clock(data: Path, work: Path, minutes: float, seed: int) -> list[tuple[str, str]]:
    """A run of so many minutes with an empty cache, watched from outside."""
    out, cache = work / f"anytime-{minutes:g}", work / "anytime-cache"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"RESLAB_CACHE": str(cache)}
    photo = next((data / "images").rglob("*.jpg"))
    load, began = os.getloadavg()[0], time.monotonic()
    child = subprocess.Popen(
        command(data, out, minutes, seed), env=environment, stdout=subprocess.PIPE, text=True
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
    info = json.loads(said.splitlines()[-1]) if said.strip() else {}
    test = info.get("test") or {}
    stages = ", ".join(
        f"{stage['name']} {stage['seconds']:.0f} s" for stage in info.get("stages", [])
    )
    return [
        (f"{minutes:g} min, seed {seed}", f"{took:.1f} s, {60 * minutes - took:+.1f} s left"),
        ("  test accuracy", f"{test['accuracy']:.2%}" if test else "not scored"),
        ("  first model", f"after {first:.1f} s, predicting while it trained: {while_training}"),
        ("  stages", stages),
        ("  load", f"{load:.1f} before, {os.getloadavg()[0]:.1f} after"),
    ]


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
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--rivals", nargs="+", choices=RIVALS, default=[], help="these alone")
    arguments.add_argument("--a-class", type=int, help="training photos of each class; all")
    arguments.add_argument("--kills", type=int, default=0, help="kill a run so often")
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    data = Path() if given.kills else food_folder(given.work)
    if given.a_class and not given.kills:
        data = with_few(data, given.work, given.a_class)
    rows: list[tuple[str, str]] = []
    for minutes in given.minutes:
        if given.kills:
            rows += killed(given.work, minutes, given.kills)
            continue
        for name in given.rivals:
            for seed in given.seeds:
                rows += [(f"{minutes:g} min", ""), *RIVALS[name](data, minutes, seed)]
                print(rows[-1], file=sys.stderr, flush=True)
        for seed in given.seeds if not given.rivals else ():
            rows += by_clock(data, given.work, minutes, seed)
    table("training by the clock on food10", rows)


if __name__ == "__main__":
    main()
