"""What a process is about: its command, one training at a time, nothing after a fork that torch
survives not.

torch's global settings and random stream belong to the process, so two trainings in two threads
would disturb each other.
"""

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from reslab.errors import InputError

_STARTING = 20.0  # seconds of a processor, which a command needs not to start
_training = threading.RLock()
_command: str | None = None
_began: float | None = None
_leaving = threading.Lock()  # held by whoever says the last words of a command by the clock
_left_at: float | None = None
_last_words: Callable[[], int] = int
_telling: Callable[[Any], None] | None = None
_computed = False
_forked_after = False
_speaks: bool | None = None


@contextmanager
def running_command(words: Sequence[str]) -> Iterator[None]:
    """Say which command is carried out inside the block: its words after `reslab`."""
    global _command, _began
    _command, _began = shlex.join(["reslab", *words]), time.perf_counter() - _age()
    try:
        yield
    finally:
        _command = _began = None


def _age() -> float:
    """Seconds since this process began, as far as Linux tells; 0 if it has done more than start.

    How long a start takes says nothing: on a machine with 50 processes it took a minute.
    """
    if time.process_time() > _STARTING:
        return 0.0
    try:
        begun = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        age = up - begun / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return max(0.0, age)


def began_at() -> float:
    """When the command began that is carried out, or now where there is none: perf_counter."""
    return time.perf_counter() if _began is None else _began


def leave_at(moment: float, last_words: Callable[[], int]) -> None:
    """Let the command that is carried out end by `moment`, by time.perf_counter, whatever it is
    doing then; a function that was called by a program is left to it.

    last_words: says how it has ended, and gives the exit status; when this is called again, the
    newest count. What a run has on the disk is whole at any moment,
    so nothing is lost but what was just being done.
    """
    global _left_at, _last_words
    if _command is None:
        return
    first, _left_at, _last_words = _left_at is None, moment, last_words

    def wait() -> None:
        while _left_at is not None and (left := _left_at - time.perf_counter()) > 0:
            time.sleep(left)
        with _leaving:
            _end(_last_words())

    if first:
        threading.Thread(target=wait, name="leaving", daemon=True).start()


@contextmanager
def telling(tell: Callable[[Any], None]) -> Iterator[None]:
    """Say how the command prints its result, if that has to be done from elsewhere."""
    global _telling
    _telling = tell
    try:
        yield
    finally:
        _telling = None


def tell(result: object) -> None:
    """Print a result as the command that is carried out does it."""
    if _telling is not None:
        _telling(result)


def say_and_leave(last_words: Callable[[], int]) -> int:
    """Say how a command has ended: its exit status. One by the clock ends here and now.

    Python would take a second and more to take torch apart, several on a busy machine.
    """
    if _left_at is None:
        return last_words()
    with _leaving:
        _end(last_words())


def _end(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader may be gone
            if stream is not None:
                stream.flush()
    os._exit(status)


def command_or(function: str) -> str:
    """The command that is carried out, or the function that was called where there is none."""
    return _command or f"{function}(...)"


def launched() -> bool:
    """Whether torchrun has started this process, alone or with others."""
    return {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"} <= os.environ.keys()


def leads() -> bool:
    """Whether this process speaks for all that torchrun has started; alone it does."""
    return not launched() or os.environ["RANK"] == "0"


def refuse_several(what: str) -> None:
    """Raise InputError where torchrun has started several processes for what one does."""
    if launched() and os.environ["WORLD_SIZE"] != "1":
        raise InputError(
            f"{what} works in one process, and torchrun has started {os.environ['WORLD_SIZE']};"
            " start it without torchrun"
        )


def speaks() -> bool:
    """Whether what has gone wrong is for this process to say: where all fail, one does."""
    return leads() if _speaks is None else _speaks


def let_speak(allowed: bool | None) -> None:
    """Settle which of several processes says what has gone wrong; None leaves it open again."""
    global _speaks
    _speaks = allowed


def processes_here() -> int:
    """How many processes torchrun has started on this machine; they share its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() else 1


@contextmanager
def training_alone() -> Iterator[None]:
    """Let one training at a time hold the process; a second thread's waits for its end."""
    computing()
    with _training:
        yield


def computing() -> None:
    """Say that this process is about to compute with torch.

    Raises InputError in a child that was forked after its parent had: torch's threads do not live
    in it, and the first parallel operation would wait for them for ever.
    """
    global _computed
    if _forked_after:
        raise InputError(
            "this process was forked from one that has used torch already, and would hang: start"
            " it by multiprocessing.get_context('spawn') or 'forkserver', or fork before reslab"
            " is used"
        )
    _computed = True


def _in_child() -> None:
    global _training, _forked_after
    _training = threading.RLock()  # the thread that held it is not here
    _forked_after = _computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
