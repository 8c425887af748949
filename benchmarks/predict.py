"""Predicting many pictures into a folder: killed again and again, in 1, 2 and 4 processes.

    python benchmarks/predict.py                            100,000 pictures, 20 kills
    python benchmarks/predict.py --pictures 10000 --kills 5

MNIST's digits as PNG files, by a model of `mnist-fast` (trained here for an epoch if --model names
none). Every way must leave the same bytes as one process that nobody disturbed; a row a picture.
Rates are of the wall and, as other work may share the machine, of the processors' seconds, start
included. Resident memory is the largest of a process, at its peak.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measuring import mnist_root, parser, table
from PIL import Image

TABLE = 1000  # pictures


def pictures(work: Path, count: int) -> Path:
    """A folder of so many digits, 10,000 in each folder; beyond MNIST's own they are moved."""
    import torchvision

    folder = work / f"digits-{count}"
    if folder.is_dir():
        return folder
    parts = [torchvision.datasets.MNIST(str(mnist_root(work)), train=t).data for t in (True, False)]
    digits = np.concatenate([part.numpy() for part in parts])
    made = folder.with_suffix(".part")
    for number in range(count):
        pixels = np.roll(digits[number % len(digits)], number // len(digits), axis=1)
        place = made / f"{number // 10_000:03d}"
        if number % 10_000 == 0:
            place.mkdir(parents=True)
        Image.fromarray(pixels).save(place / f"{number:07d}.png", compress_level=1)
    made.rename(folder)
    return folder


def model_of(work: Path) -> Path:
    run = work / "mnist-fast-run"
    if not (run / "model.safetensors").is_file():
        words = ["train", "mnist", "--recipe", "mnist-fast", "--data-root", str(mnist_root(work))]
        command([*words, "--out", str(run), "--quiet"]).wait()
    return run


def command(words: list[str], rank: int = 0, world: int = 1) -> "subprocess.Popen[bytes]":
    names = {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "reslab", *words], env=os.environ | names, stdout=subprocess.DEVNULL
    )


class Work:
    """One way of doing the work: its commands, and what they have used."""

    def __init__(self, words: list[str], out: Path | None = None) -> None:
        self.words, self.out = words, out
        self.seconds = self.processor = self.peak = 0.0

    def start(self, world: int) -> list["subprocess.Popen[bytes]"]:
        return [command(self.words, rank, world) for rank in range(world)]

    def end(self, running: list["subprocess.Popen[bytes]"]) -> list[int]:
        """Wait for processes; their statuses."""
        found = []
        for one in running:
            _, status, used = os.wait4(one.pid, 0)
            one.returncode = os.waitstatus_to_exitcode(status)
            found.append(one.returncode)
            self.processor += used.ru_utime + used.ru_stime
            self.peak = max(self.peak, used.ru_maxrss / 1024)
        return found

    def whole(self, world: int) -> "Work":
        began = time.perf_counter()
        assert not any(self.end(self.start(world))), "a process failed"
        self.seconds = time.perf_counter() - began
        return self

    def killed(self, kills: int, most: int) -> tuple["Work", int]:
        """Start 1, 2 or 4 processes in turn and kill them, so often; then let one end the work.

        most: tables of the whole work. Returns how many were there after the last kill.
        """
        chance = random.Random(0)
        began = time.perf_counter()
        assert self.out is not None
        for number in range(kills):
            world = (1, 2, 4)[number % 3]
            before = tables(self.out)
            running = self.start(world)
            wanted = min(before + chance.randrange(0, 5), most)
            while tables(self.out) < wanted:
                time.sleep(0.01)
            time.sleep(chance.random() * 2)
            for one in running:
                one.kill()
            self.end(running)
        left = tables(self.out)
        assert not any(self.end(self.start(1)))
        self.seconds = time.perf_counter() - began
        return self, left

    def told(self, count: int) -> str:
        return (
            f"{count / self.seconds:,.0f} a second, {count / self.processor:,.0f} a processor's"
            f" second, {self.peak:.0f} MiB"
        )


def tables(out: Path) -> int:
    return len(list(out.glob("part-*"))) if out.is_dir() else 0


def content(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.glob("part-*")))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--pictures", type=int, default=100_000)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--model", type=Path, help="a run or model file for digits")
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    folder = pictures(given.work, given.pictures)
    model = given.model or model_of(given.work)
    place = given.work / "predicted"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    count = given.pictures

    def into(name: str) -> Work:
        words = ["predict", str(model), str(folder), "--out", str(place / name), "--quiet"]
        return Work([*words, "--shard-size", str(TABLE)], place / name)

    def say(name: str, value: str) -> None:
        rows.append((name, value))
        print(f"{name}: {value}", flush=True)

    rows: list[tuple[str, str]] = []
    say("one process", into("1").whole(1).told(count))
    wanted = content(place / "1")
    assert wanted.count(b"\n") == count + tables(place / "1")
    work, left = into("killed").killed(given.kills, tables(place / "1"))
    say(
        f"killed {given.kills} times",
        f"{work.told(count)}; {left} tables were there after the last",
    )
    assert content(place / "killed") == wanted, "rows differ after kills"
    assert len(list((place / "killed").iterdir())) == tables(place / "1") + 1
    for world in (2, 4):
        say(f"{world} processes", into(str(world)).whole(world).told(count))
        assert content(place / str(world)) == wanted, "rows differ by the number of processes"
    few = sorted(folder.iterdir())[0]
    inside = len(list(few.iterdir()))
    words = ["predict", str(model), str(few), "--csv", str(place / "few.csv")]
    say(f"predict --csv, {inside:,}", Work(words).whole(1).told(inside))
    shutil.rmtree(place)
    table(f"{count:,} digits predicted into tables of {TABLE:,}, all rows equal", rows)


if __name__ == "__main__":
    main()
