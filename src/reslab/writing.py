"""Writing a file so that a kill, a crash or a full disk leaves the old one or the new one."""

import os
from pathlib import Path


def write_safely(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: a temporary file beside it, flushed, then renamed.

    Raises OSError; the file that stood there before is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
