"""The server: right answers, in order, within limits, to those who may ask, until the end."""

import base64
import http.client
import importlib.util
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import reslab
from reslab.cli import run_command
from reslab.using.serving import app
from reslab.using.serving import server as server_
from reslab.using.serving.access import access_of
from reslab.using.serving.limits import Limits
from reslab.using.serving.metrics import Metrics
from reslab.using.serving.server import Connection, make_server
from serving import multipart, served

CLOSE = 1e-5


@pytest.fixture(scope="module")
def server(run):
    with served(run.path) as found:
        yield found


@pytest.fixture(scope="module")
def pictures(split_photos):
    """Bytes of files, all different."""
    return [path.read_bytes() for path in sorted(split_photos.rglob("*.png"))]


@pytest.fixture(scope="module")
def known(run, pictures):
    """What `predict` says of each, offline."""
    return reslab.Classifier.load(run.path).predict(pictures)


def agrees(answer, prediction):
    assert answer["error"] is None
    assert answer["label"] == prediction.label
    for said, guess in zip(answer["top"], prediction.top, strict=True):
        assert said["label"] == guess.label
        assert abs(said["probability"] - guess.probability) <= CLOSE


class Gate:
    """Holds the network up until it is opened; `passes` counts the pictures it was given."""

    def __init__(self, classifier):
        self.open = threading.Event()
        self.passes = 0
        self._rows = classifier.rows

    def __call__(self, pixels):
        self.open.wait(30)
        self.passes += len(pixels)
        return self._rows(pixels)


def gated(run, **limits):
    """A server whose network waits for `gate.open`, once it runs."""
    classifier = reslab.Classifier.load(run.path)
    context = served(classifier, Limits(**limits))
    found = context.__enter__()
    gate = Gate(classifier)
    classifier.rows = gate
    return context, found, gate


@pytest.fixture
def held(run, request):
    context, found, gate = gated(run, **getattr(request, "param", {}))
    try:
        yield found, gate
    finally:
        gate.open.set()
        context.__exit__(None, None, None)


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- answers -----------------------------------------------------------------------------------


def test_one_picture_is_predicted_as_offline(server, pictures, known):
    for data, prediction in zip(pictures[:8], known, strict=False):
        status, found = server.json("POST", "/predict", data)
        assert status == 200
        agrees(found["predictions"][0], prediction)
        assert set(found["predictions"][0]) == {"label", "probability", "top", "error"}


def test_several_are_answered_in_order_and_an_error_each_that_cannot_be_read(
    server, pictures, known
):
    sent = [*pictures[:5], b"no picture", b"", *pictures[5:30], pictures[0][:100]]
    status, found = server.json("POST", "/predict", *multipart(sent))
    assert status == 200
    answers = found["predictions"]
    assert len(answers) == len(sent)
    for place in (5, 6, len(sent) - 1):
        bad = answers[place]
        assert (bad["label"], bad["probability"], bad["top"]) == (None, None, [])
        assert bad["error"]
    for answer, prediction in zip(answers[:5] + answers[7:-1], known, strict=False):
        agrees(answer, prediction)


def test_what_is_asked_is_told(server, pictures, run):
    offline = reslab.Classifier.load(run.path)
    _, found = server.json("POST", "/predict?top=1&unknown_below=1&coverage=0.8", pictures[0])
    (answer,) = found["predictions"]
    prediction = offline.predict(pictures[0], 1, unknown_below=1.0, coverage=0.8)
    assert (answer["label"], answer["unknown"]) == ("unknown", True)
    assert answer["set"] == list(prediction.set)
    assert len(answer["top"]) == 1
    _, found = server.json("POST", "/predict?coverage=5e-324", pictures[0])
    assert found["predictions"][0]["set"] == [prediction.top[0].label]
    for query in ("top=0", "top=x", "unknown_below=2", "coverage=1", "coverage=0.9999"):
        status, found = server.json("POST", f"/predict?{query}", pictures[0])
        assert status == 422, query
        assert found["error"]


