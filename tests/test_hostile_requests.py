"""A server of its own process, asked what nobody should ask: it lives, stays small, reads nothing.

`make long` sends 10,000 cases made from the OpenAPI description; otherwise it is some hundred.
"""

import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import multipart

LONG = bool(os.environ.get("RESLAB_LONG"))
MALFORMED = 200
GROWTH = 400  # MB that the process may grow by
# Prints at its end every file that was opened once the server listened.
SERVER = """
import sys, threading
from reslab.cli import main
opened, listening = [], threading.Event()

def note(event, arguments):
    if event == "open" and listening.is_set() and not isinstance(arguments[0], int):
        opened.append(str(arguments[0]))

class Watched:
    def __init__(self, stream):
        self.stream = stream
    def write(self, text):
        if "serving on" in text:
            listening.set()
        return self.stream.write(text)
    def __getattr__(self, name):
        return getattr(self.stream, name)

sys.addaudithook(note)
sys.stderr = Watched(sys.stderr)
sys.argv = ["reslab", "serve", sys.argv[1], "--port", "0"]
try:
    main()
finally:
    listening.clear()
    print("\\n".join(opened))
"""


class Process:
    def __init__(self, model):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self.process.stderr.readline()
        self.port = int(re.search(r":(\d+)/", line).group(1))

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return 0.0
        return int(re.search(r"VmRSS:\s+(\d+)", status.read_text()).group(1)) / 1024

    def raw(self, sent, seconds=3.0):
        """What comes back until the server closes or is silent."""
        found = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as opened:
                opened.settimeout(seconds)
                opened.sendall(sent)
                while part := opened.recv(65536):
                    found += part
                    opened.settimeout(0.3)
        except OSError:
            pass
        return found

    def statuses(self):
        """How often each status was sent."""
        text = self.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
        found = {}
        for status, count in re.findall(r'requests_total\{.*status="(\d+)"\} (\d+)', text):
            found[int(status)] = found.get(int(status), 0) + int(count)
        return found

    def alive(self):
        answer = self.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return self.process.poll() is None and b'{"alive":true}' in answer

    def end(self):
        self.process.terminate()
        try:
            return self.process.communicate(timeout=40)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def process(run):
    found = Process(run.path)
    try:
        yield found
    finally:
        found.end()


def post(body, *headers, path="/predict", length=None):
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def bombs():
    """Files of some bytes that say they are enormous, by format."""
    side = 50_000
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return [
        png + bytes(40),
        b"GIF89a" + struct.pack("<HH", side, side) + b"\xf0\0\0" + bytes(6) + b",\0\0\0\0"
        + struct.pack("<HH", side, side) + b"\0\x02\x02D\x01\0;",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0,
                            0, 0) + bytes(500),
        f"P6 {side} {side} 255\n".encode() + bytes(500),
        b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", side, side) + b"\x03\x01\x11\0\x02\x11"
        b"\x01\x03\x11\x01" + bytes(100) + b"\xff\xd9",
        b"II*\0\x08\0\0\0\x04\0" + b"".join(
            struct.pack("<HHII", tag, 4, 1, value)
            for tag, value in [(256, side), (257, side), (258, 8), (273, 8)]
        ) + bytes(40),
    ]  # fmt: skip


