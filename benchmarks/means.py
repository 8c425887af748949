"""What each means of regularisation gives in points and costs in time: each alone, on and off.

    python benchmarks/means.py                        CIFAR-10, 5,000 pictures, from scratch
    python benchmarks/means.py --network cifar10-fast --train 50000 --test 10000 --epochs 20
    python benchmarks/means.py --food                 food10: a head on frozen features

A seed draws the first weights, the order and all else; each means is compared with the same seed
without it, so that what is told is the mean difference and its standard deviation over seeds.
Seconds are those of training alone; features are computed before, in `features`.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring import SHARED, cifar_folder, food_folder, parser, table

import reslab

FOOD_NETWORK = "tf_efficientnet_lite0"
FROM_SCRATCH: dict[str, dict[str, Any]] = {
    "off": {},
    "ema 0.99": {"ema_decay": 0.99},
    "mixup 0.2": {"mix.mixup": 0.2},
    "cutmix 1": {"mix.cutmix": 1},
    "trivial-wide": {"augment.policy": "trivial-wide"},
    "erase 0.25": {"augment.erase": 0.25},
    "clip norm 1": {"optimizer.clip_norm": 1},
    "drop path 0.1": {"drop_path": 0.1},
    "progressive 0.5": {"progressive.start": 0.5, "progressive.multiple": 8},
    "patience 3": {"patience": 3},
}
ON_FEATURES = ("off", "ema 0.99", "mixup 0.2", "trivial-wide", "erase 0.25", "clip norm 1")


def few(folder: Path, split: str, count: int, place: Path) -> Path:
    """A list of `count` pictures of a split, as many of each class."""
    classes = sorted(path.name for path in (folder / split).iterdir())
    lines = [
        f"{split}/{name}/{path.name} {number}\n"
        for number, name in enumerate(classes)
        for path in sorted((folder / split / name).iterdir())[: count // len(classes)]
    ]
    (place / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    written = place / f"{split}.txt"
    written.write_text("".join(lines))
    return written


def data_of(given: Any, place: Path) -> dict[str, Any]:
    """What names the data, and the recipe that it is trained by."""
    if given.food:
        return {
            "data": food_folder(given.work),
            "recipe": "photos",
            "network": FOOD_NETWORK,
            "weights": SHARED / "weights" / f"{FOOD_NETWORK}.safetensors",
            "views": given.views,
            "lr": 0.001,
            "fields": {"head": "trained", "train_from": "head", "optimizer.name": "adam",
                       "schedule.name": "constant", "schedule.warmup": 0},
        }  # fmt: skip
    folder = cifar_folder(given.work)
    return {
        "data": few(folder, "train", given.train, place),
        "test": few(folder, "test", given.test, place),
        "root": folder,
        "recipe": "small-resnet",
        "network": given.network,
        "fields": {"augment.flip_horizontal": 0.5, "augment.shift": 0.125},
    }


def measured(named: dict[str, Any], means: dict[str, Any], given: Any, seed: int) -> reslab.Run:
    with tempfile.TemporaryDirectory() as place:
        return reslab.train(
            **named | {"fields": named["fields"] | means},
            out=Path(place) / "run",
            seed=seed,
            epochs=given.epochs,
            precision=given.precision,
            quiet=True,
        )


def told(values: list[float], how: str) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{how}} ± {spread:{how.lstrip('+')}}"


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--network", default="small-resnet")
    options.add_argument("--train", type=int, default=5000, help="training pictures of CIFAR-10")
    options.add_argument("--test", type=int, default=2000, help="test pictures of CIFAR-10")
    options.add_argument("--food", action="store_true", help="a head on frozen features of food10")
    options.add_argument("--views", type=int, default=1, help="of food10's pictures")
    options.add_argument("--precision", default="fp32")
    options.add_argument("--only", default="", help="such as 'off,mixup 0.2'")
    given = options.parse_args()
    names = given.only.split(",") if given.only else ON_FEATURES if given.food else FROM_SCRATCH
    found: dict[str, list[reslab.Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        named = data_of(given, Path(place))
        # By seed, so that the machine's moods fall on all alike.
        for seed in range(given.seeds):
            for name in names:
                run = measured(named, FROM_SCRATCH[name], given, seed)
                found[name].append(run)
                print(f"seed {seed}  {name:16} {run.test['accuracy']:.2%}", flush=True)
    rows = []
    for name, runs in found.items():
        points = [100 * run.test["accuracy"] for run in runs]
        text = f"{told(points, '.2f')} %"
        if name != "off":
            off = [100 * run.test["accuracy"] for run in found["off"]]
            text += f"  {told([a - b for a, b in zip(points, off, strict=True)], '+.2f')} points"
        times = [run.info["seconds"]["train"] for run in runs]
        made = statistics.mean(run.info["epochs"] for run in runs)
        rows.append((name, f"{text}  {statistics.median(times):.1f} s for {made:.0f} epochs"))
    what = f"food10 on {FOOD_NETWORK}'s features" if given.food else (
        f"{given.network} on {given.train:,} of CIFAR-10"
    )  # fmt: skip
    table(f"{what}, {given.seeds} seeds", rows)


if __name__ == "__main__":
    main()
