"""What so many pictures cost: a model of time, memory, disk and network, for docs/scale.md.

    python benchmarks/scale_model.py               its table, by the constants below
    python benchmarks/scale_model.py --measure     the constants on this machine
    python benchmarks/scale_model.py --check       predicted beside measured, at three sizes

Times are of one core: processors' seconds, which other work changes less than the clock. Photos
are food10's (short side 256 pixels, 12 kB), the network tf_efficientnet_lite0 at 224 pixels with 10
classes; digits are MNIST's as PNG files, the network that of mnist-fast.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measuring import food_folder, machine, parser, random_model
from predict import model_of, pictures


@dataclass(frozen=True)
class Kind:
    """A picture of a kind, in seconds of a core and bytes.

    start: until a command works; a network of timm's takes longer, for timm is imported. read:
    opened, decoded and fitted. forward: through the network, in passes of 32. row: told and
    written to a table.
    """

    start: float
    read: float
    forward: float
    row: float
    file: int
    pixels: int
    features: int
    row_bytes: int

    @property
    def predict(self) -> float:
        return self.read + self.forward + self.row


# By --measure, AMD EPYC (Zen 4), torch 2.14, one thread, nothing beside it.
LIST = 0.9e-6  # a file's name in a folder that the system has in memory
NAME = 60  # bytes of a path of 50 in a table of names
PHOTO = Kind(5.2, 0.48e-3, 13.8e-3, 18e-6, 12_100, 3 * 224 * 224, 1280 * 4, 156)
DIGIT = Kind(3.4, 0.096e-3, 0.044e-3, 14e-6, 283, 28 * 28, 0, 122)
HEAD = 0.95e-4  # a picture's view and one strength of a solved head, with 1,280 features

DISK, NETWORK, SEEK = 500e6, 125e6, 0.008  # bytes a second; a turning disk's seconds a file
VIEWS, STRENGTHS = 4, 10  # of the recipe photos


def listing(count: float) -> float:
    return count * LIST


def predicting(count: float, kind: Kind) -> float:
    return kind.start + listing(count) + count * kind.predict


def features(count: float, kind: Kind) -> float:
    """Every view of every picture is fitted and passes once."""
    return kind.start + listing(count) + count * VIEWS * (kind.read + kind.forward)


def head(count: float) -> float:
    return count * VIEWS * STRENGTHS * HEAD


def table(counts: tuple[float, ...] = (1e6, 1e8, 1e9)) -> str:
    kind = PHOTO
    rows: list[tuple[str, Callable[[float], str]]] = [
        ("listing, names known to the system", lambda n: _time(listing(n))),
        ("listing, each entry from a turning disk", lambda n: _time(n / 100 * SEEK)),
        ("table of names, memory", lambda n: _bytes(n * NAME)),
        ("files, on disk", lambda n: _bytes(n * kind.file)),
        ("files over 1 Gbit/s", lambda n: _time(n * kind.file / NETWORK)),
        ("files from an SSD of 500 MB/s", lambda n: _time(n * kind.file / DISK)),
        ("files from a turning disk, one by one", lambda n: _time(n * SEEK)),
        ("opening and decoding, one core", lambda n: _time(n * kind.read)),
        ("pixel store, on disk", lambda n: _bytes(n * kind.pixels)),
        (f"features of {VIEWS} views, one core", lambda n: _time(features(n, kind))),
        (f"features of {VIEWS} views, on disk", lambda n: _bytes(n * VIEWS * kind.features)),
        ("a solved head, one core", lambda n: _time(head(n))),
        ("a solved head, memory", lambda n: _bytes(2 * n * VIEWS * kind.features)),
        ("predicting, one core", lambda n: _time(predicting(n, kind))),
        ("predicting, 64 cores", lambda n: _time(predicting(n, kind) / 64)),
        ("tables of predictions, on disk", lambda n: _bytes(n * kind.row_bytes)),
        ("tables of 8,192", lambda n: f"{-(-n // 8192):,.0f}"),
    ]
    lines = [f"| | {' | '.join(f'{count:,.0f}' for count in counts)} |"]
    lines += ["| --- |" + " --- |" * len(counts)]
    lines += [f"| {name} | {' | '.join(told(n) for n in counts)} |" for name, told in rows]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _bytes(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e6:,.0f} MB"


def core(work: Callable[[], object], count: int) -> float:
    """Seconds of a core for each of so many."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / count


