"""Pictures for the tracker: grids of digits, curves, scatter plots, heat maps, in one style.

The same thing has the same colour everywhere (COLOUR_OF), and curves that share one differ in their dashes (DASHES_OF),
so that charts can be read without telling colours apart. Figures are made without pyplot: no global state, nothing to
close.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

DPI = 140  # at half size, labels are still 10 pixels high
FONT = 11  # points
GAP, ZOOM = 2, 2  # pixels between two images of a grid; screen pixels per image pixel
SHEET_ZOOM, CAPTION = 3, 10  # of a sheet with labels; image pixels that a caption takes
CHARACTER, LINE = 12, 30  # screen pixels of a character's width and of a line of a sheet's title
STYLE: Any = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT,
    "figure.dpi": DPI,
    "figure.titlesize": FONT,
    "font.size": FONT,
    "legend.fontsize": 9,
    "legend.frameon": False,
}
# Okabe & Ito's colours, told apart by colour-blind readers too.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
GREY = "#7F7F7F"
COLOUR_OF = {
    "conv+fc": VERMILION,
    "conv": BLUE,
    "frozen": BLUE,
    "fine-tuned": VERMILION,
    "scratch": GREEN,
    "self-training": PURPLE,
    "raw pixels": ORANGE,
    "PCA": SKY,
    "nearest neighbour": BLACK,
    "generator": BLUE,
    "critic": VERMILION,
    "paper": ORANGE,
    "searched": BLUE,
    "vanilla": PURPLE,
    "GMM": SKY,
    "baseline": SKY,
    "reference": GREY,
}
"""By the first of these words that a label has; other labels take COLOURS in turn."""
DASHES_OF = {", training": "--", "rotated": ":", "mean": "-."}
MARKERS = ("o", "s", "^", "D", "v", "X")

Series = Mapping[Any, tuple[Sequence[float], ...]]
"""What each curve is called, its x and y, and, where there is a spread, half the length of its error bars."""
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""What the columns are called, and the rows."""


class Chart(Figure):
    """A figure that knows the values it plots, for those who want to read them off."""

    values: Table = ((), ())


def facts(figure: Figure, caption: str) -> dict[str, str]:
    """What a PNG file of the figure says of itself: title, caption, the plotted values as JSON, when it was made."""
    titles = [figure.get_suptitle(), *(ax.get_title("left") for ax in figure.axes)]
    title = next(filter(None, titles), "").replace("\n", " ")
    found = {"Title": title, "Description": caption, "Creation Time": datetime.now(UTC).isoformat()}
    if isinstance(figure, Chart):
        found["Values"] = json.dumps(figure.values)
    return found


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images, uint8 [N, H, W], side by side, row by row: one image, uint8 [rows * ..., columns * ...]."""
    height, width = images.shape[1:]
    sheet = _sheet(images, columns, height + GAP, width + GAP, 128)[:-GAP, :-GAP]
    return sheet.repeat(ZOOM, 0).repeat(ZOOM, 1)


def labelled_grid(images: np.ndarray, rows: Sequence[str], title: str, captions: Sequence[str] = ()) -> Figure:
    """Images, uint8 [N, H, W], with a label before each of the rows and a caption under each image.

    Each pixel of an image is a square of SHEET_ZOOM screen pixels.
    """
    columns = -(-len(images) // len(rows))
    height, width = images.shape[1:]
    pitch_x, pitch_y = width + GAP, height + GAP + (CAPTION if captions else 0)  # captions stand in the gap
    sheet = _sheet(images, columns, pitch_y, pitch_x, 255).repeat(SHEET_ZOOM, 0).repeat(SHEET_ZOOM, 1)
    left = CHARACTER * max(map(len, rows)) + 12
    title = fill(title, (left + sheet.shape[1]) // CHARACTER)
    top = LINE * (title.count("\n") + 1) + 10
    wide, high = left + sheet.shape[1] + 6, top + sheet.shape[0] + 6

    def write(x: float, y: float, text: str, **style: Any) -> None:
        """Text at a place in image pixels, from the sheet's upper left."""
        figure.text((left + SHEET_ZOOM * x) / wide, 1 - (top + SHEET_ZOOM * y) / high, text, **style)

    with rc_context(STYLE):
        figure = Figure(figsize=((wide + 0.5) / DPI, (high + 0.5) / DPI))  # rounded down to whole pixels
        figure.figimage(np.stack([sheet] * 3, -1), left, 6)
        figure.suptitle(title, x=8 / wide, y=1 - 8 / high, ha="left", va="top")
        for row, label in enumerate(rows):
            write(-GAP, row * pitch_y + height / 2, label, ha="right", va="center")
        for place, caption in enumerate(captions):
            x, y = place % columns * pitch_x + width / 2, place // columns * pitch_y + height + 1
            write(x, y, caption, ha="center", va="top", fontsize=8)
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
    """Curves over a common x, with a dotted line at each reference value; a curve called reference has stars."""
    with rc_context(STYLE):
        figure = Chart(figsize=(6, 4), layout="constrained")
        figure.values = _curve_values(x, {y: series}, {y: references or {}})
        ax = figure.subplots()
        _draw(ax, series, references or {}, markers)
        _label(ax, x, y, title, log_x, log_y, [place for xs, *_ in series.values() for place in xs])
    return figure


