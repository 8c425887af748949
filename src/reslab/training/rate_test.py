"""A learning-rate range test: at which rates a short training learns, and where it breaks.

L. N. Smith: Cyclical Learning Rates for Training Neural Networks, WACV 2017, arXiv 1506.01186.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reslab.disk import refuse_foreign, user_path, write_safely
from reslab.errors import InputError
from reslab.judging.charts import draw_rates, is_our_png
from reslab.learning.device import choose_device, set_up
from reslab.learning.loop import ramp
from reslab.options import refuse_unknown, taken, taking
from reslab.pictures.data_source import DataSource
from reslab.pictures.splitting import complete_splits
from reslab.pictures.table import Pictures
from reslab.process import training_alone
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe, changes_of
from reslab.run.display import Display
from reslab.run.folder import RATE_FILES, new_run_folder, refuse_inside_data
from reslab.training.inputs import default_recipe, with_whole_paths
from reslab.training.preparation import Prepared, prepare, with_precision
from reslab.training.session import new_state
from reslab.training.transfer import start_from_solved_head, with_features

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
_SMOOTHING = 0.9  # the share of a smoothed loss that comes from the losses before
_BROKEN = 4.0  # times the lowest smoothed loss: there is nothing more to see
_HEADER = "learning_rate,loss,smoothed\n"


@dataclass(frozen=True)
class RateTest:
    """What a range test found.

    suggested: a tenth of the rate at which the smoothed loss was lowest, which is a place to start
        from and no optimum.
    rates, losses, smoothed: of each step. csv, chart: the files that hold them.
    """

    suggested: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    csv: str
    chart: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@taking(DataSource, Recipe)
@training_alone()
def find_lr(
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    fields: Mapping[str, Any] | None = None,
    **options: Any,
) -> RateTest:
    """Find a learning rate by a short ramp of 120 steps from 1e-6 to 10, and train nothing.

    Only training pictures pass through the network. The weights are thrown away; `lr.csv` and
    `lr.png` are written. Rates of their own, such as head_lr, keep their ratio to lr.

    data, recipe, device, quiet, fields: as for `train`.
    out: the folder for both files; runs/lr-<recipe>-<data>-<number> if None.
    Raises InputError for anything the user can mend, a solved head included: it has no rate.
    """
    refuse_unknown(options, DataSource, Recipe)
    display = Display(quiet=quiet)
    changes = changes_of(taken(options, Recipe), fields)
    chosen = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    (chosen or Recipe()).with_fields(changes)
    device = choose_device(device)
    set_up(device)
    if out is not None:
        _refuse_held(user_path(out))
    refuse_inside_data(user_path(out or "runs"), user_path(str(data)))
    pictures = DataSource.named(data, taken(options, DataSource)).read(display.track)
    chosen = with_whole_paths((chosen or default_recipe(pictures)).with_fields(changes))
    if chosen.solves:
        raise InputError("a solved head has no learning rate to find; set --head trained")
    prepared = _of_train_alone(pictures, chosen, device, display)
    rates = [LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]
    state = new_state(prepared, device)
    losses = _until_broken(ramp(state, prepared.recipe, prepared.batches, rates, device))
    folder = new_run_folder(f"lr-{chosen.name}", str(data)) if out is None else user_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return _written(folder, rates[: len(losses)], losses, chosen.optimizer.lr)


def _of_train_alone(pictures: Pictures, recipe: Recipe, device: str, display: Display) -> Prepared:
    """As `train` prepares it, but without the splits that are held out."""
    whole, _ = complete_splits(pictures, recipe.splitting, display.track)
    alone = replace(whole, splits={"train": whole.train()})
    carved = {"split.validation": 0, "split.test": 0, "patience": None}
    prepared, _ = with_precision(prepare(alone, recipe.with_fields(carved), display.track), device)
    prepared.network.to(device)
    if prepared.cut is not None:
        prepared, _ = with_features(prepared, device, display, _never)
    if prepared.recipe.frozen_start:
        start_from_solved_head(prepared, device, display, _never)
    return prepared


def _never() -> None:
    """Nothing has to be saved, so a signal ends the command at once."""


def _until_broken(found: Iterator[float]) -> list[float]:
    losses: list[float] = []
    for loss in found:
        losses.append(loss)
        smoothed = _smoothed(losses)
        if len(losses) > STEPS // 10 and smoothed[-1] > _BROKEN * min(smoothed):
            break
    return losses


def _smoothed(losses: Sequence[float]) -> list[float]:
    """An exponential mean that does not lean to zero at its beginning."""
    found, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        found.append(mean / (1 - _SMOOTHING**count))
    return found


def _written(folder: Path, rates: list[float], losses: list[float], lr: float) -> RateTest:
    smoothed = _smoothed(losses)
    lowest = smoothed.index(min(smoothed)) if smoothed else 0
    if lowest == 0:
        raise InputError(
            f"the loss fell at no rate from {LOWEST:g} to {HIGHEST:g}; are the pictures labelled"
            " right, and is the batch large enough?"
        )
    suggested = float(f"{rates[lowest] / 10:.2g}")
    csv, chart = (folder / name for name in RATE_FILES)
    rows = zip(rates, losses, smoothed, strict=True)
    text = _HEADER + "".join(f"{rate:.6g},{loss:.6g},{mean:.6g}\n" for rate, loss, mean in rows)
    write_safely(csv, text.encode())
    draw_rates(rates, losses, smoothed, chart, {"suggested": suggested, "the recipe's": lr})
    return RateTest(suggested, tuple(rates), tuple(losses), tuple(smoothed), str(csv), str(chart))


def _refuse_held(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: a file stands there")
    if not folder.exists():
        return
    csv, chart = (folder / name for name in RATE_FILES)
    refuse_foreign(
        csv, "--out", lambda start: start.startswith(_HEADER.encode()), "a table of a range test"
    )
    refuse_foreign(chart, "--out", is_our_png, "a chart of reslab's")
