"""The server under load, from this machine to itself, each part bounded and ending by itself.

    python benchmarks/serve.py load --requests 100000      # none lost, none swapped
    python benchmarks/serve.py overload --seconds 60       # ten times what it can do
    python benchmarks/serve.py signals --times 50          # SIGTERM under load
    python benchmarks/serve.py throughput                  # against Classifier.stream
    python benchmarks/serve.py latency                     # against Classifier.predict

`load` and `signals` serve --model, such as a run of mnist-fast, and send it MNIST's test digits as
PNG files; the others a network for photos, food10's pictures. Client and server share the cores.
"""

import argparse
import asyncio
import gc
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measuring import food_folder, mnist_root, parser, random_model, seconds, table

PATH = "/predict?top=10"
# What a server is compared with runs in a thread of its own too. In the main thread OpenMP waits by
# spinning, which on a machine that others use made one forward pass 2 to 10 times as slow.
ALONE = ThreadPoolExecutor(1)
Process = subprocess.Popen[str]


class Client(asyncio.Protocol):
    """One connection that is kept, with one request at a time: as little work as possible."""

    def __init__(self):
        self.answer = None
        self.free = True
        self._text = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.free = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((0, b""))

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """A future of (status, body); status 0 if the connection ended first."""
        self.answer = asyncio.get_running_loop().create_future()
        self._text.clear()
        if self.transport.is_closing():
            self.answer.set_result((0, b""))
        else:
            self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._text += data
        end = self._text.find(b"\r\n\r\n")
        if end < 0:
            return
        length = int(re.search(rb"(?i)content-length: (\d+)", self._text[:end]).group(1))
        if len(self._text) >= end + 4 + length and not self.answer.done():
            self.answer.set_result((int(self._text[9:12]), bytes(self._text[end + 4 :])))


async def connect(port: int) -> Client:
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(Client, "127.0.0.1", port))[1]


def request_of(data: bytes, kind: str = "application/octet-stream") -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def form_of(parts: Sequence[bytes]) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="pictures"; filename="p"\r\n\r\n'
    body = b"".join(head + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return request_of(body, "multipart/form-data; boundary=b")


@contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[Process, int]]:
    """(process, port) of a server of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reslab", "serve", str(model), "--port", "0", *options],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process, int(re.search(r":(\d+)/", process.stderr.readline()).group(1))
    finally:
        process.terminate()
        process.wait(60)


def memory(process: Process) -> float:
    """Resident memory in MB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024


def digits(work: Path, model: Path, count: int) -> tuple[list[bytes], np.ndarray, dict[str, int]]:
    """MNIST's test digits: files, probabilities (N, classes) by `Classifier`, classes' places."""
    import io

    from PIL import Image

    from reslab import Classifier
    from reslab.pictures.builtin import open_builtin

    pixels = open_builtin("mnist", mnist_root(work)).splits["test"].pixels[:count, 0].numpy()
    files = []
    for one in pixels:
        data = io.BytesIO()
        Image.fromarray(one).save(data, "PNG")
        files.append(data.getvalue())
    classifier = Classifier.load(model, "cpu")
    found = classifier.stream(files, classifier.asked(top=10))
    rows = np.empty((len(files), len(classifier.classes)))
    places = {label: place for place, label in enumerate(classifier.classes)}
    for row, prediction in zip(rows, found, strict=True):
        for guess in prediction.top:
            row[places[guess.label]] = guess.probability
    return files, rows, places


def difference(body: bytes, row: np.ndarray, places: dict[str, int]) -> float:
    (said,) = json.loads(body)["predictions"]
    return max(abs(row[places[guess["label"]]] - guess["probability"]) for guess in said["top"])


