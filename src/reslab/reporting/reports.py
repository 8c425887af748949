"""Reports written anew: of one run, or of several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslab.disk import refuse_foreign, user_path
from reslab.errors import InputError
from reslab.pictures.splitting import complete_splits
from reslab.pictures.table import Pictures
from reslab.process import computing
from reslab.reporting.comparison import Comparison, compare
from reslab.reporting.content import answers_of, as_answered, gather
from reslab.reporting.page import curve, is_our_page, rendered, report_page, write_page
from reslab.reporting.words import choose_language
from reslab.run.display import Display
from reslab.run.folder import Run, open_run
from reslab.run.looks import note_look


def report(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    language: str | None = None,
    quiet: bool = False,
) -> Path:
    """Write the report of a finished run, or one that compares several, as one HTML file.

    runs: a run folder, or several.
    out: the file; report.html in the run's folder if None, comparison.html here for several.
    language: which one the page opens in, en or zh; the system's if None. It has both.
    quiet: show no progress.
    Each is a look at the test split, and is counted. Returns the file. Raises InputError if a run
    is not finished, or if several were not scored on the same test pictures.
    """
    runs = (runs,) if isinstance(runs, str | Path) else tuple(runs)
    if not runs:
        raise InputError("report: name at least one run")
    language = choose_language(language)
    display = Display(quiet=quiet)
    alone = len(runs) == 1
    path = user_path(out or (user_path(runs[0]) / "report.html" if alone else "comparison.html"))
    opened = [open_run(run) for run in runs]
    refuse_foreign(path, "--out", is_our_page, "a page of reslab's")
    if alone:
        opened[0].refuse_unfinished()
        computing()
        gather(opened[0], None)  # what cannot be reported is no look
        pictures = pictures_of(opened[0], display)
        if pictures is None and out is None and path.exists():
            raise InputError(
                f"{path}: has the pictures, which are not to be had any more; name another --out"
                " for a page without them"
            )
        _count(opened, display)
        write_page(path, report_page(gather(opened[0], pictures), language))
    else:
        comparison = compare(runs)
        _count(opened, display)
        write_page(path, comparison_page(comparison, language))
    return path


def pictures_of(run: Run, display: Display) -> Pictures | None:
    """The pictures a run was trained on, split as they were, of the test split those it answered.

    None where they are not to be had as they were, and says so.
    """
    try:
        recipe = run.recipe()
        pictures, _ = complete_splits(
            run.source.read(display.track), recipe.splitting, display.track
        )
    except InputError as error:
        display.warn(f"the report shows no pictures: {str(error).splitlines()[0]}")
        return None
    if pictures.arrangement() != run.info.get("arrangement"):
        display.warn(f"the report shows no pictures: those of {pictures.name} have changed")
        return None
    try:
        return as_answered(answers_of(run), pictures)
    except InputError as error:
        display.warn(f"the report shows no pictures: {error}")
        return None


def comparison_page(comparison: Comparison, language: str) -> str:
    """The page that sets runs side by side."""
    names = [_name(run, comparison.runs) for run in comparison.runs]
    return rendered(
        "comparison.html.jinja",
        language,
        "comparison_title",
        names={"n": len(comparison.runs)},
        comparison=comparison,
        runs=list(zip(names, comparison.runs, strict=True)),
        pairs=[
            (names[comparison.runs.index(pair.a)], names[comparison.runs.index(pair.b)], pair)
            for pair in comparison.pairs
        ],
        curves=_curves(comparison),
    )


def _curves(comparison: Comparison) -> list[tuple[str, str]]:
    """Validation loss and accuracy of all runs in one chart each, where all have epochs."""
    histories = [run.history for run in comparison.runs]
    if any(not history or "epoch" not in history[0] for history in histories):
        return []
    found = []
    for what in ("loss", "accuracy"):
        rows = [
            {"epoch": record["epoch"], f"run{number}_{what}": record[f"validation_{what}"]}
            for number, history in enumerate(histories)
            for record in history
            if record.get(f"validation_{what}") is not None
        ]
        styles = [f"run{number}" for number in range(len(histories))]
        drawn = curve(rows, what, f"curve-{what}", styles)
        if drawn:
            found.append((what, drawn))
    return found


def _name(run: Run, runs: Sequence[Run]) -> str:
    """A run by its folder's name, or by its path where several are called the same."""
    alike = sum(other.path.name == run.path.name for other in runs)
    return run.path.name if alike == 1 and run.path.name else str(run.path)


def _count(runs: Sequence[Run], display: Display) -> None:
    for run in runs:
        test: dict[str, Any] | None = run.info.get("test")
        if not test:
            continue
        try:
            note_look(run.path, "report", test["n"])
        except OSError as error:
            display.warn(f"this look at the test split is not counted: {error}")
