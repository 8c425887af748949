"""How far what reslab says of a network can be trusted.

python benchmarks/trust.py calibration    calibration error before and after, a run of each recipe
python benchmarks/trust.py coverage       what prediction sets hold, over 100 splits of food10
python benchmarks/trust.py luck           false alarms and power of the paired test
python benchmarks/trust.py explanation    whether what Grad-CAM marks matters, on 200 photos
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
from measuring import SHARED, cifar_folder, food_folder, mnist_root, parser

import reslab
from reslab.judging.calibration import calibrate, least_in_set
from reslab.judging.comparison import mcnemar
from reslab.judging.metrics import probabilities
from reslab.networks.explaining import grad_cam, spatial_layer
from reslab.networks.model_file import load_model
from reslab.pictures.table import Samples
from reslab.reporting.thumbnails import seen

LITE0 = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
PHOTOS = {"network": "tf_efficientnet_lite0", "weights": LITE0}


def main() -> None:
    found = parser(__doc__ or "")
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("what", choices=["calibration", "coverage", "luck", "explanation"])
    found.add_argument("--cifar-epochs", type=int, default=3)
    given = found.parse_args()
    {"calibration": calibration, "coverage": coverage, "luck": luck, "explanation": explanation}[
        given.what
    ](given)


def run_of(given: argparse.Namespace, name: str) -> reslab.Run:
    """A run of a recipe, trained once and kept for the other figures."""
    from reslab.run.folder import open_run

    out = given.work / name
    if (out / "run.json").exists() and open_run(out).finished:
        return open_run(out)
    data: str | Path = name
    more: dict[str, object] = {}
    if name.startswith("mnist"):
        data, more = "mnist", {"recipe": name, "data_root": mnist_root(given.work)}
    elif name == "cifar10-fast":  # its recipe carves no validation split
        more = {"recipe": name, "epochs": given.cifar_epochs, "fields": {"split.validation": 5000}}
        data = cifar_folder(given.work)
    elif name == "photos":
        data, more = food_folder(given.work), PHOTOS
    return reslab.train(data, out=out, seed=0, overwrite=out.exists(), **more)


def calibration(given: argparse.Namespace) -> None:
    print("recipe          test   temperature  ECE before   after   Brier before  after  accuracy")
    for name in ("digits", "mnist-resnet", "mnist-cnn", "cifar10-fast", "photos"):
        run = run_of(given, name)
        test, raw = run.test, run.test["raw"]
        print(
            f"{name:14} {test['n']:6,}   {test['temperature']:8.3f}   "
            f"{raw['expected_calibration_error']:9.2%} {test['expected_calibration_error']:8.2%}"
            f"   {raw['brier_score']:9.4f} {test['brier_score']:8.4f}  {test['accuracy']:.2%}"
        )


def held_out(given: argparse.Namespace, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of validation and test pictures together."""
    run = run_of(given, name)
    parts = [
        reslab.evaluate(run.path, run.source.data, split=split, quiet=True)
        for split in ("validation", "test")
    ]
    logits = torch.cat([part.logits for part in parts])
    return logits, torch.cat([torch.from_numpy(part.samples.labels) for part in parts])


def coverage(given: argparse.Namespace) -> None:
    """Calibrate on as many held-out photos as a validation split has, count on the others."""
    logits, labels = held_out(given, "photos")
    size = run_of(given, "photos").info["counts"]["validation"]
    source = torch.Generator().manual_seed(0)
    print(f"food10: 100 splits of {len(labels):,} held-out photos, {size} to calibrate on")
    for nominal in (0.9, 0.95):
        shares, sizes = [], []
        for _ in range(100):
            order = torch.randperm(len(labels), generator=source)
            first, rest = order[:size], order[size:]
            made = calibrate(logits[first], labels[first])
            least = least_in_set(made.held, nominal, "food10")
            table = probabilities(logits[rest], made.temperature)
            shares.append(
                float((table[np.arange(len(rest)), labels[rest].numpy()] >= least).mean())
            )
            sizes.append(float(np.maximum(1, (table >= least).sum(1)).mean()))
        mean = float(np.mean(shares))
        # Of one split: what the draw of the pictures to calibrate on, and of those counted, adds.
        spread = math.sqrt(nominal * (1 - nominal) * (1 / size + 1 / len(rest)))
        inside = np.mean(np.abs(np.array(shares) - nominal) <= 1.96 * spread)
        print(
            f"  asked {nominal:.0%}: held {mean:.2%} on average ({min(shares):.1%} to"
            f" {max(shares):.1%}), {inside:.0%} of splits within the binomial interval of"
            f" {1.96 * spread:.1%}; {np.mean(sizes):.2f} classes a set"
        )


