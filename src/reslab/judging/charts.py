"""Pictures of a run: its curves, and a sheet of samples. Chinese names show as characters."""

import importlib.util
import io
import math
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reslab.writing import write_safely

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOFTWARE = "reslab, residual networks for pictures"  # marks our own PNG files
TRAIN, VALIDATION, TEST = "#4c72b0", "#dd8452", "#8c8c8c"


@cache
def _fonts() -> list[str]:
    """Font families to draw with: matplotlib's own, then Noto Sans SC for Chinese.

    The font file of the package zhplot is used; importing that package would change
    matplotlib's settings for the whole process.
    """
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    spec = importlib.util.find_spec("zhplot")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted((Path(folder) / "fonts").glob("*.ttf")):
            font_manager.fontManager.addfont(path)
            families.append(font_manager.FontProperties(fname=path).get_name())
    return families


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    import warnings

    data = io.BytesIO()
    with warnings.catch_warnings():
        # A glyph that no font has becomes a box; the name stands in the files all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(data, format="png", dpi=110, metadata={"Software": SOFTWARE})
    write_safely(path, data.getvalue())


def _literal(text: str) -> str:
    """A name as it is: a dollar sign is no formula, control characters draw nothing."""
    shown = "".join(
        c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return shown.replace("$", r"\$")


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Loss and accuracy by epoch, as a PNG."""
    import matplotlib as mpl

    with mpl.rc_context({"font.family": _fonts()}):
        figure = _figure(10, 4)
        axes = figure.subplots(1, 2)
        epochs = [row["epoch"] for row in history]
        marker = "o" if len(epochs) <= 30 else None
        for axis, what in zip(axes, ("loss", "accuracy"), strict=True):
            for split, colour in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
                points = [
                    (epoch, row[f"{split}_{what}"])
                    for epoch, row in zip(epochs, history, strict=True)
                    if row.get(f"{split}_{what}") is not None
                ]
                if points:
                    label = f"{split} (watched, not used)" if split == "test" else split
                    style = "--" if split == "test" else "-"
                    axis.plot(*zip(*points, strict=True), style, color=colour, marker=marker,
                              markersize=4, label=label)  # fmt: skip
            axis.set_xlabel("epoch")
            axis.set_title(what)
            axis.grid(alpha=0.3)
            axis.xaxis.get_major_locator().set_params(integer=True)
            if axis.get_legend_handles_labels()[0]:
                axis.legend()
        axes[1].yaxis.set_major_formatter("{x:.3g}")
        figure.suptitle(_literal(title))
        _save(figure, path)


def draw_sheet(
    pictures: np.ndarray, names: Sequence[str], path: Path, title: str, columns: int = 8
) -> None:
    """A sheet of pictures, uint8 (N, H, W, C), each with its class name, as a PNG."""
    import matplotlib as mpl

    rows = max(1, math.ceil(len(pictures) / columns))
    with mpl.rc_context({"font.family": _fonts()}):
        figure = _figure(1.4 * columns, 1.65 * rows + 0.5)
        for cell, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axis.set_axis_off()
            if cell < len(pictures):
                picture = pictures[cell]
                grey = picture.shape[-1] == 1
                axis.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=255)
                name = textwrap.shorten(_literal(names[cell]), 40, placeholder="...")
                axis.set_title("\n".join(textwrap.wrap(name, 18)) or " ", fontsize=8)
        figure.suptitle(_literal(title), fontsize=10)
        _save(figure, path)