def panels(
    plots: Mapping[str, Series], x: str, title: str, *, references: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Curves of several quantities side by side, over a common x; each panel is called by its quantity."""
    with rc_context(STYLE):
        figure = Chart(figsize=(4.6 * len(plots), 4.2), layout="constrained")
        figure.values = _curve_values(x, plots, references or {})
        for ax, (y, series) in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots.items(), strict=True):
            _draw(ax, series, (references or {}).get(y, {}), markers=False)
            _label(ax, x, y, "", log_x=False, log_y=False)
        figure.suptitle(fill(title, 50 * len(plots)), x=0.01, ha="left")
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
        figure = Chart(figsize=(6, 4.4), layout="constrained")
        rows = [(name, point[2], *map(_short, point[:2])) for name, points in groups.items() for point in points]
        figure.values = (("", "label", x, y), rows)
        ax = figure.subplots()
        if front:
            ax.plot(*zip(*sorted(front), strict=True), color=GREY, linewidth=1, label="Pareto front")
        for (name, points), marker, colour in zip(groups.items(), cycle(MARKERS), _colours(groups), strict=False):
            if not points:
                continue  # nothing that the legend should name
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            ax.scatter(xs, ys, label=name, color=colour, marker=marker, zorder=3)
            for px, py, label in points:
                ax.annotate(label, (px, py), textcoords="offset points", xytext=(5, 4), fontsize=9)
        if champion:
            style: Any = {"s": 170, "facecolors": "none", "edgecolors": BLACK, "linewidths": 1.5, "zorder": 4}
            ax.scatter(*champion, label="champion", **style)
        _label(ax, x, y, title, log_x, log_y)
    return figure


def heat_maps(
    matrices: Sequence[Sequence[np.ndarray]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Correlation matrices [D, D], one at each row and column, on a scale from -1 to 1."""
    with rc_context(STYLE | {"axes.titlelocation": "center"}):
        size = 4 if len(rows) * len(columns) == 1 else 2
        figure = Figure(figsize=(size * len(columns) + 1.2, size * len(rows) + 0.6), layout="constrained")
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for down, row in enumerate(rows):
            for right, column in enumerate(columns):
                ax = axes[down, right]
                picture = ax.imshow(matrices[down][right], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
                ax.grid(False)
                ax.spines[:].set(visible=True, color=GREY)
                ax.set_xticks([])
                ax.set_yticks([])
                if down == 0:
                    ax.set_title(column)
                if right == 0:
                    ax.set_ylabel(row)
        figure.colorbar(picture, ax=axes, label="Pearson correlation", shrink=0.8)
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def confusion(shares: np.ndarray, names: Sequence[str], rows: str, columns: str, title: str) -> Figure:
    """A matrix of shares [N, N] with each cell in percent; `rows` and `columns` are the axes' labels."""
    with rc_context(STYLE):
        figure = Chart(figsize=(6.4, 5.6), layout="constrained")
        figure.values = [rows, *names], [[name, *map(_short, line)] for name, line in zip(names, shares, strict=True)]
        ax = figure.subplots()
        picture = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        ax.grid(False)
        ax.set(xlabel=columns, ylabel=rows, title=fill(title, 60, replace_whitespace=False))
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(names)), names)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.0005:
                colour = "white" if share > 0.5 else "black"
                ax.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=8, color=colour)
        figure.colorbar(picture, ax=ax, label="share of the row", shrink=0.8)
    return figure


