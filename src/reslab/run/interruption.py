"""Signals that ask a command to stop, and the two ways in which it does.

While a run works they are noted, so that the step can be finished and the state saved. Anywhere
else they are raised, as Ctrl-C is.
"""

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from reslab.process import launched

# The terminal was closed (where there is such a signal), Ctrl-C, and the polite request to end.
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM") if hasattr(signal, name)
)
_SAME = 10.0  # seconds within which torchrun passes a signal on


class SignalInterrupt(KeyboardInterrupt):
    """A signal that stops a command where nothing had to be saved first."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def raising_signals() -> Iterator[None]:
    """Let the signals raise SignalInterrupt inside the block, which is a whole command."""

    def stop(number: int, frame: FrameType | None) -> None:
        _let_go_of_terminal(number)
        raise SignalInterrupt(number)

    with _handled_by(stop):
        yield


@contextmanager
def catching_signals() -> Iterator[list[int]]:
    """Collect the signals inside the block; a second SIGINT interrupts at once.

    Ctrl-C under torchrun comes twice: from the terminal, and from torchrun, which has it too.
    """
    caught: list[int] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        _let_go_of_terminal(number)
        again = launched() and time.monotonic() - first < _SAME
        if caught and number == signal.SIGINT and not again:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        caught.append(number)

    with _handled_by(note):
        yield caught


@contextmanager
def _handled_by(handler: object) -> Iterator[None]:
    """Set the handler; a closed terminal stays ignored where nohup has said so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = set(STOPPING)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN:
        wanted.discard(hangup)
    # A handler need not return nothing: what it raises ends the work, which its type leaves out.
    before = {number: signal.signal(number, handler) for number in wanted}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _let_go_of_terminal(number: int) -> None:
    """Once the terminal is closed, writing to it fails: what is still said goes nowhere."""
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)
