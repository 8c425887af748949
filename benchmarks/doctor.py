"""What the doctor finds and costs: copies planted in food10, flipped labels, CIFAR-10, growth.

Beside cleanvision and cleanlab where they are installed: pip install cleanvision cleanlab
"""

import argparse
import contextlib
import hashlib
import io
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import SHARED, cifar_folder, food_folder, parser, table
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
NETWORK = "tf_efficientnet_lite0"
Maker = Callable[[Image.Image, random.Random], Image.Image]


def cropped(picture: Image.Image, rng: random.Random) -> Image.Image:
    width, height = (round(0.9 * side) for side in picture.size)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def lit(picture: Image.Image, rng: random.Random) -> Image.Image:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast):
        factor = rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.15, 1.4)])
        picture = kind(picture).enhance(factor)
    return picture


def captioned(picture: Image.Image, rng: random.Random) -> Image.Image:
    picture = picture.copy()
    pen, high = ImageDraw.Draw(picture), round(picture.height * rng.uniform(0.08, 0.15))
    top = 0 if rng.random() < 0.3 else picture.height - high
    colour = rng.choice(["white", "black", (20, 40, 90)])
    pen.rectangle((0, top, picture.width, top + high), fill=colour)
    pen.text((8, top + high // 4), f"my dinner of {rng.randint(1, 31)} May", fill="red")
    return picture


def smaller(picture: Image.Image, rng: random.Random) -> Image.Image:
    share = rng.uniform(0.4, 0.8)
    size = round(picture.width * share), round(picture.height * share)
    return picture.resize(size, Image.Resampling.BICUBIC)


def bordered(picture: Image.Image, rng: random.Random) -> Image.Image:
    margin = round(min(picture.size) * rng.uniform(0.03, 0.1))
    return ImageOps.expand(picture, margin, rng.choice(["white", "black", (90, 20, 20)]))


WAYS: dict[str, Maker | None] = {
    "same bytes": None,
    "same pixels": lambda picture, rng: picture,
    "recompressed": lambda picture, rng: picture,
    "resized": smaller,
    "cropped by a tenth": cropped,
    "light and contrast": lit,
    "mirrored": lambda picture, rng: ImageOps.mirror(picture),
    "turned by 2 to 8 degrees": lambda picture, rng: picture.rotate(
        rng.choice([-1, 1]) * rng.uniform(2, 8), Image.Resampling.BICUBIC
    ),
    "caption": captioned,
    "border": bordered,
}


def planted(work: Path, each: int, seed: int) -> tuple[Path, dict[str, tuple[str, str]]]:
    """food10 with copies of random photos in both splits; {copy: (way, original)}."""
    source, folder = food_folder(work), work / f"planted-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "copies").mkdir(parents=True)
    (folder / "images").symlink_to(source / "images")
    rng = random.Random(seed)
    lists = {name: (source / name).read_text().splitlines() for name in ("train.txt", "test.txt")}
    originals = rng.sample([line for lines in lists.values() for line in lines], each * len(WAYS))
    truth = {}
    for number, (way, make) in enumerate(WAYS.items()):
        for line in originals[number * each : (number + 1) * each]:
            path, label = line.rsplit(" ", 1)
            name = f"copies/{len(truth)}{'.png' if way == 'same pixels' else '.jpg'}"
            if make is None:
                shutil.copyfile(source / path, folder / name)
            else:
                with Image.open(source / path) as opened:
                    made = make(opened.convert("RGB"), rng)
                quality = rng.randint(25, 60) if way == "recompressed" else 90
                made.save(folder / name, **({"quality": quality} if name[-1] == "g" else {}))
            truth[name] = way, path
            lists[rng.choice(list(lists))].append(f"{name} {label}")
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    shutil.copyfile(source / "classes.txt", folder / "classes.txt")
    return folder, truth


def families(truth: dict[str, tuple[str, str]]) -> dict[str, str]:
    """For each picture of a family of copies its original."""
    return {name: original for name, (_, original) in truth.items()} | {
        original: original for _, original in truth.values()
    }


def judged(
    pairs: set[frozenset[str]], real: set[frozenset[str]], truth: dict[str, tuple[str, str]]
) -> dict[str, tuple[float, float]]:
    """Recall and precision by way and overall; pairs of the untouched set itself do not count."""
    home = families(truth)
    families_real = {frozenset(home.get(one, one) for one in pair) for pair in real}

    def right(pair: frozenset[str]) -> bool:
        of = frozenset(home.get(one, one) for one in pair)
        return len(of) == 1 or of in families_real

    found: dict[str, tuple[float, float]] = {}
    for way in (*WAYS, "overall"):
        own = {name for name, (kind, _) in truth.items() if way in (kind, "overall")}
        hit = {name for name in own if any(name in pair and right(pair) for pair in pairs)}
        about = [pair for pair in pairs if pair & own]
        precise = sum(right(pair) for pair in about) / max(1, len(about))
        found[way] = len(hit) / len(own), precise
    return found


def pairs_of_check(folder: Path, work: Path) -> tuple[set[frozenset[str]], list[str], float]:
    """Pairs of issues.csv, names of exact copies, seconds."""
    import csv

    out = work / "check-out"
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "reslab", "check", str(folder), "--out", str(out), "--quiet"],
        check=True, capture_output=True,
    )  # fmt: skip
    spent = time.perf_counter() - began
    with (out / "issues.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in ("exact-copy", "near-copy")]
    exact = [name for row in rows if row["kind"] == "exact-copy"
             for name in (row["path"], row["other"])]  # fmt: skip
    return {frozenset((row["path"], row["other"])) for row in rows}, exact, spent


def pairs_of_cleanvision(folder: Path) -> tuple[set[frozenset[str]], float] | None:
    try:
        from cleanvision import Imagelab
    except ImportError:
        return None
    names = [
        line.rsplit(" ", 1)[0]
        for name in ("train.txt", "test.txt")
        for line in (folder / name).read_text().splitlines()
    ]
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        lab = Imagelab(filepaths=[str(folder / name) for name in names])
        lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=2, verbose=False)
    sets = [
        group
        for kind in ("exact_duplicates", "near_duplicates")
        for group in lab.info[kind]["sets"]
    ]
    pairs = set()
    for group in sets:
        inside = [os.path.relpath(one, folder) for one in group]
        pairs |= {frozenset((inside[0], other)) for other in inside[1:]}
    return pairs, time.perf_counter() - began