def test_many_clients_get_each_their_own(server, pictures, known):
    """Batches run across requests; nothing is lost or swapped in them."""

    def ask(number):
        mine = [(7 * number + step) % len(pictures) for step in range(1 + number % 3)]
        body, headers = multipart([pictures[place] for place in mine])
        status, found = server.json("POST", "/predict", body, headers)
        assert status == 200
        for place, answer in zip(mine, found["predictions"], strict=True):
            agrees(answer, known[place])
        return len(mine)

    before = server.desk.metrics.batches
    with ThreadPoolExecutor(24) as pool:
        count = sum(pool.map(ask, range(300)))
    assert server.desk.metrics.batches - before < count / 2
    assert server.desk.waiting == 0
    assert server.desk.held == 0


def test_explanations_beside_predictions(server, pictures, known, run):
    """One thread has the network: neither disturbs the other."""
    offline = reslab.Classifier.load(run.path)
    explained = [offline.explain(data) for data in pictures[:6]]

    def ask(number):
        place = number % 6
        if number % 2:
            agrees(server.json("POST", "/predict", pictures[place])[1]["predictions"][0],
                   known[place])  # fmt: skip
            return
        status, found = server.json("POST", "/explain?map=true", pictures[place])
        assert status == 200
        assert found["label"] == explained[place].label
        assert abs(found["probability"] - explained[place].probability) <= CLOSE
        np.testing.assert_allclose(np.array(found["map"]), explained[place].map, atol=1e-3)
        kind, _, data = found["overlay"].partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.format == "PNG"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(60)))


def test_an_explanation_is_of_the_class_asked_for(server, pictures, run):
    label = server.classifier.classes[2]
    status, found = server.json("POST", f"/explain?class={quote(label)}", pictures[0])
    assert (status, found["label"]) == (200, label)
    assert "map" not in found
    for path, body in [("/explain?class=nothing", pictures[0]), ("/explain", b"no picture")]:
        status, found = server.json("POST", path, body)
        assert status == 422
        assert found["error"]


def test_the_server_tells_about_itself(server, pictures):
    status, model = server.json("GET", "/model")
    assert status == 200
    assert model["classes"] == list(server.classifier.classes)
    assert model["network"] == "small-resnet"
    assert model["preprocessing"]["size"] == [16, 16]
    assert server.json("GET", "/healthz") == (200, {"alive": True})
    assert server.json("GET", "/readyz") == (200, {"ready": True})
    server.json("POST", "/predict", pictures[0])
    status, headers, text = server.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = text.decode().splitlines()
    for line in lines:
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{[^{}]*\})? [\d.e+-]+", line), line
    (count,) = [line for line in lines if line.startswith("reslab_accepted_total")]
    assert int(count.split()[1]) >= 1


def test_every_answer_forbids_what_is_not_needed_and_nothing_comes_from_elsewhere(server):
    for path in ("/", "/page.js", "/page.css", "/docs", "/openapi.json", "/model", "/nothing"):
        _, headers, body = server.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert not re.search(rb"""(src|href)=["']?(https?:)?//""", body), path
        assert b"<script>" not in body
        assert b"style=" not in body
    _, description = server.json("GET", "/openapi.json")
    assert {"/predict", "/explain", "/model", "/healthz", "/readyz", "/metrics"} == set(
        description["paths"]
    )


# --- limits ------------------------------------------------------------------------------------


