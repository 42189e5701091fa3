"""Pictures for the tracker: grids of digits, curves, scatter plots, heat maps, in one style.

Figures are made without pyplot: no global state, nothing to close.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

GAP, ZOOM = 2, 2  # pixels between two images of a grid; screen pixels per image pixel
STYLE: Any = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "legend.frameon": False,
}
# Okabe & Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "x", "^", "D")
REFERENCE_COLOUR = "#7F7F7F"

Series = Mapping[Any, tuple[Sequence[float], ...]]
"""What each curve is called, its x and y, and, where there is a spread, half the length of its error bars."""


Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""What the columns are called, and the rows."""


class Chart(Figure):
    """A figure that knows the values it plots, for those who want to read them off."""

    values: Table = ((), ())


def facts(figure: Figure, caption: str) -> dict[str, str]:
    """What a PNG file of the figure says of itself: title, caption, the plotted values as JSON, when it was made."""
    title = figure.get_suptitle() or next((ax.get_title() or ax.get_title("left") for ax in figure.axes), "")
    found = {"Title": title, "Description": caption, "Creation Time": datetime.now(UTC).isoformat()}
    if isinstance(figure, Chart):
        found["Values"] = json.dumps(figure.values)
    return found


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images, uint8 [N, H, W], side by side, row by row: one image, uint8 [rows * ..., columns * ...]."""
    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), 128, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet.repeat(ZOOM, 0).repeat(ZOOM, 1)


def labelled_grid(images: np.ndarray, rows: Sequence[str], title: str, captions: Sequence[str] = ()) -> Figure:
    """Images, uint8 [N, H, W], with a label before each of the rows and a caption under each image."""
    columns = -(-len(images) // len(rows))
    height, width = images.shape[1:]
    pitch_x, pitch_y = width + GAP, height + GAP + (10 if captions else 0)  # captions stand in the gap
    sheet = np.full((len(rows) * pitch_y, columns * pitch_x), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * pitch_y, place % columns * pitch_x
        sheet[top : top + height, left : left + width] = image
    with rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 0.021 * sheet.shape[1], 0.6 + 0.021 * sheet.shape[0]), layout="constrained")
        ax = figure.subplots()
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_title(title, fontsize=11, loc="left")
        ax.set_xticks([])
        ax.set_yticks([row * pitch_y + height / 2 for row in range(len(rows))], rows)
        ax.tick_params(length=0)
        for place, caption in enumerate(captions):
            x, y = place % columns * pitch_x + width / 2, place // columns * pitch_y + height + 1
            ax.text(x, y, caption, ha="center", va="top", fontsize=7)
    return figure


def curves(
    series: Series,
    x: str,
    y: str,
    title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    references: Mapping[str, float] | None = None,
    markers: bool = False,
) -> Figure:
    """Curves over a common x, with a dashed line at each reference value."""
    with rc_context(STYLE):
        figure = Chart(figsize=(7, 4.2), layout="constrained")
        figure.values = _curve_values(x, {y: series}, {y: references or {}})
        ax = figure.subplots()
        _draw(ax, series, references or {}, markers)
        _label(ax, x, y, title, log_x, log_y)
    return figure


def panels(
    plots: Mapping[str, Series], x: str, title: str, *, references: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Curves of several quantities side by side, over a common x; each panel is called by its quantity."""
    with rc_context(STYLE):
        figure = Chart(figsize=(5.2 * len(plots), 4.6), layout="constrained")
        figure.values = _curve_values(x, plots, references or {})
        for ax, (y, series) in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots.items(), strict=True):
            _draw(ax, series, (references or {}).get(y, {}), markers=False)
            _label(ax, x, y, "", log_x=False, log_y=False)
        figure.suptitle(title)
    return figure


