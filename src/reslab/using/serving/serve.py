"""`reslab serve`: a model, listened for until a signal comes."""

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reslab.errors import InputError, InterruptedRunError
from reslab.using.classifier import Classifier
from reslab.using.serving.access import access_of
from reslab.using.serving.app import Service, create_app
from reslab.using.serving.desk import Desk
from reslab.using.serving.limits import Limits
from reslab.using.serving.metrics import Metrics
from reslab.using.serving.server import make_server


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    allow_host: Sequence[str] = (),
    token_file: str | None = None,
    open_: bool = False,
    unknown_below: float | None = None,
    device: str = "auto",
    told: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Serve a model until a signal asks for the end, then answer what was accepted.

    told: is given a line once the server listens, and one when it has ended.
    Raises InputError if the model, the address or who may ask is wrong; InterruptedRunError at the
    end, for it is a signal that brings it.
    """
    limits = limits or Limits()
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: from 1 to 65535, or 0 for any that is free")
    access = access_of(host, allow_host, token_file, open_)
    classifier = Classifier.load(model, device)
    classifier.asked(unknown_below=unknown_below)
    metrics = Metrics()
    desk = Desk(classifier, limits, metrics)
    app = create_app(Service(classifier, desk, access, unknown_below))
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    others = ""
    if access.by_address:
        shown, others = "localhost", ", and by this machine's addresses"

    def begun(port: int) -> None:
        told(f"serving on http://{shown}:{port}/{others} (Ctrl-C ends it)")

    with listening:
        desk.open()
        server = make_server(
            app, host, port, limits, metrics, begun,
            lambda moment: desk.take_until(moment - limits.deadline - 1),
        )  # fmt: skip
        with _collecting_little():
            asyncio.run(server.serve([listening]))
        desk.close()
    told(f"{metrics.accepted:,} requests accepted, {metrics.answered:,} answered")
    if server.caught:
        cut = metrics.accepted - metrics.answered - metrics.gone - metrics.late
        end = (
            f"{cut:,} of the requests were cut off" if cut else "all that was accepted is answered"
        )
        raise InterruptedRunError(end, server.caught[0])


@contextmanager
def _collecting_little() -> Iterator[None]:
    """Leave what stands already out of garbage collections: to look at all of torch takes 0.2 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where there can be none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # a name that can be none
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot listen there ({reason})") from None
    return listening