def malformed(number, picture):
    """A request that is wrong in one of many ways, by its number alone."""
    chance = random.Random(number)
    body, form = multipart([picture] * chance.randint(1, 3))
    kind = f"Content-Type: {form['Content-Type']}"
    whole = post(body, kind)
    noise = chance.randbytes(chance.randint(1, 5000))
    place = chance.randrange(len(whole))
    ways = [
        lambda: noise,
        lambda: whole[:place] + noise[:50] + whole[place:],
        lambda: whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)])
        + whole[place + 1 :],
        lambda: whole[:place],
        lambda: post(noise, kind),
        lambda: post(body, kind, length=chance.choice([0, -1, "1e3", "0x10", 10**30, " ", "1,1"])),
        lambda: post(body, kind, length=len(body) + chance.randint(1, 50)),
        lambda: post(body, f"X-{number}: {'x' * chance.choice([10, 10_000, 200_000])}"),
        lambda: post(body, *[f"X-{n}: y" for n in range(chance.choice([50, 5000]))]),
        lambda: post(*[multipart([b"x"] * 10_000)[0]], kind),
        lambda: post(chance.choice(bombs()), path=chance.choice(["/predict", "/explain"])),
        lambda: post(picture[: chance.randrange(len(picture))]),
        lambda: post(picture, path="/predict?" + noise[:40].hex() + "&top=" + "9" * 400),
        lambda: post(b"", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip"),
        lambda: post(b"ffffffffffffffff\r\nabc", "Transfer-Encoding: chunked"),
        lambda: b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % chance.choice([
            b"../" * 20 + b"etc/passwd", b"..%2f" * 20 + b"etc%2fpasswd", b"page.js/../../app.py",
            b"static/page.js", b"page.js%00.png", b"%c0%ae%c0%ae/etc/passwd", b"proc/self/environ",
            b"file:///etc/passwd", b"//etc/passwd", b"~root", b"etc/passwd" * 1000,
        ]),
        lambda: post(json.dumps({"url": "http://127.0.0.1:1/", "path": "/etc/passwd"}).encode(),
                     "Content-Type: application/json"),
        lambda: post(body.replace(b'filename="0"', b'filename="../../etc/passwd"'), kind),
        lambda: post(b"[" * 100_000, "Content-Type: application/json"),
        lambda: whole.replace(b"Host: localhost", chance.choice(
            [b"Host: evil", b"Host: localhost\r\nHost: evil", b"Host:", b"X: y"])),
    ]  # fmt: skip
    return ways[number % len(ways)]()


@pytest.mark.skipif(os.name != "posix", reason="measures by /proc")
def test_malformed_requests(run, split_photos):
    """No status of 500 to 599 but 503 and 504; alive, no larger, and no file opened for any."""
    found = Process(run.path)
    picture = next(split_photos.rglob("*.png")).read_bytes()
    try:
        assert found.raw(post(picture)).startswith(b"HTTP/1.1 200")
        assert found.raw(post(picture, path="/explain")).startswith(b"HTTP/1.1 200")
        before = found.memory()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(
                lambda number: found.raw(malformed(number, picture)), range(MALFORMED)
            ))  # fmt: skip
        assert found.alive()
        assert found.memory() - before < GROWTH
        statuses = found.statuses()
        assert sum(statuses.values()) > MALFORMED / 3
        assert not {status for status in statuses if status >= 500} - {503, 504}
        for answer in answers:
            assert b"root:" not in answer
            assert not answer or answer.startswith(b"HTTP/1.1 ")
    finally:
        opened, said = found.end()
    assert "Traceback" not in said
    assert found.process.returncode == 143
    libraries = (sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent / "src"))
    strange = [
        name
        for name in opened.splitlines()
        if name and not name.startswith((*libraries, "/proc/", "/sys/"))
    ]
    assert strange == []


def test_a_header_without_end(process):
    """What would be a gigabyte is cut off, and is not kept until then."""
    before, sent = process.memory(), 0
    with socket.create_connection(("127.0.0.1", process.port), 10) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        try:
            while sent < 10**9:
                opened.sendall(b"x" * 65536)
                sent += 65536
        except OSError:
            pass
    assert sent < 2 * 10**8
    assert process.memory() - before < 50
    assert process.alive()


def test_a_thousand_that_never_finish(process, split_photos):
    """Slow senders do not keep others from being answered."""
    picture = next(split_photos.rglob("*.png")).read_bytes()
    opened = []
    try:
        for number in range(1000 if LONG else 200):
            one = socket.create_connection(("127.0.0.1", process.port), 10)
            one.sendall(post(picture, length=100_000) if number % 2 else b"POST /predict HT")
            opened.append(one)
        began = time.monotonic()
        assert process.raw(post(picture)).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 3
    finally:
        for one in opened:
            one.close()
    assert process.alive()


def test_what_the_description_allows_and_what_it_does_not(process, tmp_path):
    """Schemathesis's cases of every path: no answer is a defect's."""
    pytest.importorskip("schemathesis", reason="no schemathesis: pip install schemathesis")
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    examples = 5000 if LONG else 40
    done = subprocess.run(
        [command, "run", f"http://127.0.0.1:{process.port}/openapi.json",
         "--checks", "not_a_server_error,content_type_conformance,response_schema_conformance",
         "--max-examples", str(examples), "--seed", "1", "--no-color", "--no-shrink",
         "--generation-database", "none", "--continue-on-failure"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout[-400:])
    assert done.returncode == 0, done.stdout[-5000:]
    statuses = process.statuses()
    assert sum(statuses.values()) > 2 * examples
    assert not {status for status in statuses if status >= 500} - {503, 504}
    assert process.alive()
