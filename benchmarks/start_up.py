"""How long a command takes before it works: help, and `train` on the CIFAR-10 folder.

    python benchmarks/start_up.py

The first start is held against reading and decoding the same files with two bare threads, in
this run; the second start is counted from the end of the imports to the first step.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import cifar_folder, parser, seconds, table

FIRST_STEP = """
import sys, time
import reslab.training.training as training
began = time.perf_counter()
steps = training.train_epochs
def until_the_first(*given):
    for event in steps(*given):
        print(time.perf_counter() - began)
        sys.stdout.flush()
        import os
        os._exit(0)
training.train_epochs = until_the_first
training.train(sys.argv[1], recipe="cifar10-fast", out=sys.argv[2], quiet=True)
"""


def bare_threads(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    def read(path: Path) -> int:
        return int(np.asarray(Image.open(path).convert("RGB")).shape[0])

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(read, folder.rglob("*.png")):
            pass


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    folder = cifar_folder(given.work)
    cache, out = given.work / "start-cache", given.work / "start-run"

    def first_step(fresh: bool) -> float:
        for path in (out, *([cache] if fresh else [])):
            shutil.rmtree(path, ignore_errors=True)
        environment = os.environ | {"RESLAB_CACHE": str(cache)}
        words = [sys.executable, "-c", FIRST_STEP, str(folder), str(out)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1])

    time.sleep(2)  # files written a moment ago are not trusted yet
    helped = [
        seconds(lambda: subprocess.run(
            [sys.executable, "-m", "reslab", "--help"], capture_output=True, check=True))
        for _ in range(5)
    ]  # fmt: skip
    bare, first, second = [], [], []
    for _ in range(given.repeats):
        bare.append(seconds(lambda: bare_threads(folder)))
        first.append(first_step(True))
        second.append(first_step(False))
    middle = statistics.median
    table("start-up", [
        ("reslab --help", f"{middle(helped):.2f} s"),
        ("two bare threads, 60,000 files", f"{middle(bare):.1f} s"),
        ("first start to the first step", f"{middle(first):.1f} s"),
        ("ratio", f"{middle(first) / middle(bare):.2f}"),
        ("second start to the first step", f"{middle(second):.2f} s"),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
