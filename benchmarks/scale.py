"""More pictures than memory: what the table of them takes, and a training far over the budget.

    python benchmarks/scale.py table --rows 14000000       # paths, labels, stamps, keys alone
    python benchmarks/scale.py pictures --count 1300000    # start to first step, twice
    python benchmarks/scale.py shards --count 20000        # shards against a folder of the same

`table` lists a tree of --rows paths: folders that lead to one folder of 1,000 pictures. `pictures`
trains on that many different JPEGs of 32 pixels, about 1 kB each, under a budget of a tenth of
their pixels. Each line is a process of its own; its memory is what it has beyond one that has
imported torch, without the pages of files that the system may take back.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from measuring import parser
from PIL import Image

HELD = 1000  # pictures in the one folder that all class folders of `table` lead to
SIDE = 32
CLASSES = 100


def memory() -> dict[str, float]:
    """MB of this process now: its own, of files, and the most it had of both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {
        line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmHWM"))
    }
    return {name: int(found[key]) / 1024 for name, key in
            (("own", "RssAnon"), ("files", "RssFile"), ("peak", "VmHWM"))}  # fmt: skip


class Phases:
    """Seconds and memory of one phase after another, printed as they end."""

    def __init__(self, count: int) -> None:
        self.count, self.start = count, memory()["own"]
        self.began = time.perf_counter(), time.process_time()

    def end(self, name: str) -> None:
        now = time.perf_counter(), time.process_time()
        found = memory()
        wall, own = (after - before for after, before in zip(now, self.began, strict=True))
        held = (found["own"] - self.start) * 2**20 / self.count
        print(
            f"    {name:<34} {wall:8.1f} s ({own:7.1f} s of a core)  {held:7.0f} bytes a picture,"
            f" {found['own']:7.0f} MB own, {found['files']:6.0f} of files,"
            f" most {found['peak']:7.0f}",
            flush=True,
        )
        self.began = time.perf_counter(), time.process_time()


def noise(number: int) -> Image.Image:
    """A picture like no other, whose class, its number modulo CLASSES, shows in its middle."""
    drawn = np.random.default_rng(number)
    pixels = drawn.integers(0, 256, (4, 4, 3), np.uint8)
    kind = number % CLASSES
    pixels[1:3, 1:3] = kind * 2, 255 - kind * 2, kind % 10 * 25
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def jpeg(number: int) -> bytes:
    held = io.BytesIO()
    noise(number).save(held, "JPEG", quality=90)
    return held.getvalue()


# The table


