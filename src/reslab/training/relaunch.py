"""A command that torchrun starts again, after a process was lost: it goes on with its own run."""

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.process import command_or, launched
from reslab.run.folder import open_run


def launch_name(*asked: object) -> str | None:
    """Names this launch of torchrun and what it was asked for; None without torchrun.

    A launch is its --rdzv-id, or its process where it was given none.
    """
    if not launched():
        return None
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name == "none":
        name = f"{platform.node()}/{os.getppid()}"
    text = repr((name, command_or("train"), asked))
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def begun_by(launch: str | None, out: str | Path | None) -> Path | None:
    """The run that this launch has begun already: in `out`, or in a folder of its own choice."""
    if launch is None:
        return None
    folders: Iterable[Path] = Path("runs").glob("*/") if out is None else [user_path(out)]
    for folder in folders:
        try:
            if open_run(folder).info.get("launch") == launch:
                return folder
        except InputError:
            continue
    return None
