"""Processes started as torchrun starts them, without its own start-up: for tests."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import TCPStore


@contextmanager
def meeting_place():
    """The port of a store as torchrun keeps it, over all its starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = TCPStore("127.0.0.1", port, None, True, timedelta(seconds=60))
    yield port
    del store


@contextmanager
def started(count, code, *words, launch="a-launch", port=None, **environment):
    """`count` processes that run Python code with these words, in the environment of torchrun.

    port: of the store where they meet; of one of their own if None.
    """
    if port is None:
        with (
            meeting_place() as own,
            started(count, code, *words, launch=launch, port=own, **environment) as processes,
        ):
            yield processes
        return
    shared = {
        "TORCHELASTIC_RUN_ID": launch, "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes, timeout=120):
    """(status, standard output, standard error) of each, when it has ended."""
    return [
        (process.returncode, *told)
        for process, told in [(each, each.communicate(timeout=timeout)) for each in processes]
    ]