def copies(given: argparse.Namespace) -> None:
    real, _, _ = pairs_of_check(food_folder(given.work), given.work)
    folder, truth = planted(given.work, given.each, given.seed)
    before = digest_of(folder)
    pairs, exact, spent = pairs_of_check(folder, given.work)
    untouched = before == digest_of(folder)
    ours = judged(pairs, real, truth)
    theirs = pairs_of_cleanvision(folder)
    rival = judged(theirs[0], real, truth) if theirs else None
    rows = []
    for way, (recall, precision) in ours.items():
        beside = f"; cleanvision {rival[way][0]:.3f}, {rival[way][1]:.3f}" if rival else ""
        rows.append((way, f"recall {recall:.3f}, precision {precision:.3f}{beside}"))
    wanted = {name for name, (way, _) in truth.items() if way.startswith("same")}
    named = {name for name in exact if name in truth}
    rows += [
        ("called exact", f"{len(wanted & named)} of {len(wanted)}, {len(named - wanted)} others"),
        ("time", f"{spent:.1f} s, the whole command"
         + (f"; cleanvision {theirs[1]:.1f} s in this process" if theirs else "")),
        ("pairs in food10 itself", f"{len(real)}"),
        ("files changed", "none" if untouched else "SOME"),
    ]  # fmt: skip
    table(f"{given.each} copies each way among 5,000 photos, seed {given.seed}", rows)