def scatter(
    groups: Mapping[str, Sequence[tuple[float, float, str]]],
    x: str,
    y: str,
    title: str,
    *,
    front: Sequence[tuple[float, float]] = (),
    champion: tuple[float, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Points (x, y, label) in groups, the Pareto front as a line through them, the champion ringed."""
    with rc_context(STYLE):
        figure = Chart(figsize=(7, 4.8), layout="constrained")
        rows = [(name, point[2], *map(_short, point[:2])) for name, points in groups.items() for point in points]
        figure.values = (("", "label", x, y), rows)
        ax = figure.subplots()
        if front:
            ax.plot(*zip(*sorted(front), strict=True), color=REFERENCE_COLOUR, linewidth=1, label="Pareto front")
        for (name, points), colour, marker in zip(groups.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            ax.scatter(xs, ys, label=name, color=colour, marker=marker, zorder=3)
            for px, py, label in points:
                ax.annotate(label, (px, py), textcoords="offset points", xytext=(5, 4), fontsize=9)
        if champion:
            ax.scatter(
                *champion,
                s=170,
                facecolors="none",
                edgecolors="black",
                linewidths=1.5,
                label="champion",
                zorder=4,
            )
        _label(ax, x, y, title, log_x, log_y)
    return figure


def heat_maps(
    matrices: Sequence[Sequence[np.ndarray]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Correlation matrices [D, D], one at each row and column, on a scale from -1 to 1."""
    with rc_context(STYLE):
        size = 4 if len(rows) * len(columns) == 1 else 2
        figure = Figure(figsize=(size * len(columns) + 1.2, size * len(rows) + 0.6), layout="constrained")
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for down, row in enumerate(rows):
            for right, column in enumerate(columns):
                ax = axes[down, right]
                picture = ax.imshow(matrices[down][right], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
                ax.grid(False)
                ax.set_xticks([])
                ax.set_yticks([])
                if down == 0:
                    ax.set_title(column, fontsize=11)
                if right == 0:
                    ax.set_ylabel(row)
        figure.colorbar(picture, ax=axes, label="Pearson correlation", shrink=0.8)
        figure.suptitle(title)
    return figure


def _curve_values(x: str, plots: Mapping[str, Series], references: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each x, a column for each curve; the references' values in a row of their own."""
    columns, cells, xs = [x], [], []
    for y, series in plots.items():
        for name, (places, heights, *errors) in series.items():
            columns.append(name if len(plots) == 1 else f"{y}, {name}")
            widths = errors[0] if errors else [0.0] * len(places)
            cells.append(
                {
                    place: f"{_short(height)} ± {_short(width)}" if width else _short(height)
                    for place, height, width in zip(places, heights, widths, strict=True)
                }
            )
            xs += places
    rows = [[_short(place), *(column.get(place, "") for column in cells)] for place in sorted(set(xs))]
    lines = [(label, value) for y in plots for label, value in references.get(y, {}).items()]
    return columns, rows + [[label, _short(value), *[""] * (len(cells) - 1)] for label, value in lines]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _draw(ax: Axes, series: Series, references: Mapping[str, float], markers: bool) -> None:
    for (label, (xs, ys, *errors)), colour in zip(series.items(), cycle(COLOURS), strict=False):
        spread = errors[0] if errors else None
        marker = "o" if markers or len(xs) == 1 else None
        ax.errorbar(xs, ys, spread, label=label, color=colour, marker=marker, markersize=5, capsize=3)
    for label, value in references.items():
        ax.axhline(value, color=REFERENCE_COLOUR, linestyle="--", linewidth=1)
        ax.annotate(label, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)


def _label(ax: Axes, x: str, y: str, title: str, log_x: bool, log_y: bool) -> None:
    ax.set(xlabel=x, ylabel=y, title=title)
    ax.set_xscale("log" if log_x else "linear")
    ax.set_yscale("log" if log_y else "linear")
    for axis, log in ((ax.xaxis, log_x), (ax.yaxis, log_y)):
        if log:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    entries = len(ax.get_legend_handles_labels()[0])
    if entries > 4:  # too many to stand among the curves
        ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    elif entries > 1:
        ax.legend(fontsize=9)