def bomb(side=60_000):
    """A PNG of a few hundred bytes that says it has 3.6 thousand million pixels."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def strict(run):
    limits = Limits(
        picture_bytes=20_000, body_bytes=50_000, pictures=4, read_seconds=0.7, held_bytes=60_000
    )
    with served(run.path, limits) as found:
        yield found


def chunked(parts, path="/predict"):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def head(length, extra="", path="/predict"):
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{extra}\r\n"
    ).encode()


MALFORMED = {
    "a length beyond the limit": (head(20_001), 413),
    "a length beyond all limits": (head(10**18), 413),
    "chunks beyond the limit": (chunked([bytes(5000)] * 5), 413),
    "no number for a length": (head("many"), 400),
    "a negative length": (head(-5), 400),
    "two lengths": (head(5, "Content-Length: 6\r\n"), 400),
    "a length and chunks": (head(5, "Transfer-Encoding: chunked\r\n") + b"hello\r\n", 400),
    "a bad chunk": (chunked([b"a"]) + b"xyz\r\n", 400),
    "a huge header": (head(0, "X-Long: " + 100_000 * "x" + "\r\n"), 400),
    "endless headers": (head(0, "X-Many: x\r\n" * 10_000), 400),
    "no host": (b"GET /model HTTP/1.1\r\n\r\n", 400),
    "no host, old": (b"GET /model HTTP/1.0\r\n\r\n", 421),
    "two hosts": (b"GET /model HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "a line feed alone": (b"\n\n\n\n", 400),
    "no version": (b"GET /model HTTP/x.y\r\nHost: localhost\r\n\r\n", 400),
    "another method": (b"BREW /predict HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "a path upwards": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a path upwards, escaped": (
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a path with a NUL": (b"GET /page.js%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a path from the root": (b"GET //etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "another's url": (b"GET http://evil/model HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "no boundary": (
        head(3, "Content-Type: multipart/form-data\r\n") + b"abc", 400),
    "a boundary that never comes": (
        head(3, "Content-Type: multipart/form-data; boundary=b\r\n") + b"abc", 400),
    "a longest boundary": (
        head(3, f"Content-Type: multipart/form-data; boundary={9000 * 'b'}\r\n") + b"abc", 400),
    "an upgrade": (
        b"GET /model HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n", 200),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused(strict, name):
    sent, status = MALFORMED[name]
    found = strict.raw(sent)
    assert found, "closed without a word"
    number = int(found.split()[1])
    assert number in (status if isinstance(status, tuple) else (status,)), found[:300]
    assert b"root:" not in found
    assert strict.json("GET", "/healthz") == (200, {"alive": True})
    assert strict.desk.held == 0


def test_what_a_form_may_hold(strict, pictures):
    for parts, status in [
        (pictures[:4], 200), (pictures[:5], 413), ([b""] * 10_000, 413), ([bytes(20_001)], 413),
        ([bytes(15_000)] * 4, 413), ([], 400),
    ]:  # fmt: skip
        found, answer = strict.json("POST", "/predict", *multipart(parts))
        assert found == status, answer
    body, headers = multipart(pictures[:1], name="file")
    status, answer = strict.json("POST", "/predict", body, headers)
    assert status == 400
    assert "'file'" in answer["error"]
    body, headers = multipart(pictures[:1])
    assert strict.json("POST", "/predict", body[:-6], headers)[0] == 400  # without its end
    many = body.replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * 20 + b"\r\n", 1)
    assert strict.json("POST", "/predict", many, headers)[0] == 400
    assert strict.desk.held == 0


def test_a_sender_may_take_its_time_as_long_as_it_sends(run, pictures, monkeypatch):
    """Photos of a phone by a slow network: longer than a silent one is waited for."""
    monkeypatch.setattr(server_, "_SLACK", 0.1)
    data = pictures[0] + bytes(400_000)
    with served(run.path, Limits(read_seconds=1, deadline=0.7)) as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as opened:
            opened.sendall(head(len(data)))
            started = time.monotonic()
            for start in range(0, len(data), 20_000):
                time.sleep(0.12)
                opened.sendall(data[start : start + 20_000])
            assert time.monotonic() - started > 2 * 1
            assert opened.recv(65536).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", server.port), 10) as opened:
            opened.sendall(head(len(data)) + data[:20_000])
            assert opened.recv(65536).startswith(b"HTTP/1.1 408")


def test_an_explanation_is_drawn_before_its_deadline_or_not_waited_for(run, pictures, monkeypatch):
    monkeypatch.setattr(app, "marked_picture", lambda *given: time.sleep(3))
    with served(run.path, Limits(deadline=0.5)) as server:
        started = time.monotonic()
        status, _ = server.json("POST", "/explain", pictures[0])
        assert status == 504
        assert time.monotonic() - started < 2.5
        assert server.desk.metrics.answered == 0


def test_who_asks_whether_it_is_ready_is_not_counted_as_refused(server, monkeypatch):
    monkeypatch.setattr(server.desk, "_places", 10**6)
    before = server.desk.metrics.refused["full"]
    assert server.json("GET", "/readyz") == (503, {"ready": False})
    assert server.desk.metrics.refused["full"] == before


def test_what_may_take_long_is_not_cut_off_at_the_end():
    limits = Limits(deadline=120, read_seconds=30)
    server = make_server(None, "127.0.0.1", 0, limits, Metrics())
    assert server.config.timeout_graceful_shutdown > 30 + 120


def test_what_comes_too_late_to_be_answered_before_the_end_is_not_accepted(run, pictures):
    with served(run.path) as server:
        server.desk.take_until(time.monotonic() + 60)
        assert server.json("POST", "/predict", pictures[0])[0] == 200
        server.desk.take_until(time.monotonic())
        status, found = server.json("POST", "/predict", pictures[0])
        assert (status, found["error"]) == (503, "the server is stopping")


@pytest.mark.skipif(sys.platform != "linux", reason="only there all of 127.0.0.0/8 is this machine")
def test_a_server_on_all_addresses_goes_by_the_one_it_is_reached_at(run):
    with served(run.path, at="127.0.0.2", host="0.0.0.0", open_=True) as server:

        def status(host):
            connection = http.client.HTTPConnection("127.0.0.2", server.port, timeout=30)
            with closing(connection):
                connection.request("GET", "/model", headers={"Host": host})
                return connection.getresponse().status

        for host in ("127.0.0.2", f"127.0.0.2:{server.port}", "[::ffff:127.0.0.2]", "localhost"):
            assert status(host) == 200, host
        for host in ("10.0.0.1", "0.0.0.0", "127.0.0.2.example", "stranger.example"):
            assert status(host) == 421, host


def test_a_bomb_is_no_picture(strict):
    started = time.monotonic()
    status, found = strict.json("POST", "/predict", bomb())
    assert status == 200
    assert "too large to decode safely" in found["predictions"][0]["error"]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("start", [
    b"", b"POST /pre", head(20)[:-4], head(20), head(20) + b"abc", chunked([b"abc"]),
    head(30_000) + b"abc",
], ids=["nothing", "a line", "headers", "no body", "some body", "a chunk", "refused"])  # fmt: skip
def test_a_slow_sender_is_not_waited_for(strict, start):
    """Each sends a byte now and then, which must not win it more time."""
    started = time.monotonic()
    found = b""
    with socket.create_connection(("127.0.0.1", strict.port), 10) as opened:
        opened.sendall(start)
        opened.settimeout(0.2)
        while time.monotonic() - started < 8:
            try:
                part = opened.recv(65536)
                if not part:
                    break
                found += part
            except TimeoutError:
                if start and not found:
                    opened.sendall(b"x")
            except ConnectionError:
                break
    assert time.monotonic() - started < 7
    wanted = b"HTTP/1.1 413" if b"30000" in start else b"HTTP/1.1 408"
    assert found.startswith(wanted), found


def test_a_refused_body_is_not_read_without_end(strict):
    """The refusal comes at once; what is still sent is thrown away, up to a limit."""
    with socket.create_connection(("127.0.0.1", strict.port), 10) as opened:
        opened.sendall(head(10**9))
        assert opened.recv(65536).startswith(b"HTTP/1.1 413")
        sent = 0
        with suppress(OSError):  # a reset or a broken pipe, as it happens
            while sent < 10**8:
                sent += opened.send(bytes(65536))
        assert sent < 10**7
    assert strict.json("GET", "/healthz") == (200, {"alive": True})


def test_a_connection_serves_on_after_a_refusal(strict, pictures):
    """The rest of the refused body is no request, and the next one has all of its time."""
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
    with closing(connection):
        for _ in range(3):
            connection.request("POST", "/predict", bytes(30_000))
            with connection.getresponse() as answer:
                assert answer.status == 413
                answer.read()
            time.sleep(0.3)
            connection.request("POST", "/predict", pictures[0])
            with connection.getresponse() as answer:
                assert answer.status == 200
                answer.read()


def test_all_bodies_together_have_a_bound(strict):
    """Many that are being sent are refused before they fill the memory."""
    opened = []
    try:
        for _ in range(5):
            one = socket.create_connection(("127.0.0.1", strict.port), 10)
            one.sendall(head(19_999) + bytes(19_000))
            opened.append(one)
        answers = []
        for one in opened:
            one.settimeout(0.3)
            try:
                answers.append(one.recv(65536)[:12])
            except TimeoutError:
                answers.append(b"")
        assert answers.count(b"HTTP/1.1 503") == 2
    finally:
        for one in opened:
            one.close()
    until(lambda: strict.desk.held == 0)


def test_a_length_that_is_not_kept(strict, pictures):
    """Shorter than said: the client left. Longer: the rest is another request, and none."""
    assert strict.raw(head(500) + b"abc", half_close=True) == b""
    data = pictures[0]
    found = strict.raw(head(len(data)) + data + b"left over\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in found
    assert strict.desk.waiting == 0


# --- the queue ---------------------------------------------------------------------------------


def send_without_reading(server, data):
    opened = socket.create_connection(("127.0.0.1", server.port), 10)
    opened.sendall(head(len(data)) + data)
    return opened


@pytest.mark.parametrize("held", [{"waiting": 3}], indirect=True)
def test_full_means_503_at_once(held, pictures):
    server, gate = held
    opened = [send_without_reading(server, pictures[0]) for _ in range(3)]
    try:
        until(lambda: server.desk.waiting == 3)
        started = time.monotonic()
        status, headers, body = server.ask("POST", "/predict", pictures[1])
        assert time.monotonic() - started < 0.5
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert "full" in json.loads(body)["error"]
        assert server.json("GET", "/readyz")[0] == 503
        assert server.json("GET", "/healthz")[0] == 200
        # Before a body is read: the client is told while it is still to send it.
        with socket.create_connection(("127.0.0.1", server.port), 10) as early:
            early.sendall(head(10_000))
            assert early.recv(65536).startswith(b"HTTP/1.1 503")
        gate.open.set()
        for one in opened:
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
    finally:
        for one in opened:
            one.close()
    assert server.json("POST", "/predict", pictures[1])[0] == 200
    assert server.json("GET", "/readyz")[0] == 200


@pytest.mark.parametrize("held", [{"waiting": 4}], indirect=True)
def test_a_request_has_all_of_its_places_or_none(held, pictures):
    server, gate = held
    opened = send_without_reading(server, pictures[0])
    try:
        until(lambda: server.desk.waiting == 1)
        assert server.json("POST", "/predict", *multipart(pictures[:4]))[0] == 503
        assert server.desk.waiting == 1
        gate.open.set()
        assert opened.recv(65536).startswith(b"HTTP/1.1 200")
    finally:
        opened.close()
    status, found = server.json("POST", "/predict", *multipart(pictures[:6]))
    assert status == 200, "an empty queue takes any request"
    assert len(found["predictions"]) == 6


@pytest.mark.parametrize("held", [{"deadline": 0.5}], indirect=True)
def test_a_deadline_is_kept(held, pictures):
    server, gate = held
    started = time.monotonic()
    status, found = server.json("POST", "/predict", pictures[0])
    assert status == 504
    assert 0.4 < time.monotonic() - started < 2
    assert "0.5 seconds" in found["error"]
    assert server.desk.waiting == 0
    gate.open.set()
    until(lambda: server.json("POST", "/predict", pictures[0])[0] == 200)


def test_a_client_that_left_frees_its_place_and_costs_nothing(held, pictures):
    server, gate = held
    first = send_without_reading(server, pictures[0])
    until(lambda: server.desk.waiting == 1)
    time.sleep(0.2)  # it is in the network's hands
    others = [send_without_reading(server, pictures[1]) for _ in range(10)]
    until(lambda: server.desk.waiting == 11)
    for one in others:
        one.close()
    until(lambda: server.desk.waiting == 1)
    assert server.desk.metrics.gone == 10
    gate.open.set()
    assert first.recv(65536).startswith(b"HTTP/1.1 200")
    first.close()
    assert gate.passes == 1


@pytest.mark.parametrize("held", [{"deadline": 15.0, "waiting": 1000}], indirect=True)
def test_what_is_slow_is_refused_before_its_deadline_is_in_danger(held, pictures):
    """At 1.7 seconds a picture four, and not three, fill two fifths of a deadline of 15 seconds,
    which is more than a busy machine stands still."""
    server, gate = held
    threading.Timer(1.7, gate.open.set).start()
    assert server.json("POST", "/predict", pictures[0])[0] == 200  # tells the server its speed
    gate.open.clear()
    accepted = []
    for taken in range(4):
        accepted.append(send_without_reading(server, pictures[taken]))
        until(lambda taken=taken: server.desk.waiting == taken + 1)
    for number in range(50):
        assert server.json("POST", "/predict", pictures[number])[0] == 503
    gate.open.set()
    for one in accepted:
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
        one.close()
    assert gate.passes == 5


def test_a_defect_hurts_its_own_batch_alone(run, pictures, caplog):
    classifier = reslab.Classifier.load(run.path)
    with served(classifier) as server:
        rows = classifier.rows

        def broken(pixels):
            raise RuntimeError("a planted defect")

        classifier.rows = broken
        assert server.ask("POST", "/predict", pictures[0])[0] == 500
        assert "a planted defect" in caplog.text
        classifier.rows = rows
        assert server.json("POST", "/predict", pictures[0])[0] == 200
        assert server.desk.waiting == 0


# --- who may ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "localhost:1"}, 200), ({"Host": "LOCALHOST"}, 200), ({"Host": "[::1]:80"}, 200),
    ({"Host": "named.example"}, 200), ({"Host": "evil.example"}, 421),
    ({"Host": "localhost.evil.example"}, 421), ({"Host": "evil.example:80@localhost"}, 421),
    ({"Host": ""}, 421),
    ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost:3000", "Host": "localhost:8000"}, 403),
    ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, 200),
])  # fmt: skip
def test_hosts_and_origins(server, run, headers, status):
    with served(run.path, allow_host=["Named.example"]) as named:
        assert named.ask("GET", "/model", headers=headers)[0] == status


def test_a_token_is_asked_for_everywhere_but_at_the_door(run, pictures, tmp_path):
    secret = "a-secret-of-many-letters"
    (tmp_path / "token").write_text(f" {secret}\n", "utf-8")
    with served(run.path, token_file=str(tmp_path / "token")) as server:
        asked = [("POST", "/predict", pictures[0]), ("POST", "/explain", pictures[0]),
                 ("GET", "/model", None), ("GET", "/metrics", None)]  # fmt: skip
        for method, path, body in asked:
            for given in ("", f"Bearer {secret[:-1]}", f"Bearer {secret}x", f"Basic {secret}",
                          secret, "Bearer"):  # fmt: skip
                status, headers, _ = server.ask(method, path, body, {"Authorization": given})
                assert status == 401, (path, given)
                assert headers["www-authenticate"] == "Bearer"
            assert server.ask(method, path, body, {"Authorization": f"Bearer {secret}"})[0] == 200
        for path in ("/", "/page.js", "/healthz", "/readyz", "/docs", "/openapi.json"):
            assert server.ask("GET", path)[0] == 200
        assert server.ask("GET", "/nothing")[0] == 401
        description = server.json("GET", "/openapi.json")[1]
    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    closed = {path for path, uses in description["paths"].items()
              if all(use.get("security") == [{"token": []}] for use in uses.values())}  # fmt: skip
    assert closed == {"/predict", "/explain", "/model", "/metrics"}


def test_other_machines_may_ask_only_where_that_is_said(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.5", "server.example"):
        with pytest.raises(reslab.InputError, match="--token-file FILE"):
            access_of(host)
        assert access_of(host, open_=True).token is None
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.53"):
        assert access_of(host).token is None
    assert "0.0.0.0" not in access_of("0.0.0.0", open_=True).hosts
    good = tmp_path / "good"
    good.write_text("0123456789abcdef")
    assert access_of("0.0.0.0", token_file=str(good)).token == b"0123456789abcdef"
    for name, text in [("short", "abc"), ("blank", "two words in a line"), ("empty", "")]:
        (tmp_path / name).write_text(text)
    for name in ("short", "blank", "empty", "absent", "."):
        with pytest.raises(reslab.InputError, match="--token-file"):
            access_of("127.0.0.1", token_file=str(tmp_path / name))
    with pytest.raises(reslab.InputError, match="give one of them"):
        access_of("0.0.0.0", token_file=str(good), open_=True)
    assert "xn--fsqu00a.example" in access_of("127.0.0.1", ["例子.example"]).hosts
    for name in ("*", "", "http://a", "a/b", "a.example:8443", "[::1]:80", "a..b"):
        with pytest.raises(reslab.InputError, match="--allow-host"):
            access_of("127.0.0.1", [name])


# --- the command -------------------------------------------------------------------------------


def test_the_command_says_what_is_wrong(run, monkeypatch):
    model = str(run.path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, message in [
            (["--host", "0.0.0.0"], "--open if anybody may"),
            (["--port", port], "cannot listen there"),
            (["--port", "99999"], "--port 99999"),
            (["--host", "no such host"], "cannot listen there"),
            (["--queue", "0"], "--queue 0"),
            (["--deadline", "0"], "--deadline 0"),
            (["--unknown-below", "3"], "unknown-below 3"),
        ]:
            open_ = ["--open"] if "no such host" in words else []
            with pytest.raises(reslab.InputError, match=re.escape(message)):
                run_command(["serve", model, *words, *open_])
    with pytest.raises(reslab.InputError, match="no such model file"):
        run_command(["serve", "nothing"])
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else found(name, *a)
    )
    with pytest.raises(reslab.InputError, match=r"pip install 'reslab\[serve\]'.*uvicorn"):
        run_command(["serve", model])


def large(data):
    """The picture at a size that takes a while to be decoded."""
    found = io.BytesIO()
    with Image.open(io.BytesIO(data)) as opened:
        opened.resize((2000, 2000), Image.Resampling.NEAREST).save(found, "PNG")
    return found.getvalue()


def test_who_came_while_the_others_were_told_to_go_does_not_hold_the_end_up(run, monkeypatch):
    told, real = set(), Connection.shutdown

    def deaf(connection):
        if connection in told:
            real(connection)
        told.add(connection)

    with served(run.path, Limits(read_seconds=0.5)) as server:
        silent, slow = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(2))
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: loc")
        until(lambda: len(server.server.server_state.connections) == 2)
        monkeypatch.setattr(Connection, "shutdown", deaf)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    silent.close()
    slow.close()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_after_all_that_was_accepted(run, pictures, known, number):
    """Under load: whoever was accepted is answered, and the process says so and is gone."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as nohup does, so a server ignores it too")
    process = subprocess.Popen(
        [sys.executable, "-m", "reslab", "serve", str(run.path), "--port", "0"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        port = int(re.search(r":(\d+)/", line).group(1))
        answered = [0] * 8
        slow = socket.create_connection(("127.0.0.1", port))  # who never ends its request
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: loc")

        def load(client):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            with closing(connection), suppress(OSError, http.client.HTTPException):
                for number in range(100_000):
                    place = (client + 8 * number) % len(pictures)
                    connection.request("POST", "/predict", pictures[place])
                    with connection.getresponse() as answer:
                        body = answer.read()
                    if answer.status == 503:
                        return
                    agrees(json.loads(body)["predictions"][0], known[place])
                    answered[client] += 1

        clients = [threading.Thread(target=load, args=(n,)) for n in range(8)]
        for client in clients:
            client.start()
        until(lambda: sum(answered) > 50, 30)
        # One request that takes long enough to be under way when the signal comes.
        body, form = multipart([large(pictures[0])] * 24)
        lines = [f"{name}: {value}\r\n" for name, value in form.items()]
        heavy = socket.create_connection(("127.0.0.1", port), 20)
        heavy.sendall(head(len(body), "".join(lines)) + body)
        time.sleep(0.2)
        process.send_signal(number)
        started = time.monotonic()
        found = http.client.HTTPResponse(heavy)
        found.begin()
        predictions = json.loads(found.read())["predictions"]
        assert [one["label"] for one in predictions] == [known[0].label] * 24
        try:
            rest = process.communicate(timeout=30)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            pytest.fail(f"it did not end; this is where it stood:\n{process.communicate()[1]}")
        assert time.monotonic() - started < 25
        for client in clients:
            client.join(30)
        found.close()
        heavy.close()
        slow.close()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert process.returncode == 128 + number
    accepted, sent = re.search(r"([\d,]+) requests accepted, ([\d,]+) answered", rest).groups()
    assert accepted == sent == f"{sum(answered) + 1:,}"
    assert "Traceback" not in rest
