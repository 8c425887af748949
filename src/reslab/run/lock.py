"""One process at a time writes a run folder."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from reslab.errors import InputError

LOCK_FILE = ".lock"  # where a folder itself cannot be locked


@contextlib.contextmanager
def holding(folder: Path, holder: Callable[[], str]) -> Iterator[None]:
    """Hold a run folder inside the block; the system lets go of it however the process ends.

    Raises InputError naming the `holder` if another process has it. Where the file system knows no
    locks nothing is held.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = _open(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a run folder ({error})") from None
    try:
        if not _lock(number):
            raise InputError(f"{folder}: in use by {holder()}; wait until it has ended, or stop it")
        yield
    finally:
        os.close(number)


if sys.platform == "win32":
    import msvcrt

    def _open(folder: Path) -> int:
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)

    def _lock(number: int) -> bool:
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _open(folder: Path) -> int:
        return os.open(folder, os.O_RDONLY)

    def _lock(number: int) -> bool:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        return True
