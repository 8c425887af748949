"""What a process may do at a time: one training, and nothing after a fork that torch survives not.

torch's global settings and random stream belong to the process, so two trainings in two threads
would disturb each other.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from reslab.errors import InputError

_training = threading.RLock()
_computed = False
_forked_after = False


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
