"""A server's life: listening, watching its connections, and an end that loses nothing."""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from reslab.run.interruption import catching_signals
from reslab.using.serving.limits import MIB, SLOWEST, Limits
from reslab.using.serving.metrics import Metrics

_SLACK = 2.0  # seconds that a connection has beyond what its request had
_DRAIN = 25.0  # seconds, or what the slowest answer takes; then what is still open is cut
_LOOK = 0.5  # seconds between two looks at all connections
_SPARE_FILES = 64  # descriptors that are no connections
_BUSY, _SLOW, _WRONG = (
    f"HTTP/1.1 {status}\r\n{extra}Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
    for status, extra in [
        ("503 Service Unavailable", "Retry-After: 1\r\n"),
        ("408 Request Timeout", ""),
        ("400 Bad Request", ""),
    ]
)


class Connection(H11Protocol):
    """A connection that may not stay for ever, whatever its client does or leaves undone."""

    limits = Limits()
    metrics = Metrics()

    # asyncio hands over a Transport, as uvicorn's own class expects too.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._began: float | None = time.monotonic()  # what its client is about, if anything
        self._left_over = 0
        self._parting = False
        if len(self.connections) > self.limits.connections:
            self.metrics.refused["connections"] += 1
            self._part(_BUSY)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        elif not self._parting:  # what it has sent gives it more time, as `read_pictures` does
            self._began = min(now, self._began + len(data) / SLOWEST)
        # A head that is complete is not measured, however long: so it comes in pieces.
        head = self.conn.their_state is h11.IDLE
        step = self.limits.header_bytes // 2 if head else len(data)
        try:
            for start in range(0, len(data), step):
                if self._parting:
                    self._throw_away(data[start:])
                    return
                super().data_received(data[start : start + step])
        except h11.LocalProtocolError:  # nonsense in the middle of a request that is answered
            self.transport.abort()
        if self.cycle is None or not self.cycle.response_complete:
            self._left_over = 0
        elif self.conn.their_state is h11.IDLE:  # the rest of a refused request has come
            self._began = None
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._throw_away(data)

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.DONE:
            self._began = None
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()
        else:
            self._part(_WRONG)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # there is nothing left to be said on it
            self.transport.abort()

    def part_when_answered(self) -> None:
        """Close if nothing is asked at the moment, else once that is answered."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if (answering or self._began is None) and not self.transport.is_closing():
            self.shutdown()

    def watch(self, now: float) -> None:
        """End a connection whose time is over."""
        if self._began is None:
            return
        spent = now - self._began
        if self._parting:
            if spent > _SLACK:
                self.transport.abort()
        elif self.cycle is not None and not self.cycle.response_complete:
            # The application has its own limits, and answers; this is for who does not read it.
            if spent > self.limits.read_seconds + self.limits.deadline + 5 * _SLACK:
                self.transport.abort()
        elif spent > self.limits.read_seconds + _SLACK:
            if self.conn.their_state is h11.IDLE:
                self._part(_SLOW)
            else:
                self.transport.abort()

    def _part(self, message: bytes) -> None:
        """Say a last word, and listen a little longer: a close would take the word back."""
        self._parting = True
        self._began = time.monotonic()
        self.transport.write(message)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _throw_away(self, data: bytes) -> None:
        """What is still sent of a refused request is not kept, nor taken without end."""
        self._left_over += len(data)
        if self._left_over > self.limits.body_bytes + MIB:
            self.transport.abort()


class Server(uvicorn.Server):
    """Ends by the signals that end every command, after what was accepted is answered."""

    def __init__(
        self,
        config: uvicorn.Config,
        told: Callable[[int], None],
        ends: Callable[[float], None],
    ) -> None:
        super().__init__(config)
        self.caught: list[int] = []
        self._told = told
        self._ends = ends

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with catching_signals() as self.caught:
            yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._told(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ends(time.monotonic() + (self.config.timeout_graceful_shutdown or 0))
        watching = asyncio.ensure_future(self._watch_the_end())
        try:
            await super().shutdown(sockets)
        finally:
            watching.cancel()

    async def _watch_the_end(self) -> None:
        """Keep the limits, and let no connection stay that came in while the others were told."""
        while True:
            await asyncio.sleep(_LOOK)
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.part_when_answered()
                    connection.watch(time.monotonic())

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:  # of 0.1 s each, as _LOOK is
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.watch(now)
        return bool(self.caught) or await super().on_tick(counter)


def make_server(
    app: ASGIApp,
    host: str,
    port: int,
    limits: Limits,
    metrics: Metrics,
    told: Callable[[int], None] = lambda port: None,
    ends: Callable[[float], None] = lambda moment: None,
) -> Server:
    """A server that has not begun to listen.

    told: is given the port once it has. ends: once it is to stop, the moment, by time.monotonic(),
    when what is still open will be cut.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    kind = type("Connection", (Connection,), {
        "limits": _with_files(limits), "metrics": metrics
    })  # fmt: skip
    config = uvicorn.Config(
        app, host=host, port=port, loop="asyncio", http=kind, ws="none", lifespan="off",
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_graceful_shutdown=math.ceil(
            max(_DRAIN, limits.read_seconds + limits.deadline + 2 * _SLACK)
        ),
        backlog=limits.connections,
    )  # fmt: skip
    return Server(config, told, ends)


def _with_files(limits: Limits) -> Limits:
    """No more connections than the system lets this process have open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits
    from dataclasses import replace

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _SPARE_FILES
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return replace(limits, connections=max(1, min(limits.connections, soft - _SPARE_FILES)))