def measure(digits: Path, photos: list[str], digit_model: Path, photo: Path) -> None:
    import torch

    from reslab.features.solving import HeadProblem
    from reslab.pictures.files import Folder

    torch.set_num_threads(1)
    names = [str(path) for path in sorted(digits.rglob("*.png"))]
    print(f"LIST = {core(lambda: Folder(digits).names(), len(names)):.2e}")
    print(f"PHOTO {_kind(photo, photos[:96])}\nDIGIT {_kind(digit_model, names[:960])}")
    problem = HeadProblem(torch.randn(2000, 1280), torch.randint(0, 10, (2000,)), None)
    linear = torch.nn.Linear(1280, 10)
    print(f"HEAD = {core(lambda: problem.solve(linear, 0.03), 2000):.2e}")


def _kind(model: Path, paths: list[str]) -> str:
    from reslab.using.bulk import Predictor
    from reslab.using.prediction import told
    from reslab.using.tables import csv_of

    predictor = Predictor(model, "cpu")
    classifier = predictor.classifier
    held = [classifier.read(path) for path in paths]
    passes = [held[start : start + 32] for start in range(0, len(held), 32)]
    row = classifier.rows(passes[0])[0]

    def tell() -> bytes:
        found = [told(path, row, classifier.classes, predictor.asked) for path in paths]
        rows = [predictor.columns.row(*pair) for pair in zip(paths, found, strict=True)]
        return csv_of(predictor.columns, rows)

    count = len(paths)
    read = core(lambda: [classifier.read(path) for path in paths], count)
    forward = core(lambda: [classifier.rows(part) for part in passes], count)
    size = sum(Path(path).stat().st_size for path in paths) // count
    return (
        f"start {_ran(model, paths[:1]):.1f} read {read:.2e} forward {forward:.2e}"
        f" row {core(tell, count):.2e} file {size} row_bytes {len(tell()) // count}"
    )


def check(digits: Path, photos: list[str], digit_model: Path, photo: Path) -> None:
    """Runs of `reslab predict --out` at three sizes of two kinds."""
    names = [str(path) for path in sorted(digits.rglob("*.png"))]
    print("| pictures | predicted | measured |\n| --- | --- | --- |")
    for told, kind, model, paths, counts in (
        ("photos", PHOTO, photo, photos, (100, 200, 400)),
        ("digits", DIGIT, digit_model, names, (1000, 4000, 16_000)),
    ):
        for count in counts:
            print(
                f"| {count:,} {told} | {predicting(count, kind):.1f} s of a core |"
                f" {_ran(model, paths[:count]):.1f} s |",
                flush=True,
            )


def _ran(model: Path, paths: list[str]) -> float:
    """The processors' seconds of a command that predicts these."""
    with tempfile.TemporaryDirectory() as work:
        inside = Path(work) / "pictures"
        inside.mkdir()
        for number, path in enumerate(paths):
            (inside / f"{number:07d}{Path(path).suffix}").symlink_to(path)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = ["predict", str(model), str(inside), "--out", str(Path(work) / "o"), "--quiet"]
        subprocess.run(
            [sys.executable, "-m", "reslab", *words], check=True, stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--measure", action="store_true")
    options.add_argument("--check", action="store_true")
    options.add_argument("--model", type=Path, help="a run or model file for digits")
    given = options.parse_args()
    if given.measure or given.check:
        photos = sorted(str(path) for path in (food_folder(given.work) / "images").rglob("*.jpg"))
        model = given.model or model_of(given.work)
        inputs = (
            pictures(given.work, 16_000),
            photos,
            model,
            random_model(given.work, "tf_efficientnet_lite0"),
        )
        print(machine())
        if given.measure:
            measure(*inputs)
        if given.check:
            check(*inputs)
        return
    print(table())


if __name__ == "__main__":
    main()
