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
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reslab.disk import write_safely

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOFTWARE = "reslab, residual networks for pictures"  # marks our own PNG files
_DPI = 110
_CELL, _LABEL, _GAP = 140, 34, 14  # of a sheet, in pixels: a picture, its name, between columns
TRAIN, VALIDATION, TEST = "#4c72b0", "#dd8452", "#8c8c8c"


def is_our_png(start: bytes) -> bool:
    """Whether a file that begins so is a PNG that was drawn here."""
    return start.startswith(b"\x89PNG\r\n\x1a\n") and SOFTWARE.encode() in start


def png_bytes(picture: Image.Image, source: str = "") -> bytes:
    """A picture as a PNG that `is_our_png` knows, and that says in ASCII what it is of."""
    about = PngInfo()
    about.add_text("Software", SOFTWARE)
    if source:
        about.add_text("Source", source)
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=about)
    return data.getvalue()


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


def _figure(width: float, height: float, above: float = 0.7) -> "Figure":
    """A figure of so many inches, with room for what stands beside its axes and above them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    # Fixed: a layout that is worked out takes longer than all the drawing.
    figure.subplots_adjust(
        left=0.6 / width, right=1 - 0.15 / width, bottom=0.55 / height, top=1 - above / height,
        wspace=0.15,
    )  # fmt: skip
    return figure


def _save(figure: "Figure", path: Path) -> None:
    import warnings

    data = io.BytesIO()
    with warnings.catch_warnings():
        # A glyph that no font has becomes a box; the name stands in the files all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(data, format="png", dpi=_DPI, metadata={"Software": SOFTWARE})
    write_safely(path, data.getvalue())


def _literal(text: str) -> str:
    """A name as it is: a dollar sign is no formula, control characters draw nothing."""
    shown = "".join(
        c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return shown.replace("$", r"\$")


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Loss and accuracy as a PNG: by epoch, or by strength of a solved head's regularisation."""
    import matplotlib as mpl

    by = "strength" if history and "strength" in history[0] else "epoch"
    with mpl.rc_context({"font.family": _fonts()}):
        figure = _figure(10, 4)
        axes = figure.subplots(1, 2)
        for axis, what in zip(axes, ("loss", "accuracy"), strict=True):
            _draw_splits(axis, history, by, what)
            axis.set_title(what)
            axis.grid(alpha=0.3)
            if by == "epoch":
                axis.set_xlabel("epoch")
                axis.xaxis.get_major_locator().set_params(integer=True)
            else:  # solved in this order, each from the one before
                axis.set_xlabel("strength of regularisation, from strong to weak")
                axis.set_xscale("log")
                axis.invert_xaxis()
            if axis.get_legend_handles_labels()[0]:
                axis.legend()
        axes[1].yaxis.set_major_formatter("{x:.5g}")
        figure.suptitle(_literal(title))
        _save(figure, path)


def draw_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: Path,
    marks: Mapping[str, float],
) -> None:
    """Losses by learning rate as a PNG, with some rates marked by name."""
    figure = _figure(6, 4, above=0.15)
    axis = figure.subplots()
    axis.plot(rates, losses, color=TEST, alpha=0.5, linewidth=1, label="a step's loss")
    axis.plot(rates, smoothed, color=TRAIN, label="smoothed")
    for (name, rate), style in zip(marks.items(), ("-", ":"), strict=True):
        axis.axvline(rate, color=VALIDATION, linestyle=style, label=f"{name}: {rate:g}")
    axis.set(xscale="log", xlabel="learning rate", ylim=(0, 1.5 * max(smoothed[0], min(losses))))
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _draw_splits(axis: "Axes", history: Sequence[Mapping[str, Any]], by: str, what: str) -> None:
    marker = "o" if len(history) <= 30 else None
    for split, colour in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        points = [
            (row[by], row[f"{split}_{what}"])
            for row in history
            if row.get(f"{split}_{what}") is not None
        ]
        if points:
            label = f"{split} (watched, not used)" if split == "test" else split
            style = "--" if split == "test" else "-"
            axis.plot(*zip(*points, strict=True), style, color=colour, marker=marker,
                      markersize=4, label=label)  # fmt: skip


def draw_sheet(
    pictures: np.ndarray, names: Sequence[str], path: Path, title: str, columns: int = 8
) -> None:
    """A sheet of pictures, uint8 (N, H, W, C), each with its class name, as a PNG.

    The pictures are laid out as one: an axis for each would take matplotlib seconds.
    """
    import matplotlib as mpl

    rows = max(1, math.ceil(len(pictures) / columns))
    height, width = rows * (_CELL + _LABEL) + _LABEL, columns * (_CELL + _GAP) + _GAP
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    with mpl.rc_context({"font.family": _fonts()}):
        figure = _figure(width / _DPI, height / _DPI)
        for cell, picture in enumerate(pictures):
            row, column = divmod(cell, columns)
            top, left = _LABEL + row * (_CELL + _LABEL) + _LABEL, _GAP + column * (_CELL + _GAP)
            shown = _enlarged(picture)
            y, x = top + (_CELL - shown.shape[0]) // 2, left + (_CELL - shown.shape[1]) // 2
            canvas[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
            letters = 20 if names[cell].isascii() else 12
            name = textwrap.wrap(_literal(names[cell]), letters, max_lines=2, placeholder="...")
            figure.text(
                (left + _CELL / 2) / width,
                1 - (top - 3) / height,
                "\n".join(name) or " ",
                fontsize=8,
                ha="center",
                va="bottom",
            )
        figure.figimage(canvas)
        figure.text(0.5, 1 - 6 / height, _literal(title), fontsize=10, ha="center", va="top")
        _save(figure, path)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) as RGB within a cell, pixels kept square and sharp where there are few."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
    scale = _CELL / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return np.asarray(image.resize(size, how))
