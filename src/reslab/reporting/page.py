"""The pages: one file each, which opens from the disk and asks nothing of the network."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reslab.disk import write_safely
from reslab.judging.metrics import confusion_of
from reslab.pictures.table import Pictures
from reslab.reporting.charts import (
    Axis,
    Series,
    chart,
    nice_ticks,
    number_axis,
    percent_axis,
    strength_axis,
)
from reslab.reporting.content import Content, gather
from reslab.reporting.plan_words import say_stage
from reslab.reporting.thumbnails import heat_map
from reslab.reporting.words import LANGUAGES, say, say_in
from reslab.run.folder import Run

MARK = '<meta name="generator" content="reslab">'  # in a page's first KiB
COLOURS = 6  # of the style sheet, for runs side by side
MATRIX = 20  # classes up to which the confusion matrix is a table
SPLITS = ("train", "validation", "test")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("reslab.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {"t": say, "say_stage": say_stage, "mark": Markup(MARK)}
    found.filters |= {"percent": percent, "count": "{:,}".format}
    return found


def percent(share: float | None, digits: int = 1) -> str:
    """Such as 81.3 %; a dash where there is nothing to tell."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def rendered(template: str, language: str, title: str, **values: Any) -> str:
    """A page in all languages, of which `language` is shown first; `title` is its text's key."""
    names = values.get("names", {})
    titles = {code: say_in(short, title, **names) for short, code in LANGUAGES.items()}
    return (
        _environment()
        .get_template(template)
        .render(language=LANGUAGES[language], titles=titles, **values)
    )


def write_report(
    path: Path, run: Run, pictures: Pictures | None, language: str, *, maps: bool = True
) -> None:
    """Write a finished run's report; `pictures` are those it was trained on, if they are there.

    maps: show where the network looked. Raises InputError if the run is not finished or its files
    are damaged.
    """
    write_page(path, report_page(gather(run, pictures, maps=maps), language))


def write_page(path: Path, text: str) -> None:
    """Write a page; a file name's bytes that are no UTF-8 become escapes."""
    write_safely(path, text.encode("utf-8", "backslashreplace"))


def is_our_page(start: bytes) -> bool:
    """Whether a file that begins so is a page that was made here."""
    return MARK.encode() in start


def report_page(content: Content, language: str) -> str:
    """The report of one run as HTML."""
    info, scores = content.info, content.scores
    small = len(content.classes) <= MATRIX
    return rendered(
        "report.html.jinja",
        language,
        "report_title",
        names={"recipe": info["recipe"], "data": info["data"]},
        content=content,
        info=info,
        scores=scores,
        curves=[
            (what, curve(content.history, what, f"curve-{what}")) for what in ("loss", "accuracy")
        ],
        counts=_counts(info),
        matrix=_matrix(confusion_of(scores).tolist()) if scores and small else None,
        matrix_picture=heat_map(confusion_of(scores)) if scores and not small else None,
        matrix_alt=say_in(language, "confusion"),
        reliability=reliability_chart(scores) if scores else None,
        coverage=coverage_chart(content) if content.answers else None,
    )


def curve(
    history: list[dict[str, Any]], what: str, label: str, styles: Sequence[str] = SPLITS
) -> str | None:
    """The chart of loss or accuracy over epochs or strengths; None of a history without any.

    styles: what stands before "_loss" and "_accuracy" in the history, and is drawn in its style.
    """
    if not history:
        return None
    by = "strength" if "strength" in history[0] else "epoch"
    series = []
    for split in styles:
        points = [
            (float(row[by]), float(row[f"{split}_{what}"]))
            for row in history
            if row.get(f"{split}_{what}") is not None
        ]
        if points:
            style = f"run{int(split[3:]) % COLOURS}" if split.startswith("run") else split
            series.append(Series(points, style, dots=len(points) <= 30))
    places = [float(row[by]) for row in history]
    values = [point[1] for one in series for point in one.points]
    x = number_axis("epoch", places, whole=True) if by == "epoch" else None
    x = x or strength_axis("strength", places)
    x = Axis(min(places), max(places), x.ticks, x.name, x.written, x.logarithmic, x.reverse)
    if what == "accuracy":
        low = min(values)
        ticks = nice_ticks(low, 1.0)
        y = percent_axis(what, min(low, ticks[0]), 1.0)
    else:
        y = number_axis(what, [*values, 0.0])
    return chart(series, x, y, label)


def reliability_chart(scores: dict[str, Any]) -> str:
    """How often the network was right against how sure it said it was."""

    def series_of(of: dict[str, Any], style: str) -> Series:
        bins = of["reliability"]
        points = [(each["confidence"], each["accuracy"]) for each in bins]
        largest = max(each["n"] for each in bins)
        return Series(points, style, False, True, [each["n"] / largest for each in bins])

    series = [series_of(scores, "test")]
    if scores["temperature"] != 1:
        series.append(series_of(scores["raw"], "raw"))
    return chart(
        series, percent_axis("said_probability"), percent_axis("was_right"), "reliability",
        diagonal=True,
    )  # fmt: skip


def coverage_chart(content: Content) -> str:
    """Accuracy of the surest answers against how many are answered."""
    points = content.coverage()
    low = min(accuracy for _, accuracy in points)
    ticks = nice_ticks(low, 1.0)
    y = percent_axis("was_right", min(low, ticks[0]), 1.0)
    return chart([Series(points, "test")], percent_axis("coverage_share"), y, "coverage")


def _counts(info: dict[str, Any]) -> list[dict[str, Any]]:
    """For each class its pictures in each split, and their share of the largest class's."""
    table = info.get("class_counts") or {}
    rows = [
        {"name": name, **{split: table[split][index] if split in table else 0 for split in SPLITS}}
        for index, name in enumerate(info["classes"])
    ]
    largest = max((row["train"] for row in rows), default=0)
    for row in rows:
        row["share"] = row["train"] / largest if largest else 0.0
    return rows if table else []


def _matrix(table: list[list[int]]) -> list[list[tuple[int, int]]]:
    """(count, shade from 0 to 10) for each cell."""
    found = []
    for row in table:
        total = max(1, sum(row))
        found.append([(count, -(-10 * count // total)) for count in row])
    return found
