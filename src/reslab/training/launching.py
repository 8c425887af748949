"""A run under torchrun: its batches have parts; a command that is started again goes on with it.

torchrun starts all processes again, perhaps fewer of them, when one was lost.
"""

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from reslab.disk import user_path
from reslab.errors import InputError
from reslab.process import command_or, launched
from reslab.processes import team
from reslab.recipes.recipe import Recipe
from reslab.run.folder import Run, open_run

PARTS = 4  # of a batch, where several processes may share it


def launch_name(*asked: object) -> str | None:
    """Names this launch of torchrun and what it was asked for; None without torchrun.

    A launch is its --rdzv-id, or its process where it was given none.
    """
    if not launched():
        return None
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name == "none":
        name = f"{platform.node()}/{os.getppid()}/{_started(os.getppid())}"
    text = repr((name, command_or("train"), asked))
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def _started(process: int) -> str:
    """When a process began, where Linux tells: in a container its number is the same each time."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"
    except (OSError, IndexError):
        return ""


def _begun_by(launch: str | None, out: str | Path | None) -> Path | None:
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


def in_parts(recipe: Recipe) -> Recipe:
    """The recipe, its batches cut into parts where torchrun may start any number of processes.

    Raises InputError where there are more processes than parts.
    """
    if launched() and recipe.parts is None:
        recipe = recipe.with_fields({"parts": PARTS})
    if team().count > (recipe.parts or 1):
        raise InputError(
            f"parts = {recipe.parts}: {team().count} processes would share so many parts of a"
            " batch, and each needs one at least; set more --parts, or start fewer processes"
        )
    return recipe


def refuse_whole(recipe: Recipe) -> None:
    """Raise InputError where a run's batches are not cut into parts for several processes."""
    if team().count > 1 and recipe.parts is None:
        raise InputError(
            "the run was begun without torchrun, and its batches are whole: go on without it, or"
            " train anew with --parts 4"
        )
    in_parts(recipe)


def earlier_run(launch: str | None, out: str | Path | None, *, overwrite: bool) -> Path | None:
    """The run that this launch has begun before; what else `out` holds is refused."""
    earlier = _begun_by(launch, out)
    if earlier is None and out is not None:
        Run(out).refuse_held(overwrite=overwrite)
    return earlier
