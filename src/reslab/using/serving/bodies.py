"""A request's body, read piece by piece within its limits: one picture, or several parts."""

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from reslab.using.serving.limits import SLOWEST, Limits, RefusedError

PART = "pictures"
_PART_HEADERS, _PART_HEADER_BYTES = 16, 4096
_AROUND_A_PART = 1024  # bytes of a boundary and headers that a request's length may add a picture


class ClientGoneError(Exception):
    """Nobody waits for the answer."""


async def read_pictures(
    request: Request, limits: Limits, hold: Callable[[int], None], several: bool = True
) -> list[bytes]:
    """The files of the pictures in a request, in their order.

    hold: told of every piece that stays in memory; may raise RefusedError.
    several: whether multipart/form-data is taken; the body is one picture otherwise.
    Raises RefusedError: 400 for a body that is not what it says, 408 for one that comes too slowly,
    413 for too many bytes or pictures; ClientGoneError.
    """
    kind, options = _content_type(request)
    parted = several and kind == b"multipart/form-data"
    most = limits.body_bytes if parted else limits.picture_bytes
    _refuse_long(request, most + (limits.pictures * _AROUND_A_PART if parted else 0), most)
    try:
        async with asyncio.timeout(limits.read_seconds) as time:
            pieces = _in_time(request, limits, time)
            if parted:
                return await _parts(pieces, options.get(b"boundary", b""), limits, hold)
            return [await _whole(pieces, limits, hold)]
    except TimeoutError:
        raise RefusedError(
            408,
            f"the request came too slowly: less than a megabit a second for {limits.read_seconds:g}"
            " seconds",
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None


def _content_type(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    return parse_options_header(request.headers.get("content-type", ""))


def _refuse_long(request: Request, most: int, named: int) -> None:
    """By what the request itself says, before any of it is read."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdecimal() and int(told[:20]) > most:
        raise _too_long(named)


def _too_long(most: int) -> RefusedError:
    return RefusedError(413, f"the request is larger than {most:,} bytes")


async def _in_time(request: Request, limits: Limits, time: asyncio.Timeout) -> AsyncIterator[bytes]:
    """The body's pieces, each of which lets its client have more time for the next ones."""
    now = asyncio.get_running_loop().time
    async for piece in request.stream():
        until = (time.when() or 0.0) + len(piece) / SLOWEST
        time.reschedule(min(until, now() + limits.read_seconds))
        yield piece


async def _whole(
    pieces: AsyncIterator[bytes], limits: Limits, hold: Callable[[int], None]
) -> bytes:
    first, rest = b"", bytearray()
    async for piece in pieces:
        if len(first) + len(rest) + len(piece) > limits.picture_bytes:
            raise _too_long(limits.picture_bytes)
        hold(len(piece))
        if first:
            rest += piece
        else:  # most pictures come in one piece, which need not be copied
            first = piece
    return first + bytes(rest) if rest else first


async def _parts(
    pieces: AsyncIterator[bytes], boundary: bytes, limits: Limits, hold: Callable[[int], None]
) -> list[bytes]:
    if not boundary:
        raise RefusedError(400, "multipart/form-data without a boundary")
    parts = _Parts(limits, hold)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.headers_end,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
                "on_end": parts.finish,
            },
            max_header_count=_PART_HEADERS,
            max_header_size=_PART_HEADER_BYTES,
        )
        received = 0
        async for piece in pieces:
            received += len(piece)
            if received > limits.body_bytes + limits.pictures * _AROUND_A_PART:
                raise _too_long(limits.body_bytes)
            parser.write(piece)
    except FormParserError as error:
        raise RefusedError(400, f"not multipart/form-data as it says ({error})") from None
    if not parts.finished:
        raise RefusedError(400, "multipart/form-data that ends before its last boundary")
    if not parts.found:
        raise RefusedError(400, f"no parts; name each picture's part {PART!r}")
    return parts.found


class _Parts:
    """What a parser's calls add up to."""

    def __init__(self, limits: Limits, hold: Callable[[int], None]) -> None:
        self.found: list[bytes] = []
        self.finished = False
        self._limits = limits
        self._hold = hold
        self._current = bytearray()
        self._name, self._value = bytearray(), bytearray()
        self._part_name: bytes | None = None

    def begin(self) -> None:
        if len(self.found) >= self._limits.pictures:
            raise RefusedError(413, f"more than {self._limits.pictures} pictures in a request")
        self._current = bytearray()
        self._part_name = None

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._part_name = parse_options_header(bytes(self._value))[1].get(b"name")
        self._name, self._value = bytearray(), bytearray()

    def headers_end(self) -> None:
        if self._part_name != PART.encode():
            shown = (self._part_name or b"").decode("utf-8", "replace")[:40]
            raise RefusedError(400, f"a part named {shown!r}; name each picture's part {PART!r}")

    def data(self, data: bytes, start: int, end: int) -> None:
        if len(self._current) + end - start > self._limits.picture_bytes:
            raise RefusedError(413, f"a picture of more than {self._limits.picture_bytes:,} bytes")
        self._hold(end - start)
        self._current += data[start:end]

    def end(self) -> None:
        self.found.append(bytes(self._current))

    def finish(self) -> None:
        self.finished = True
