"""A server in a thread of the tests' own process, on a port of this machine alone."""

import asyncio
import http.client
import json
import socket
import threading
from contextlib import contextmanager

import reslab
from reslab.using.serving.access import access_of
from reslab.using.serving.app import Service, create_app
from reslab.using.serving.desk import Desk
from reslab.using.serving.limits import Limits
from reslab.using.serving.metrics import Metrics
from reslab.using.serving.server import make_server


class Served:
    """A running server: `desk` is its queue, `classifier` its model."""

    def __init__(self, port, desk, classifier, server):
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"
        self.desk = desk
        self.classifier = classifier
        self.server = server

    def ask(self, method, path, body=None, headers=None, timeout=30):
        """(status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        status, _, data = self.ask(method, path, body, headers)
        return status, json.loads(data)

    def raw(self, data, timeout=30, half_close=False):
        """All that comes back for these bytes, until the server closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as opened:
            found = b""
            try:
                opened.sendall(data)
                if half_close:
                    opened.shutdown(socket.SHUT_WR)
                while part := opened.recv(65536):
                    found += part
                    opened.settimeout(0.5)
            except (TimeoutError, ConnectionError):
                pass
            return found


def multipart(parts, name="pictures", boundary="a-boundary"):
    """(body, headers) of a form with these files."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{number}"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + part
        + b"\r\n"
        for number, part in enumerate(parts)
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return body + f"--{boundary}--\r\n".encode(), kind


@contextmanager
def served(model, limits=None, unknown_below=None, at="127.0.0.1", host="127.0.0.1", **access):
    """A `Served` of a model's file or Classifier; everything is ended with the block.

    at: the address of this machine on which it listens, as if it were asked to by `host`.
    """
    limits = limits or Limits()
    classifier = model if isinstance(model, reslab.Classifier) else reslab.Classifier.load(model)
    metrics = Metrics()
    desk = Desk(classifier, limits, metrics)
    app = create_app(Service(classifier, desk, access_of(host, **access), unknown_below))
    listening = socket.create_server((at, 0))
    port = listening.getsockname()[1]
    begun = threading.Event()
    server = make_server(app, "127.0.0.1", port, limits, metrics, lambda port: begun.set())
    desk.open()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        assert begun.wait(30)
        yield Served(port, desk, classifier, server)
    finally:
        server.should_exit = True
        thread.join(40)
        desk.close()
        assert not thread.is_alive()
