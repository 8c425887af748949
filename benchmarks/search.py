"""Few photos: a solved head's strength by a carved validation split, and by 5 folds; and a search.

    python benchmarks/search.py                    food10 with 5 and 20 photos a class, 8 draws each
    python benchmarks/search.py --draws 3 --classes 3 --trials 5        a quick one

tf_efficientnet_lite0, the recipe photos. Each draw takes other training photos; the test split is
the whole one. "best possible" is the strength that the test itself would have chosen. The search
trains a head on cached features for --trials trials, and `reslab train` one with the same recipe.
"""

import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from measuring import SHARED, food_folder, parser, seconds, table

import reslab

REAL = "tf_efficientnet_lite0"


def few_photos(folder: Path, place: Path, each: int, draw: int, classes: int) -> dict[str, Any]:
    """A list of so many training photos of each class, drawn by number; DATA and its options."""
    rng = np.random.default_rng([each, draw])
    by_class: dict[str, list[str]] = {}
    for line in (folder / "train.txt").read_text("utf-8").splitlines():
        by_class.setdefault(line.rsplit(maxsplit=1)[1], []).append(line)
    kept = sorted(by_class)[:classes]
    chosen = [line for name in kept for line in rng.choice(by_class[name], each, replace=False)]
    place.mkdir(parents=True, exist_ok=True)
    test = (folder / "test.txt").read_text("utf-8").splitlines()
    held = [line for line in test if line.rsplit(maxsplit=1)[1] in kept]
    lists = {"train": place / f"train-{each}-{draw}.txt", "test": place / "test.txt"}
    lists["train"].write_text("\n".join(chosen) + "\n", "utf-8")
    lists["test"].write_text("\n".join(held) + "\n", "utf-8")
    names = (folder / "classes.txt").read_text("utf-8").splitlines()[:classes]
    (place / "classes.txt").write_text("\n".join(names) + "\n", "utf-8")
    return {"data": lists["train"], "test": lists["test"], "root": folder}


def learned(
    given: Any, data: dict[str, Any], out: str, recipe: Any = "photos", **more: Any
) -> reslab.Run:
    named = (
        {} if recipe != "photos" else {"network": REAL, "weights": weights(), "precision": "fp32"}
    )
    return reslab.train(
        data["data"], test=data["test"], root=data["root"], recipe=recipe, overwrite=True,
        out=given.work / "search-runs" / out, quiet=True, **named, **more,
    )  # fmt: skip


def weights() -> Path:
    return SHARED / "weights" / f"{REAL}.safetensors"


def told(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):6.2%} (spread {spread:.2%})"


def few(given: Any, each: int) -> None:
    folder = food_folder(given.data)
    carved, folds, possible, refitted = [], [], [], []
    claimed: dict[str, list[float]] = {"carved": [], "folds": []}
    for draw in range(given.draws):
        data = few_photos(folder, given.work / "lists", each, draw, given.classes)
        one = learned(given, data, "carved")
        other = learned(given, data, "folds", folds=5, watch_test=True)
        carved.append(one.test["accuracy"])
        folds.append(other.test["accuracy"])
        by_strength = {line["strength"]: line["test_accuracy"] for line in other.history}
        possible.append(max(by_strength.values()))
        refitted.append(by_strength[one.info["best_strength"]])
        for name, run in (("carved", one), ("folds", other)):
            assert run.validation is not None
            claimed[name].append(abs(run.validation["accuracy"] - run.test["accuracy"]))
        print(
            f"{each} a class, draw {draw}: carved {carved[-1]:.2%} (strength"
            f" {one.info['best_strength']:.3g}, {one.validation['n']} judged), folds"
            f" {folds[-1]:.2%} (strength {other.info['best_strength']:.3g},"
            f" {other.validation['n']} judged), best possible {possible[-1]:.2%}",
            flush=True,
        )
    gains = [b - a for a, b in zip(carved, folds, strict=True)]
    table(f"test accuracy, {each} photos a class, {given.draws} draws", [
        ("strength by a carved tenth", told(carved)),
        ("the same strength, solved on all", told(refitted)),
        ("strength by 5 folds", told(folds)),
        ("difference, draw by draw", told(gains)),
        ("folds better, equal, worse", f"{sum(g > 0 for g in gains)}, {sum(g == 0 for g in gains)},"
         f" {sum(g < 0 for g in gains)}"),
        ("best possible strength", told(possible)),
        ("validation off test, carved", told(claimed["carved"])),
        ("validation off test, folds", told(claimed["folds"])),
    ])  # fmt: skip


def searched(given: Any) -> None:
    folder = food_folder(given.data)
    data = few_photos(folder, given.work / "lists", 20, 0, given.classes)
    out = given.work / "search-runs" / "search"
    shutil.rmtree(out, ignore_errors=True)
    common = {"head": "trained"}
    alone = seconds(lambda: learned(given, data, "alone", **common))
    again = seconds(lambda: learned(given, data, "alone", **common))
    found: list[reslab.Search] = []
    whole = seconds(lambda: found.append(reslab.search(
        data["data"], test=data["test"], root=data["root"], recipe="photos", network=REAL,
        weights=weights(), precision="fp32", quiet=True, trials=given.trials, out=out,
        fields={"split.validation": 0.25}, **common,
    )))  # fmt: skip
    trials = [trial.seconds for trial in found[0].trials]
    winner = learned(given, data, "winner", recipe=found[0].recipe)
    plain = learned(given, data, "plain", fields={"split.validation": 0.25}, **common)
    solved = learned(given, data, "solved", fields={"split.validation": 0.25})
    table(f"a search of {given.trials} trials, 20 photos a class, a trained head", [
        ("`reslab train`, first; again", f"{alone:.1f} s; {again:.1f} s"),
        ("the whole search", f"{whole:.1f} s"),
        ("a trial: first, median, slowest after", f"{trials[0]:.2f} s, "
         f"{statistics.median(trials[1:]):.2f} s, {max(trials[1:]):.2f} s"),
        ("stopped early", str(found[0].record.ended("pruned"))),
        ("winner's validation", f"{found[0].best.validation.accuracy:.2%}"),
        ("winner trained, test", f"{winner.test['accuracy']:.2%}"),
        ("the recipe as it is, test", f"{plain.test['accuracy']:.2%}"),
        ("its solved head, test", f"{solved.test['accuracy']:.2%}"),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--data", type=Path, default=Path("/tmp/reslab-bench"), help="of food10")
    options.add_argument("--draws", type=int, default=8)
    options.add_argument(
        "--each", default="5,20", help="photos a class; empty for the search alone"
    )
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--trials", type=int, default=20)
    given = options.parse_args()
    for each in map(int, filter(None, given.each.split(","))):
        few(given, each)
    searched(given)


if __name__ == "__main__":
    main()