def luck(given: argparse.Namespace) -> None:
    source = np.random.default_rng(0)

    def pairs(n: int, agree: float, gain: float, count: int) -> float:
        """How often p < 0.05 for networks of 80 % whose answers coincide on a share of pictures.

        On the others each is right by itself: of equal ones, one alone on 32 % of those.
        """
        alarms = 0
        for _ in range(count):
            hard = source.random(n) < agree  # on these both are right, or both wrong
            shared = source.random(n) < 0.8
            one = np.where(hard, shared, source.random(n) < 0.8)
            other = np.where(hard, shared, source.random(n) < 0.8 + gain / (1 - agree))
            alarms += mcnemar(int((one & ~other).sum()), int((other & ~one).sum())) < 0.05
        return alarms / count

    print("pairs of networks of 80 % on 1,250 pictures; 10,000 equal pairs, 1,000 of each gain")
    print("one alone   false alarms   power for 1 point   2 points   3 points   5 points")
    for agree in (0.0, 0.5, 0.75, 0.9):
        gains = [gain for gain in (0.0, 0.01, 0.02, 0.03, 0.05) if agree <= 1 - gain / 0.2]
        row = [pairs(1250, agree, gain, 1000 if gain else 10_000) for gain in gains]
        print(f"{0.32 * (1 - agree):9.1%}   " + "   ".join(f"{value:12.1%}" for value in row))
    for n in (100, 359, 10_000):
        print(f"false alarms on {n:,} pictures: {pairs(n, 0.5, 0.0, 10_000):.1%}")


def explanation(given: argparse.Namespace) -> None:
    run = run_of(given, "photos")
    model = load_model(run.path)
    test = reslab.evaluate(run.path, run.source.data, split="test", quiet=True)
    rows = np.random.default_rng(0).permutation(len(test.samples))[:200]
    pixels = seen(Samples(test.samples.paths, test.samples.labels, test.samples.files,
                          keys=test.samples.keys), rows, model)  # fmt: skip
    said = test.logits[rows].argmax(1)
    x = model.preprocessing.normalise(pixels)
    layer = spatial_layer(model.network, x[:1])
    maps = np.concatenate([
        grad_cam(model.network, x[k : k + 10], said[k : k + 10], layer) for k in range(0, 200, 10)
    ])  # fmt: skip
    before = chances(model, x, said)
    marked = chances(model, blanked(x, maps), said)
    source = np.random.default_rng(1)
    print(f"food10, 200 photos, {layer} of {model.spec.name}; mean probability {before.mean():.1%}")
    print(f"  20 % that are marked blanked: {marked.mean():.1%}")
    for kind, grid in (("in patches as coarse as the map", 7), ("pixel by pixel", 224)):
        random = chances(model, blanked(x, random_maps(source, len(x), grid, x.shape[-1])), said)
        print(
            f"  20 % at random {kind}: {random.mean():.1%};"
            f" the marks lower it more on {np.mean(marked < random):.1%} of photos"
        )
    moved = np.stack(
        [np.roll(one, tuple(source.integers(0, x.shape[-1], 2)), (0, 1)) for one in maps]
    )
    random = chances(model, blanked(x, moved), said)
    print(
        f"  the same marks moved at random: {random.mean():.1%}; where they belong they lower it"
        f" more on {np.mean(marked < random):.1%} of photos"
    )
    redrawn = copy.deepcopy(model.network)
    torch.manual_seed(0)
    names = [name for name, _ in redrawn.named_modules()]
    for name in names[-40:]:
        layer_ = redrawn.get_submodule(name)
        if isinstance(layer_, torch.nn.Conv2d | torch.nn.Linear):
            layer_.reset_parameters()
    other = np.concatenate([
        grad_cam(redrawn, x[k : k + 10], said[k : k + 10], layer) for k in range(0, 200, 10)
    ])  # fmt: skip
    from scipy.stats import spearmanr

    ranks = [spearmanr(one.ravel(), two.ravel()).statistic
             for one, two in zip(maps[:, ::16, ::16], other[:, ::16, ::16], strict=True)
             if one.std() and two.std()]  # fmt: skip
    print(f"  last layers drawn anew: rank correlation of the maps {np.mean(ranks):.2f}")


def chances(model: object, x: torch.Tensor, said: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        logits = torch.cat([model.network(part) for part in x.split(20)])
    return probabilities(logits, model.temperature)[np.arange(len(x)), said.numpy()]


def blanked(x: torch.Tensor, maps: np.ndarray) -> torch.Tensor:
    """The fifth of each picture's pixels with the highest marks set to the mean colour."""
    out = x.clone()
    flat = torch.from_numpy(maps).flatten(1)
    rows = flat.argsort(dim=1, descending=True)[:, : flat.shape[1] // 5]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, rows, True)
    return out.masked_fill(mask.view(len(x), 1, *x.shape[-2:]), 0.0)


def random_maps(source: np.random.Generator, n: int, grid: int, size: int) -> np.ndarray:
    coarse = source.random((n, 1, grid, grid)).astype(np.float32)
    maps = torch.nn.functional.interpolate(torch.from_numpy(coarse), (size, size), mode="nearest")
    tie = source.random(maps.shape).astype(np.float32) * 1e-6
    return maps[:, 0].numpy() + tie[:, 0]


if __name__ == "__main__":
    main()