def bars(values: Mapping[str, float], x: str, title: str) -> Figure:
    """A horizontal bar for each value, the first on top."""
    with rc_context(STYLE):
        figure = Chart(figsize=(7, 1.2 + 0.4 * len(values)), layout="constrained")
        figure.values = ["", x], [[name, _short(value)] for name, value in values.items()]
        ax = figure.subplots()
        ax.barh(list(values), list(values.values()), color=COLOURS[0])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set(xlabel=x, title=title)
    return figure


def _sheet(images: np.ndarray, columns: int, pitch_y: int, pitch_x: int, ground: int) -> np.ndarray:
    """Images [N, H, W] at the upper left of cells of this size, uint8."""
    count, height, width = images.shape
    sheet = np.full((-(-count // columns) * pitch_y, columns * pitch_x), ground, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * pitch_y, place % columns * pitch_x
        sheet[top : top + height, left : left + width] = image
    return sheet


def _colours(labels: Iterable[Any]) -> list[str]:
    """A colour for each label: that of its word in COLOUR_OF, else one that is not taken."""
    known = [next((colour for word, colour in COLOUR_OF.items() if word in str(label)), None) for label in labels]
    free = cycle([colour for colour in COLOURS if colour not in known] or COLOURS)
    return [colour or next(free) for colour in known]


def _curve_values(x: str, plots: Mapping[str, Series], references: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each x, a column for each curve; each reference's value in a row of its own."""
    columns, cells = [x], []
    xs: set[float] = set()
    for y, series in plots.items():
        for name, (places, heights, *errors) in series.items():
            columns.append(str(name) if len(plots) == 1 else f"{y}, {name}")
            widths = errors[0] if errors else [0.0] * len(places)
            cells.append(
                {
                    place: f"{_short(height)} ± {_short(width)}" if width else _short(height)
                    for place, height, width in zip(places, heights, widths, strict=True)
                }
            )
            xs.update(places)
    rows = [[_short(place), *(column.get(place, "") for column in cells)] for place in sorted(xs)]
    lines = [(label, value) for y in plots for label, value in references.get(y, {}).items()]
    return columns, rows + [[label, _short(value), *[""] * (len(cells) - 1)] for label, value in lines]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _draw(ax: Axes, series: Series, references: Mapping[str, float], markers: bool) -> None:
    marks = cycle(MARKERS if markers else ("",))
    for (label, (xs, ys, *errors)), colour in zip(series.items(), _colours(series), strict=True):
        style: dict[str, Any] = {"marker": next(marks), "markersize": 5}
        if str(label).startswith("reference"):
            style = {"marker": "*", "markersize": 13, "markeredgecolor": "white"}
        elif len(xs) == 1:
            style["marker"] = "o"
        dashes = next((dash for word, dash in DASHES_OF.items() if word in str(label)), "-")
        line = ax.plot(xs, ys, label=str(label), color=colour, linestyle=dashes, **style)[0]
        if errors and any(errors[0]):
            ax.errorbar(xs, ys, errors[0], fmt="none", color=line.get_color(), capsize=3)
    for (label, value), colour in zip(references.items(), _colours(references), strict=True):
        ax.axhline(value, color=colour, linestyle=":", linewidth=1.5)
        text = ax.annotate(
            label, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white", alpha=0.8)])


def _label(ax: Axes, x: str, y: str, title: str, log_x: bool, log_y: bool, sizes: Sequence[float] = ()) -> None:
    """Name the axes; x is marked at `sizes`, those that were tried, where they are few and whole."""
    ax.set(xlabel=x, ylabel=y, title="\n".join(fill(line, 62) for line in title.splitlines()))
    ax.set_xscale("log" if log_x else "linear")
    ax.set_yscale("log" if log_y else "linear")
    if x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, log in ((ax.xaxis, log_x), (ax.yaxis, log_y)):
        if log:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    if 1 < len(set(sizes)) < (9 if log_x else 11) and all(float(size).is_integer() for size in sizes):
        ax.xaxis.set_major_locator(FixedLocator(sorted(set(sizes))))
        ax.xaxis.set_minor_locator(NullLocator())
    entries = len(ax.get_legend_handles_labels()[0])
    if entries > 4:  # too many to stand among the curves
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    elif entries > 1:
        ax.legend()