async def load_by(
    port: int,
    clients: int,
    count: int,
    requests: Sequence[bytes],
    rows: np.ndarray,
    places: dict[str, int],
) -> tuple[Counter[str], float, float]:
    """Every request until it is answered; what came of them, and the seconds."""
    found, largest = Counter(), 0.0
    numbers = iter(range(count))
    started = time.perf_counter()

    async def work():
        nonlocal largest
        client = await connect(port)
        for number in numbers:
            place = number % len(requests)
            while True:
                status, body = await client.send(requests[place])
                if status != 503:
                    break
                found["refused"] += 1
                await asyncio.sleep(random.uniform(0.2, 1))
            if status != 200:
                found[f"status {status}"] += 1
                continue
            found["answered"] += 1
            far = difference(body, rows[place], places)
            largest = max(largest, far)
            found["wrong"] += int(far > 1e-5)
        client.transport.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    return found, largest, time.perf_counter() - started


def load(given: argparse.Namespace) -> None:
    files, rows, places = digits(given.work, given.model, 10_000)
    requests = [request_of(data) for data in files]
    for clients in (64, 256, 1000):
        with serving(given.model, "--queue", str(given.queue)) as (process, port):
            count = given.requests // 3
            before = memory(process)
            found, largest, spent = asyncio.run(
                load_by(port, clients, count, requests, rows, places)
            )
            table(f"{clients} clients, {count:,} requests", [
                ("answered", f"{found['answered']:,}, {found['answered'] / spent:,.0f} a second"),
                ("lost", f"{count - found['answered']:,} {dict(found)}"),
                ("wrong or swapped", f"{found['wrong']:,}"),
                ("largest difference", f"{largest:.1e}"),
                ("memory", f"{before:.0f} MB before, {memory(process):.0f} MB after"),
            ])  # fmt: skip


def photos(work: Path, count: int) -> list[bytes]:
    paths = sorted((food_folder(work) / "images").rglob("*.jpg"))
    random.Random(0).shuffle(paths)
    return [path.read_bytes() for path in paths[:count]]


