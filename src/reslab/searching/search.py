"""`reslab.search`: what is asked is settled and checked, then the work goes on in its folder."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslab.disk import refuse_unwritable_name, user_path
from reslab.errors import InputError
from reslab.learning.device import choose_device, set_up
from reslab.options import refuse_unknown, taken, taking
from reslab.pictures.data_source import DataSource
from reslab.pictures.reading import Track
from reslab.pictures.splitting import complete_splits, split_notes
from reslab.pictures.table import Pictures
from reslab.process import training_alone
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe, changes_of
from reslab.run.display import Display
from reslab.run.folder import refuse_inside_data
from reslab.run.lock import LOCK_FILE, holding
from reslab.searching.proposals import refuse_without_optuna
from reslab.searching.record import (
    RECORD_FILE,
    Search,
    read_record,
)
from reslab.searching.space import Over, Space, space_of
from reslab.searching.work import Work
from reslab.training.description import without_part
from reslab.training.inputs import default_recipe, with_whole_paths


@taking(DataSource, Recipe)
@training_alone()
def search(
    data: str | Path,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    over: Over | None = None,
    recipe: str | Path | Recipe | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    fields: Mapping[str, Any] | None = None,
    **options: Any,
) -> Search:
    """Train a recipe with other fields again and again, and keep what validation likes best.

    The test split is not looked at: train the winner for that. The same call goes on with a search
    that was stopped, or further if more trials or minutes are given.

    data: a built-in name, a folder, a list file, a CSV or a zip.
    trials: how many in all. minutes: for how long in all; one of the two is needed.
    over: what to try: {"lr": "0.001..0.1", "optimizer.name": ["sgd", "adamw"]}, or the command's
        texts, such as "lr=0.001..0.1"; if None, what usually matters for the recipe.
    recipe: a name, a TOML file or a Recipe; by the pictures' size if None.
    out: the search's folder; searches/<recipe>-<data> if None.
    device: auto, cpu, cuda, cuda:N or mps.
    quiet: show no progress.
    fields: any recipe field by dotted name, such as {"optimizer.momentum": 0.9}.
    Raises InputError for anything the user can mend, InterruptedRunError after a signal, with every
    trial that came to its end saved.
    """
    refuse_unknown(options, DataSource, Recipe)
    began = time.perf_counter()
    display = Display(quiet=quiet)
    _refuse_endless(trials, minutes)
    changes = changes_of(taken(options, Recipe), fields)
    chosen = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    base = (chosen or Recipe()).with_fields(changes)
    space_of(over, base)  # what can be wrong with the command is found before the data is read
    refuse_without_optuna()
    device = choose_device(device)
    set_up(device)
    source = DataSource.named(data, taken(options, DataSource))
    for place in (source.model_dump() | {"out": out}).values():
        if isinstance(place, str | Path):  # they stand in the record
            refuse_unwritable_name(place, "search:")
    pictures = source.read(display.track)
    base = (chosen or default_recipe(pictures)).with_fields(changes)
    space = space_of(over, base)
    base = _trained_if_need_be(with_whole_paths(base), space, changes, display)
    folder = user_path(out) if out is not None else Path("searches") / _name(base, data)
    refuse_inside_data(folder, user_path(str(data)))
    _refuse_foreign(folder)
    whole = _split(pictures, base, display.track)
    work = Work(folder, base, space, device, display, began, source, pictures, whole)
    work.check()
    with holding(folder, lambda: _holder(folder)):
        work.begin()
        work.go_on(trials, minutes)
    return work.result()


def _refuse_endless(trials: int | None, minutes: float | None) -> None:
    if trials is None and minutes is None:
        raise InputError("a search needs an end: --trials N or --minutes M")
    if (trials is not None and trials < 1) or (minutes is not None and not minutes > 0):
        raise InputError("--trials and --minutes must be above 0")


def _trained_if_need_be(
    base: Recipe, space: Space, changes: Mapping[str, Any], display: Display
) -> Recipe:
    """A solved head has nothing of an optimiser: where one is searched, the head is trained."""
    idle = without_part(space) if base.solves else []
    if not idle:
        return base
    if "head" in changes or "head" in space or base.folds:
        raise InputError(
            f"--over {idle[0]}: the head is solved, and {', '.join(idle)} has no part in that; set"
            " --head trained, or search over other fields, such as class_weights or views"
        )
    display.warn(f"{', '.join(idle)} has no part in a solved head: here it is trained")
    return base.with_fields({"head": "trained"})


def _name(base: Recipe, data: str | Path) -> str:
    return f"{base.name}-{Path(data).name.split('.')[0] or 'data'}"


def _refuse_foreign(folder: Path) -> None:
    refuse_unwritable_name(folder, "--out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: a file stands there")
    held = {item.name for item in folder.iterdir()} if folder.exists() else set()
    others = {name for name in held if not name.startswith(f".{RECORD_FILE}.")} - {LOCK_FILE}
    if others and RECORD_FILE not in held:
        raise InputError(f"{folder}: holds files and no search ({min(others)}); name another --out")


def _holder(folder: Path) -> str:
    try:
        found = read_record(folder)
    except (OSError, InputError):
        found = None
    return (found.process if found else "") or "another process"


def _split(pictures: Pictures, base: Recipe, track: Track) -> Pictures:
    """The pictures split as `train` splits them. Raises InputError where nothing can judge."""
    whole, _ = complete_splits(pictures, base.splitting, track)
    if "validation" not in whole.splits and not base.folds:
        raise InputError(
            "a search is judged on validation, and there is none: set --split.validation, such as"
            " 0.1"
        )
    return whole.with_notes(*split_notes(whole))