def digest_of(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(f"{path} {path.stat().st_mtime_ns} ".encode() + path.read_bytes())
    return found.hexdigest()


def food_features(work: Path) -> tuple[torch.Tensor, np.ndarray, torch.Tensor, np.ndarray]:
    """Features and labels of food10's train and test photos, from the cache or computed."""
    from reslab.checking.frozen import features_of
    from reslab.checking.looks import look_over
    from reslab.pictures.data_source import DataSource
    from reslab.pictures.reading import untracked
    from reslab.run.display import Display
    from reslab.using.check import judge_of

    looked = look_over(DataSource.named(food_folder(work)).open(), untracked)
    before, preprocessing = judge_of(NETWORK, WEIGHTS, None)(looked)
    features = features_of(looked, before, preprocessing, "cpu", Display())
    count = len(looked.pictures.splits["train"])
    return features[:count], looked.labels[:count], features[count:], looked.labels[count:]


def labels(given: argparse.Namespace) -> None:
    """Flipped labels are the truth; food10's own noise counts against both, for want of better."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    from reslab.checking.frozen import DOUBTED
    from reslab.checking.labels import doubts

    x, clean, test_x, test_y = food_features(given.work)
    alone = np.arange(len(clean))
    rows = []
    for share in (0.02, 0.05, 0.1):
        rng = np.random.default_rng(given.seed)
        flipped = rng.random(len(clean)) < share
        noisy = clean.copy()
        noisy[flipped] = (noisy[flipped] + rng.integers(1, 10, flipped.sum())) % 10
        began = time.perf_counter()
        found = doubts(x, noisy, alone, 10)
        spent = time.perf_counter() - began
        flagged = found.judged & (found.score >= DOUBTED)
        text = (
            f"average precision {average_precision_score(flipped, found.score):.3f}; named"
            f" {flagged.sum()}, precision {flipped[flagged].mean():.2f}, recall"
            f" {flagged[flipped].mean():.2f}; {spent:.1f} s"
        )
        with contextlib.suppress(ImportError):
            from cleanlab.filter import find_label_issues

            theirs = find_label_issues(noisy, found.probabilities)
            precision, recall = flipped[theirs].mean(), theirs[flipped].mean()
            along, of, _ = precision_recall_curve(flipped, found.score)
            text += (
                f"; cleanlab's default precision {precision:.2f}, recall {recall:.2f}; at that"
                f" precision ours {of[along >= precision].max():.2f}"
            )
        rows.append((f"{share:.0%} flipped", text))
        if share == 0.1:
            kept = ~flagged
            scores = [
                accuracy(x[rows_], of[rows_], test_x, test_y)
                for of, rows_ in ((clean, alone), (noisy, alone), (noisy, np.flatnonzero(kept)))
            ]
            cost, regained = scores[0] - scores[1], scores[2] - scores[1]
            rows.append((
                "test accuracy",
                f"{scores[0]:.2%} clean, {scores[1]:.2%} with 10 % flipped, {scores[2]:.2%} without"
                f" what is named: {regained / max(cost, 1e-9):.0%} of {100 * cost:.2f} points",
            ))  # fmt: skip
    table(f"flipped labels among 3,750 training photos, {NETWORK}", rows)


def accuracy(x: torch.Tensor, y: np.ndarray, test_x: torch.Tensor, test_y: np.ndarray) -> float:
    """Of a head at the strength that an inner tenth chooses, on the test photos."""
    from torch import nn

    from reslab.features.solving import HeadProblem, best_head

    order = np.random.default_rng(0).permutation(len(y))
    inner, rest = np.split(order, [len(y) // 10])
    head = nn.Linear(x.shape[1], 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    held = x[inner], torch.from_numpy(y[inner])
    best_head(head, HeadProblem(x[rest], torch.from_numpy(y[rest]), None), held)
    with torch.no_grad():
        return float((head(test_x).argmax(1).numpy() == test_y).mean())


def whole(given: argparse.Namespace) -> None:
    """The whole command on a folder, in a process of its own, with a cache of its own."""
    folder = cifar_folder(given.work) if given.cifar else food_folder(given.work)
    options = [] if given.cifar else ["--network", NETWORK, "--weights", str(WEIGHTS)]
    out, cache = given.work / "whole-out", given.work / "whole-cache"
    rows = []
    for name in ("first", "with features known") if options else ("first",):
        if name == "first":
            shutil.rmtree(cache, ignore_errors=True)
        else:  # all but the features is computed anew
            shutil.rmtree(cache / "copies", ignore_errors=True)
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        done = subprocess.run(
            [sys.executable, "-m", "reslab", "check", str(folder), "--out", str(out), *options],
            check=True, capture_output=True, text=True,
            env={**os.environ, "RESLAB_CACHE": str(cache)},
        )  # fmt: skip
        peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
        rows.append((name, f"{time.perf_counter() - began:.1f} s, {peak:,.0f} MB at most"))
    rows += [(line.split()[0], " ".join(line.split()[1:])) for line in done.stdout.splitlines()[1:]]
    table(f"reslab check {folder.name}", rows)


def growth(given: argparse.Namespace) -> None:
    """Synthetic thumbs, keys and features: what time and memory become with their number."""
    from reslab.checking.outliers import far_away
    from reslab.pictures.copies.signatures import candidates

    rows = []
    for count in [int(float(one)) for one in given.counts.split(",")]:
        rng = np.random.default_rng(0)
        grain = rng.integers(0, 256, (count, 8, 8), np.uint8)
        grain[1::100] = grain[::100][: len(grain[1::100])]  # a hundredth are copies
        thumbs = torch.from_numpy(grain.repeat(4, 1).repeat(4, 2))
        began = time.perf_counter()
        found = candidates(thumbs)
        looked_up = time.perf_counter() - began
        copied = int(((found.first ^ found.second) == 1).sum())
        keys = rng.integers(0, 2**63, count).astype(np.uint64)
        began = time.perf_counter()
        np.unique(keys, return_inverse=True)
        keyed = time.perf_counter() - began
        features = torch.from_numpy(rng.normal(size=(count, 64)).astype(np.float32))
        began = time.perf_counter()
        far_away(features, rng.integers(0, 10, count))
        outlying = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append((
            f"{count:,}",
            f"keys {keyed:.2f} s, lookups {looked_up:.1f} s ({len(found.first):,} pairs, {copied:,}"
            f" of {count // 100:,} copies), outliers {outlying:.1f} s; {peak:,.0f} MB at most",
        ))  # fmt: skip
    table("growth, synthetic pictures of 32 x 32, features of 64", rows)


PARTS = {each.__name__: each for each in (copies, labels, whole, growth)}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("part", choices=PARTS)
    options.add_argument("--each", type=int, default=200, help="copies of each way")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--cifar", action="store_true", help="CIFAR-10 in the place of food10")
    options.add_argument("--counts", default="1e4,1e5,1e6")
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    PARTS[given.part](given)


if __name__ == "__main__":
    main()
