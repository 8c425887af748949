"""Exports held against `predict` on 1,000 real pictures, and their speed.

    python benchmarks/export.py                               all four, half an hour on two cores
    python benchmarks/export.py mnist-fast --repeats 5        one of them

Trains what it needs (few epochs: what counts is that the numbers are real), exports it in fp32 and
int8, and predicts 1,000 validation pictures twice: by `Classifier`, and from their files in a
process of its own that knows the exported file, the reader beside it, numpy, Pillow and onnxruntime
alone. Speed is of forward passes on pixels in memory, in turn: reslab's folded network with the
normalisation and the views that prediction has, and onnxruntime with as many threads.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import SHARED, cifar_folder, food_folder, in_turn, mnist_root, parser, seconds, table

import reslab
from reslab.networks.exported import read_exported, run
from reslab.networks.folding import folded
from reslab.networks.inference import as_input, averaged
from reslab.using.agreement import Agreement

LITE = "tf_efficientnet_lite0"

ALONE = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
model, folder, out, batch = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sys.path.insert(0, str(model.parent))
from read_picture import read_picture
session = onnxruntime.InferenceSession(str(model))
contract = json.loads(session.get_modelmeta().custom_metadata_map["reslab"])
paths, found = sorted(folder.iterdir()), []
for first in range(0, len(paths), batch):
    pixels = np.stack([read_picture(contract, path) for path in paths[first : first + batch]])
    found.append(session.run(["probabilities"], {"pixels": pixels})[0])
np.save(out, np.concatenate(found))
assert "torch" not in sys.modules and "reslab" not in sys.modules
print(json.dumps(contract["classes"]))
"""


def mnist_fast(out: Path, given: Any) -> None:
    reslab.train(
        "mnist", recipe="mnist-fast", data_root=mnist_root(given.work), out=out, seed=0,
        fields={"split.validation": given.validation},
    )  # fmt: skip


def cifar10_fast(out: Path, given: Any) -> None:
    reslab.train(
        cifar_folder(given.work), recipe="cifar10-fast", out=out, seed=0,
        epochs=given.cifar_epochs, fields={"split.validation": given.validation},
    )  # fmt: skip


def photos(out: Path, given: Any, network: str, weights: Path) -> None:
    """A head solved on half as many photos of food10 as it is checked on."""
    food, few = food_folder(given.work), out.with_name(f"{network}-photos")
    few.mkdir(exist_ok=True)
    kept = {}
    for name, count in (("train.txt", given.validation * 3 // 2), ("test.txt", 125)):
        lines = (food / name).read_text("utf-8").splitlines()
        kept[name] = [lines[row] for row in np.linspace(0, len(lines) - 1, count).astype(int)]
    for name, some in kept.items():
        (few / name).write_text("\n".join(some), "utf-8")
    (few / "classes.txt").write_bytes((food / "classes.txt").read_bytes())
    reslab.train(
        few / "train.txt", test=few / "test.txt", root=food, recipe="photos", out=out, seed=0,
        network=network, weights=weights, views=1, fields={"split.validation": given.validation},
    )  # fmt: skip


def resnet50(out: Path, given: Any) -> None:
    """Random weights, whose batch norms have seen photos."""
    import torchvision
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.functional import center_crop

    seen = sorted((food_folder(given.work) / "images").rglob("*.jpg"))[::80]
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    x = torch.stack(
        [center_crop(decode_image(str(path), ImageReadMode.RGB), [224, 224]) for path in seen]
    )
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.5
    with torch.no_grad():
        for _ in range(5):
            network((x.float() / 255 - 0.45) / 0.23)
    weights = out.with_suffix(".pth")
    torch.save(network.state_dict(), weights)
    photos(out, given, "resnet50", weights)


def lite(out: Path, given: Any) -> None:
    photos(out, given, LITE, SHARED / "weights" / f"{LITE}.safetensors")


MODELS: dict[str, Callable[[Path, Any], None]] = {
    "mnist-fast": mnist_fast,
    "cifar10-fast": cifar10_fast,
    "resnet50": resnet50,
    LITE: lite,
}


def parity(model: Path, gate: Agreement, work: Path, batch: int) -> tuple[float, float]:
    """(share of equal likeliest classes, largest difference) of files, without torch there."""
    probe = gate.probe
    folder = work / "pictures"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for row in range(len(probe)):
        (folder / f"{row:05}.picture").write_bytes(probe.read(row))
    out = work / "alone.npy"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(model), str(folder), str(out), str(batch)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == list(gate.classes)
    alone, ours = np.load(out), gate.predicted
    return float((ours.argmax(1) == alone.argmax(1)).mean()), float(abs(ours - alone).max())


def speeds(classifier: reslab.Classifier, files: dict[str, Path], given: Any) -> dict[str, float]:
    """Pictures a second of each way."""
    model = classifier.model
    record, passes = model.preprocessing, given.passes
    shape = (given.batch, record.channels, *record.size)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    fused = folded(model.network, as_input(record.normalise(pixels[:1]), "cpu"))

    def ours() -> None:
        with torch.inference_mode():
            for _ in range(passes):
                x = as_input(record.normalise(pixels), "cpu")
                averaged(fused, x, model.averaging)

    ways: dict[str, Callable[[], float]] = {"reslab": lambda: passes * given.batch / seconds(ours)}
    for name, path in files.items():
        session = read_exported(path)[0]

        def theirs(session: Any = session, path: Path = path) -> float:
            taken = seconds(lambda: [run(session, pixels.numpy(), path) for _ in range(passes)])
            return passes * given.batch / taken

        ways[name] = theirs
    return in_turn(ways, given.repeats)


def measure(name: str, given: Any) -> None:
    work = given.work / "export"
    work.mkdir(parents=True, exist_ok=True)
    out = work / name
    if not (out / "model.safetensors").exists():
        MODELS[name](out, given)
    classifier = reslab.Classifier.load(out, "cpu")
    files = {"fp32": out / "model.onnx", "int8": out / "model.int8.onnx"}
    gate = reslab.export(out, quiet=True)
    equal, largest = parity(files["fp32"], gate.agreement, work, given.batch)
    small = reslab.export(out, int8=True, quiet=True)
    cost = small.int8
    assert cost is not None
    given.passes = max(1, given.pictures // given.batch)
    rates = speeds(classifier, files, given)
    size = {kind: path.stat().st_size / 1e6 for kind, path in files.items()}
    table(f"{name}, averaging {classifier.model.averaging}", [
        ("pictures", f"{gate.checked:,} of {gate.pictures}"),
        ("likeliest class equal, without torch", f"{equal:.2%}"),
        ("largest difference, without torch", f"{largest:.2e}"),
        ("largest difference at the gate", f"{gate.largest_difference:.2e}"),
        ("reslab, folded", f"{rates['reslab']:,.0f} pictures/s in batches of {given.batch}"),
        ("onnxruntime fp32", f"{rates['fp32']:,.0f} pictures/s, {size['fp32']:.1f} MB,"
                             f" {rates['fp32'] / rates['reslab']:.2f} times reslab's"),
        ("onnxruntime int8", f"{rates['int8']:,.0f} pictures/s, {size['int8']:.1f} MB,"
                             f" {rates['int8'] / rates['reslab']:.2f} times reslab's"),
        ("int8", cost.told()),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; all if none is named")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--pictures", type=int, default=640, help="a measurement of speed")
    options.add_argument("--validation", type=int, default=1000, help="pictures to check on")
    options.add_argument("--cifar-epochs", type=int, default=1)
    given = options.parse_args()
    for name in given.models or MODELS:
        measure(name, given)


if __name__ == "__main__":
    main()
