"""What a server grants a request, and how it says no."""

from dataclasses import dataclass

MIB = 1 << 20
SLOWEST = MIB / 8  # bytes a second, a megabit, at which a client may send for as long as it takes


@dataclass(frozen=True)
class Limits:
    """Bounds that hold while a request is being read, not after.

    picture_bytes, body_bytes: of one picture's file, and of a request with several.
    pictures: in one request.
    header_bytes: of a request's head, and of chunk headers within its body.
    held_bytes: of all bodies that are in memory at one time.
    waiting: pictures that are accepted and not yet answered.
    read_seconds: that a client may leave the server waiting while it sends a request, beyond what
        its bytes take at `SLOWEST`.
    deadline: seconds from a request's last byte to its answer.
    connections: that are open at one time.
    """

    picture_bytes: int = 16 * MIB
    body_bytes: int = 64 * MIB
    pictures: int = 64
    header_bytes: int = 32 * 1024
    held_bytes: int = 256 * MIB
    waiting: int = 256
    read_seconds: float = 10.0
    deadline: float = 10.0
    connections: int = 2000


class RefusedError(Exception):
    """A request that is not served: the HTTP status, why, and when to come again.

    retry_after: whole seconds, sent as the header Retry-After.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