async def closed_loop(
    port: int, clients: int, requests: Sequence[bytes], pictures_each: float = 1
) -> float:
    """Pictures a second, by clients that ask again once they are answered."""
    waiting = deque(requests)
    started = time.perf_counter()

    async def work():
        client = await connect(port)
        while waiting:
            request = waiting.popleft()
            while (await client.send(request))[0] == 503:
                await asyncio.sleep(0.3)
        client.transport.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    return len(requests) * pictures_each / (time.perf_counter() - started)


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    rows: np.ndarray,
    places: dict[str, int],
) -> list[tuple[float, int, float, float]]:
    """Send at a rate whatever comes back: [(sent at, status, seconds, difference)]."""
    found, idle, tasks = [], [], set()
    began = time.perf_counter()

    async def one(place: int):
        client = None
        while idle and (client is None or not client.free):
            client = idle.pop()  # some were closed by the server, being idle for 5 seconds
        if client is None or not client.free:
            client = await connect(port)
        sent = time.perf_counter()
        status, body = await client.send(requests[place])
        spent = time.perf_counter() - sent
        far = difference(body, rows[place], places) if status == 200 else 0.0
        found.append((sent - began, status, spent, far))
        if client.free:
            idle.append(client)

    sent = 0
    while (now := time.perf_counter() - began) < seconds:
        while sent < rate * now and len(tasks) < 1500:
            task = asyncio.ensure_future(one(sent % len(requests)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        sent = max(sent, int(rate * now) if len(tasks) >= 1500 else 0)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    for client in idle:
        client.transport.close()
    return found


LAG = """
import sys, time
late = []
end = time.perf_counter() + float(sys.argv[1])
while (began := time.perf_counter()) < end:
    time.sleep(0.005)
    late.append(time.perf_counter() - began - 0.005)
print(1e3 * sorted(late)[int(0.99 * len(late))])
"""


async def watch_memory(process: Process, seconds: float) -> list[float]:
    found = []
    for _ in range(int(seconds)):
        found.append(memory(process))
        await asyncio.sleep(1)
    return found


async def recovered(port: int, request: bytes) -> float:
    """Seconds from the end of the overload until requests are answered as usual: 5 in a row."""
    began, good = time.perf_counter(), 0
    client = await connect(port)
    while good < 5 and time.perf_counter() - began < 60:
        sent = time.perf_counter()
        status, _ = await client.send(request)
        good = good + 1 if status == 200 and time.perf_counter() - sent < 1 else 0
        await asyncio.sleep(0.02)
    client.transport.close()
    return time.perf_counter() - began


def overload(given: argparse.Namespace) -> None:
    from reslab import Classifier

    model = random_model(given.work, given.network)
    files = photos(given.work, 200)
    classifier = Classifier.load(model, "cpu")
    places = {label: place for place, label in enumerate(classifier.classes)}
    rows = np.empty((len(files), len(places)))
    found = classifier.stream(files, classifier.asked(top=10))
    for row, prediction in zip(rows, found, strict=True):
        for guess in prediction.top:
            row[places[guess.label]] = guess.probability
    del classifier
    requests = [request_of(data) for data in files]
    with serving(model) as (process, port):
        asyncio.run(closed_loop(port, 16, requests[:50]))
        capacity = asyncio.run(closed_loop(port, 32, requests))

        async def both():
            return await asyncio.gather(
                open_loop(port, requests, 10 * capacity, given.seconds, rows, places),
                watch_memory(process, given.seconds),
            )

        # How late this machine wakes any process, beside which the refusals are to be read.
        lag = subprocess.Popen(
            [sys.executable, "-c", LAG, str(given.seconds)], stdout=subprocess.PIPE, text=True
        )
        gc.freeze()  # a collection of all that is imported here would be counted as the server's
        answers, held = asyncio.run(both())
        late = float(lag.communicate()[0])
        recovery = asyncio.run(recovered(port, requests[0]))
    statuses = Counter(status for _, status, _, _ in answers)
    refused = [spent for _, status, spent, _ in answers if status == 503]
    served = [spent for _, status, spent, _ in answers if status == 200]
    third = max(1, len(held) // 3)
    table(f"10 times capacity for {given.seconds:g} s, {given.network}", [
        ("capacity", f"{capacity:.1f} photos a second"),
        ("sent", f"{len(answers):,} ({len(answers) / given.seconds:.0f} a second), by status"
                 f" {dict(statuses)}"),
        ("refusals", f"median {1e3 * np.median(refused):.1f} ms,"
                     f" 99 % within {1e3 * np.quantile(refused, 0.99):.1f} ms"),
        ("sleepers", f"a process that only sleeps is woken {late:.1f} ms late or less (99 %)"),
        ("accepted", f"{len(served):,}, the slowest {max(served):.2f} s; largest difference"
                     f" {max(far for _, _, _, far in answers):.1e}"),
        ("recovery", f"{recovery:.2f} s until five in a row within a second"),
        ("memory", f"{statistics.median(held[third : 2 * third]):.0f} MB in the second third,"
                   f" {statistics.median(held[-third:]):.0f} MB in the last"),
    ])  # fmt: skip


async def until_signal(
    process: Process,
    port: int,
    requests: Sequence[bytes],
    rows: np.ndarray,
    places: dict[str, int],
    after: float,
) -> tuple[Counter[str], float]:
    """Ask by 32 clients, send SIGTERM in the midst: (answers, wrong ones, seconds to the end)."""
    found = Counter()

    async def work(number: int):
        client = await connect(port)
        while True:
            place = random.randrange(len(requests))
            status, body = await client.send(requests[place])
            if status != 200:
                return
            found["answered"] += 1
            found["wrong"] += int(difference(body, rows[place], places) > 1e-5)

    tasks = [asyncio.ensure_future(work(number)) for number in range(32)]
    await asyncio.sleep(after)
    process.send_signal(signal.SIGTERM)
    began = time.perf_counter()
    while process.poll() is None and time.perf_counter() - began < 60:
        await asyncio.sleep(0.01)
    spent = time.perf_counter() - began
    await asyncio.gather(*tasks)
    return found, spent


def signals(given: argparse.Namespace) -> None:
    files, rows, places = digits(given.work, given.model, 1000)
    requests = [request_of(data) for data in files]
    lost, wrong, answered, slowest, codes = 0, 0, 0, 0.0, Counter()
    for number in range(given.times):
        with serving(given.model) as (process, port):
            after = random.Random(number).uniform(0.3, 1.5)
            found, spent = asyncio.run(until_signal(process, port, requests, rows, places, after))
            accepted, _ = re.search(
                r"([\d,]+) requests accepted, ([\d,]+)", process.stderr.read()
            ).groups()
            lost += int(accepted.replace(",", "")) - found["answered"]
            wrong += found["wrong"]
            answered += found["answered"]
            slowest = max(slowest, spent)
            codes[process.returncode] += 1
            print(f"{number + 1}: {accepted} accepted, gone after {spent:.2f} s", file=sys.stderr)
    table(f"{given.times} SIGTERMs under the load of 32 clients", [
        ("answered", f"{answered:,}, of them wrong {wrong}"),
        ("accepted, not answered", f"{lost}"),
        ("gone after", f"{slowest:.2f} s at the longest"),
        ("exit status", f"{dict(codes)}"),
    ])  # fmt: skip


def throughput(given: argparse.Namespace) -> None:
    from reslab import Classifier

    if given.model is None:
        model, files = random_model(given.work, given.network), photos(given.work, given.photos)
    else:
        model, files = given.model, digits(given.work, given.model, given.photos)[0]
    classifier = Classifier.load(model, "cpu")
    each = 16
    singles = [request_of(data) for data in files]
    forms = [form_of(files[start : start + each]) for start in range(0, len(files), each)]
    rates = {"bulk": [], "singles": [], "forms": []}
    with serving(model) as (_, port):
        for turn in range(given.repeats + 1):
            bulk = (
                len(files) / ALONE.submit(seconds, lambda: list(classifier.stream(files))).result()
            )
            one = asyncio.run(closed_loop(port, 64, singles))
            form = asyncio.run(closed_loop(port, 6, forms, len(files) / len(forms)))
            if turn:
                for name, rate in zip(rates, (bulk, one, form), strict=True):
                    rates[name].append(rate)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    table(f"pictures a second, {model.name if given.model is None else given.model}", [
        ("Classifier.stream", f"{middle['bulk']:.1f}"),
        ("64 clients, a picture a request", f"{middle['singles']:.1f}, in turn"
         f" {ratios(rates['singles'], rates['bulk'])}"),
        (f"6 clients, {each} pictures a request", f"{middle['forms']:.1f}, in turn"
         f" {ratios(rates['forms'], rates['bulk'])}"),
    ])  # fmt: skip


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> str:
    found = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}) of bulk"


def latency(given: argparse.Namespace) -> None:
    from reslab import Classifier

    model = random_model(given.work, given.network)
    files = photos(given.work, given.photos)
    classifier = Classifier.load(model, "cpu")

    async def measure(port: int):
        client = await connect(port)
        direct, served = [], []
        for number, data in enumerate(files):
            spent = ALONE.submit(seconds, lambda data=data: classifier.predict(data)).result()
            began = time.perf_counter()
            status, _ = await client.send(request_of(data))
            assert status == 200
            if number >= 10:
                direct.append(spent)
                served.append(time.perf_counter() - began)
        client.transport.close()
        return direct, served

    with serving(model) as (_, port):
        direct, served = asyncio.run(measure(port))
    ours, theirs = statistics.median(served), statistics.median(direct)
    table(f"one picture at a time, {given.network}, {len(direct)} photos in turn", [
        ("Classifier.predict", f"{1e3 * theirs:.1f} ms at the median"),
        ("POST /predict", f"{1e3 * ours:.1f} ms at the median"),
        ("ratio", f"{ours / theirs:.2f}"),
    ])  # fmt: skip


PARTS = {each.__name__: each for each in (load, overload, signals, throughput, latency)}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("part", choices=PARTS)
    options.add_argument("--model", type=Path, help="a model of digits; mnist-fast's, say")
    options.add_argument("--network", default="tf_efficientnet_lite0", help="for photos")
    options.add_argument("--requests", type=int, default=9999)
    options.add_argument("--queue", type=int, default=1024)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--times", type=int, default=5)
    options.add_argument("--photos", type=int, default=200)
    given = options.parse_args()
    if given.model is None and given.part in ("load", "signals"):
        options.error("--model: name a run of mnist-fast, say")
    given.work.mkdir(parents=True, exist_ok=True)
    PARTS[given.part](given)


if __name__ == "__main__":
    main()