def tree_of(rows: int, work: Path) -> Path:
    """A tree of so many paths, and lists of them beside it."""
    folder = work / f"tree-{rows}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        held = folder / "held"
        held.mkdir(parents=True)
        for number in range(HELD):
            (held / f"n{number:08d}.jpg").write_bytes(jpeg(number))
        (folder / "tree").mkdir()
        for number in range(rows // HELD):
            (folder / "tree" / f"c{number:05d}").symlink_to(held)
        with (folder / "list.txt").open("w") as text, (folder / "table.csv").open("w") as csv:
            csv.write("path,label\n")
            for number in range(rows // HELD):
                name = f"c{number:05d}"
                text.writelines(f"{name}/n{row:08d}.jpg {name}\n" for row in range(HELD))
                csv.writelines(f"{name}/n{row:08d}.jpg,{name}\n" for row in range(HELD))
        (folder / "done").touch()
    return folder


def listed(form: str, folder: Path) -> None:
    """List the tree one way, and bring the table to where a training begins."""
    from reslab.pictures.content import keys_of
    from reslab.pictures.settings import Splitting
    from reslab.pictures.sources import open_pictures
    from reslab.pictures.splitting import complete_splits, split_notes

    rows = int(folder.name.split("-")[1])
    phases = Phases(rows)
    data, root = {
        "folder": (folder / "tree", None),
        "list": (folder / "list.txt", folder / "tree"),
        "csv": (folder / "table.csv", folder / "tree"),
    }[form]
    pictures = open_pictures(data, root=root)
    phases.end(f"{form}: listed")
    if form != "folder":
        return
    samples = pictures.train()
    stamps = samples.files.stamps(samples.paths)
    phases.end("stamps asked for")
    halves = np.random.default_rng(0).integers(0, 2**63, (2, rows)).astype(np.uint64)
    pictures = replace(pictures, splits={"train": replace(samples, keys=keys_of(*halves))})
    del halves, samples
    phases.end("keys (drawn)")
    pictures.fingerprint()
    phases.end("fingerprint")
    pictures, _ = complete_splits(pictures, Splitting(0.1, 0.1, 0))
    phases.end("splits carved")
    split_notes(pictures)
    phases.end("copies between splits looked for")
    pictures.arrangement()
    phases.end("arrangement")
    del stamps
    phases.end("without the stamps")


# A training


def pictures_of(count: int, work: Path) -> Path:
    """A folder a class of so many different JPEGs."""
    folder = work / f"pictures-{count}"
    if not (folder / "done").exists():
        for number in range(count):
            place = folder / "train" / f"{number % CLASSES:03d}"
            if number < CLASSES:
                place.mkdir(parents=True, exist_ok=True)
            path = place / f"{number:08d}.jpg"
            if not path.exists():
                path.write_bytes(jpeg(number))
        (folder / "done").touch()
    return folder / "train"


def shards_of(count: int, work: Path, each: int = 10_000) -> Path:
    """The same pictures in tar shards, in the order of their numbers."""
    folder = work / f"shards-{count}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        parts = [(folder, part, min(part + each, count)) for part in range(0, count, each)]
        with ProcessPoolExecutor() as pool:
            list(pool.map(shard_of, *zip(*parts, strict=True)))
        (folder / "done").touch()
    return folder


def shard_of(folder: Path, start: int, end: int) -> None:
    with tarfile.open(folder / f"train-{start:08d}.tar", "w") as shard:
        for number in range(start, end):
            label = f"{number % CLASSES:03d}".encode()
            for suffix, data in (("jpg", jpeg(number)), ("cls", label)):
                info = tarfile.TarInfo(f"{number:08d}.{suffix}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


def training(data: str, budget: int, steps: int) -> None:
    """From nothing to so many steps, phase by phase."""
    import torch

    from reslab.learning.state import Step
    from reslab.pictures.data_source import DataSource
    from reslab.recipes.files import load_recipe
    from reslab.training.preparation import prepare
    from reslab.training.session import new_state
    from reslab.training.training import events_of

    torch.set_num_threads(1)
    os.environ["RESLAB_MEMORY"] = str(budget)
    source = DataSource.named(data)
    began = time.perf_counter()
    opened = source.open()
    count = sum(opened.counts().values())
    phases = Phases(count)
    opened = source.open()
    phases.end("listed (a second time)")
    pictures = source.with_keys(opened)
    phases.end("read, or remembered")
    fields = {"epochs": 1, "precision": "fp32", "batch_size": 128}
    carved = {"split.test": 0.01, "split.validation": 0.01}
    recipe = load_recipe("small-resnet").with_fields(fields | carved)
    prepared = prepare(pictures, recipe)
    phases.end("split and fitted")
    events = events_of(prepared, new_state(prepared, "cpu"), {}, "cpu")
    made = 0
    for event in events:
        if isinstance(event, Step):
            made += 1
            if made == 1:
                phases.end("first step")
                print(f"    {'start to first step':<34} {time.perf_counter() - began:8.1f} s")
            if made > steps:
                break
    phases.end(f"{steps} steps of 128")


def compared(count: int, work: Path) -> None:
    """A short training of the folder and one of the shards: seconds, and whether all is equal."""
    import reslab
    from reslab.networks.model_file import read_tensors

    found = {}
    for form, data in (("folder", pictures_of(count, work)), ("shards", shards_of(count, work))):
        began = time.perf_counter()
        run = reslab.train(
            data, out=work / f"run-{form}", epochs=1, seed=0, quiet=True, overwrite=True,
            precision="fp32",
        )  # fmt: skip
        print(f"  {form}: {time.perf_counter() - began:,.1f} s, {run.info['seconds']}")
        found[form] = {
            "weights": {name: one.tolist() for name, one in read_tensors(run.model)[0].items()},
            "fingerprint": run.info["fingerprint"],
            "arrangement": run.info["arrangement"],
            "predictions.csv": (run.path / "predictions.csv").read_bytes(),
        }
    for what, of_folder in found["folder"].items():
        print(f"  {what}: {'equal' if found['shards'][what] == of_folder else 'DIFFERENT'}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=["table", "pictures", "shards", "listed", "training"])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--count", type=int, default=100_000)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--form", default="folder", help="of pictures: folder or shards")
    options.add_argument("--budget", type=int, help="bytes; a tenth of the pixels if not given")
    options.add_argument("--data")
    given = options.parse_args()
    budget = given.budget or given.count * 3 * SIDE * SIDE // 10
    if given.what == "table":
        folder = tree_of(given.rows, given.work)
        for form in ("list", "csv", "folder"):
            again("listed", "--form", form, "--data", str(folder))
    elif given.what == "listed":
        # Before the memory is measured, which is to be that of the table alone.
        import torch  # noqa: F401

        listed(given.form, Path(given.data))
    elif given.what == "pictures":
        made = (shards_of if given.form == "shards" else pictures_of)(given.count, given.work)
        for turn in ("first", "second"):
            of = f"{given.count:,} pictures, {given.form}, a budget of {budget / 1e6:,.0f} MB"
            print(f"  {of}: {turn} start", flush=True)
            numbers = ("--budget", str(budget), "--steps", str(given.steps))
            again("training", "--data", str(made), *numbers)
    elif given.what == "shards":
        compared(given.count, given.work)
    elif given.what == "training":
        training(given.data, budget, given.steps)


def again(*words: str) -> None:
    subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
