"""Charts: curves, scatter plots, heat maps, confusion matrices and bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from study.plots.style import (
    BLACK,
    BLUE,
    DASHES_OF,
    DPI,
    GREY,
    MARKERS,
    SMALL,
    STYLE,
    TINY,
    Chart,
    Table,
    colours,
    legend_names,
    short_names,
    shorten,
    text_width,
    wrap,
)

Series = Mapping[Any, tuple[Sequence[float], ...]]
"""What each curve is called, its x and y, and, where there is a spread, half the length of its error bars."""
TITLE_LINES = 4  # of a chart; what is longer is cut off with …
TICK, TICK_PIXELS = 12, 150  # how long the name of a class may get beside a confusion matrix: characters, screen pixels
APART = 1.3  # ratio of two sizes from which on both have their number at a log axis
MOST_DECADES = 1e4  # of a logarithmic axis that has numbers between the powers of ten
MOST_NUMBERS, MOST_LEVEL, MOST_NAMES = 15, 12, 40  # classes: with numbers in the cells, level names, all names


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
        figure = Chart(figsize=(6, 4 + _below(series)), layout="constrained")
        figure.values = _curve_values(x, {y: series}, {y: references or {}})
        ax = figure.subplots()
        _draw(ax, series, references or {}, markers=markers, room=6 * DPI)
        tried = [place for xs, *_ in series.values() for place in xs]
        _label(ax, x, y, title, log_x=log_x, log_y=log_y, sizes=tried)
    return figure


def side_by_side(
    plots: Mapping[str, Series], x: str, title: str, *, references: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Curves of several quantities in plots side by side, over a common x; each y axis has its quantity's name."""
    with rc_context(STYLE):
        size = 4.6 * len(plots), 4.2 + max(map(_below, plots.values()))
        figure = Chart(figsize=size, layout="constrained")
        figure.values = _curve_values(x, plots, references or {})
        for ax, (y, series) in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots.items(), strict=True):
            _draw(ax, series, (references or {}).get(y, {}), markers=False, room=4.6 * DPI)
            _label(ax, x, y, "")
        text = wrap(title, 50 * len(plots), (4.6 * len(plots) - 0.2) * DPI, most=TITLE_LINES)
        figure.suptitle(text, x=0.01, ha="left")
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
        figure = Chart(figsize=(6, 4.4 + _below(groups)), layout="constrained")
        rows = [(name, point[2], *map(_short, point[:2])) for name, points in groups.items() for point in points]
        figure.values = (("", "label", x, y), rows)
        ax = figure.subplots()
        if front:
            ax.plot(*zip(*sorted(front), strict=True), color=GREY, linewidth=1, label="Pareto front")
        looks = zip(groups.values(), _entries(groups, 6 * DPI), cycle(MARKERS), colours(groups), strict=False)
        for points, entry, marker, colour in looks:
            if not points:
                continue  # nothing that the legend should name
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            ax.scatter(xs, ys, label=entry, color=colour, marker=marker, zorder=3)
            for px, py, label in points:
                text = shorten(label, 20, 200, SMALL)
                ax.annotate(text, (px, py), textcoords="offset points", xytext=(5, 4), fontsize=SMALL)
        if champion:
            style: Any = {"s": 170, "facecolors": "none", "edgecolors": BLACK, "linewidths": 1.5, "zorder": 4}
            ax.scatter(*champion, label="champion", **style)
        _label(ax, x, y, title, log_x=log_x, log_y=log_y)
    return figure


def heat_maps(
    matrices: Sequence[Sequence[np.ndarray]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Correlation matrices [D, D], one at each row and column, on a scale from -1 to 1."""
    with rc_context(STYLE | {"axes.titlelocation": "center"}):
        size = 4 if len(rows) * len(columns) == 1 else 2
        wide = size * len(columns) + 1.2
        title = wrap(title, 80, (wide - 0.2) * DPI, most=TITLE_LINES)
        rows, columns = ([wrap(name, 40, (size - 0.4) * DPI, most=3) for name in names] for names in (rows, columns))
        further = title.count("\n") + max(name.count("\n") for name in columns)  # lines above the matrices
        figure = Figure(figsize=(wide, size * len(rows) + 0.6 + 0.2 * further), layout="constrained")
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
    """A matrix of shares [N, N], in percent in the cells of few classes; `rows` and `columns` are the axes' labels.

    The names of many classes stand upright; of more than MOST_NAMES, only one in two, three, ... is named.
    """
    count = len(names)
    wide = min(6.4 * max(1, count / MOST_LEVEL), 9)
    step = -(-count // MOST_NAMES)
    points = SMALL if count > MOST_LEVEL else None
    with rc_context(STYLE):
        figure = Chart(figsize=(wide, wide - 0.8), layout="constrained")
        figure.values = [rows, *names], [[name, *map(_short, line)] for name, line in zip(names, shares, strict=True)]
        ax = figure.subplots()
        picture = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        ax.grid(False)
        ax.set_title(wrap(title, 60, (wide - 1.7) * DPI, most=TITLE_LINES))
        note = f"\n(one class in {step} is named)" if step > 1 else ""
        ax.set_xlabel(wrap(columns, 60, (wide - 2) * DPI, most=2) + note)
        ax.set_ylabel(wrap(rows, 60, (wide - 2) * DPI, most=2))
        ticks = short_names(names, TICK, TICK_PIXELS)
        crowded = max(map(text_width, ticks)) > 0.6 * wide * DPI / count  # the matrix takes two thirds of the figure
        turn = 90 if count > MOST_LEVEL or crowded else 0
        ax.set_xticks(range(0, count, step), ticks[::step], rotation=turn, fontsize=points)
        ax.set_yticks(range(0, count, step), ticks[::step], fontsize=points)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.0005 and count <= MOST_NUMBERS:
                colour = "white" if share > 0.5 else "black"
                ax.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=TINY, color=colour)
        figure.colorbar(picture, ax=ax, label="share of the row", shrink=0.8)
    return figure


def bars(values: Mapping[str, float], x: str, title: str) -> Figure:
    """A horizontal bar for each value, the first on top."""
    many = len(values) > MOST_NAMES
    with rc_context(STYLE):
        figure = Chart(figsize=(7, 1.2 + (0.2 if many else 0.4) * len(values)), layout="constrained")
        figure.values = ["", x], [[name, _short(value)] for name, value in values.items()]
        ax = figure.subplots()
        ax.barh(range(len(values)), list(values.values()), color=BLUE)
        ax.set_yticks(range(len(values)), short_names(list(values), 28, 320), fontsize=SMALL if many else None)
        ax.margins(y=0.5 / max(1, len(values)))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set(xlabel=wrap(x, 60, 600, most=2), title=wrap(title, 60, 600, most=TITLE_LINES))
    return figure


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


def _below(series: Mapping[Any, Any]) -> float:
    """Inches that a legend below the plot takes beyond its first rows."""
    return 0.22 * max(0, -(-len(series) // 2) - 4)


def _entries(labels: Iterable[Any], room: float) -> list[str]:
    """Labels for the legend of a plot of so many screen pixels, where two may stand side by side."""
    return legend_names([str(label) for label in labels], 36, 0.33 * room)


def _draw(ax: Axes, series: Series, references: Mapping[str, float], *, markers: bool, room: float) -> None:
    """Curves and dotted lines in a plot of so many screen pixels."""
    marks = cycle(MARKERS if markers else ("",))
    taken: set[tuple[str, str]] = set()  # colours with their dashes
    looks = zip(series.items(), _entries(series, room), colours(series), strict=True)
    for (label, (xs, ys, *errors)), entry, colour in looks:
        style: dict[str, Any] = {"marker": next(marks), "markersize": 5}
        if str(label).startswith("reference"):
            style = {"marker": "*", "markersize": 13, "markeredgecolor": "white"}
        elif len(xs) == 1:
            style["marker"] = "o"
        own = next((dash for word, dash in DASHES_OF.items() if word in str(label)), "-")
        dashes = next((dash for dash in (own, "-", "--", ":", "-.") if (colour, dash) not in taken), own)
        taken.add((colour, dashes))
        line = ax.plot(xs, ys, label=entry, color=colour, linestyle=dashes, **style)[0]
        if errors and any(errors[0]):
            ax.errorbar(xs, ys, errors[0], fmt="none", color=line.get_color(), capsize=3)
    for (label, value), colour in zip(references.items(), colours(references), strict=True):
        ax.axhline(value, color=colour, linestyle=":", linewidth=1.5)
        place: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "fontsize": SMALL}
        text = ax.annotate(shorten(label, 50, 0.7 * room, SMALL), (0.99, value), **place)
        text.set_path_effects([withStroke(linewidth=2, foreground="white", alpha=0.8)])


def _label(
    ax: Axes,
    x: str,
    y: str,
    title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    sizes: Sequence[float] = (),
) -> None:
    """Name the axes; x is marked at `sizes`, those that were tried, where they are few and whole."""
    ax.set(xlabel=wrap(x, 60, 480, most=2), ylabel=wrap(y, 60, 400, most=2))
    ax.set_title(wrap(title, 62, 700, most=TITLE_LINES))
    ax.set_xscale("log" if log_x else "linear")
    ax.set_yscale("log" if log_y else "linear")
    if x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, log in ((ax.xaxis, log_x), (ax.yaxis, log_y)):
        if log:
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < MOST_DECADES * low else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    if 1 < len(set(sizes)) < (9 if log_x else 11) and all(float(size).is_integer() for size in sizes):
        ax.xaxis.set_major_locator(FixedLocator(apart(sizes) if log_x else sorted(set(sizes))))
        ax.xaxis.set_minor_locator(NullLocator())
    entries = ax.get_legend_handles_labels()[1]
    if len(entries) > 4 or (len(entries) > 1 and max(map(len, entries)) > 24):  # too much to stand among the curves
        words = 26 + 15 * (ax.get_xlabel().count("\n") + 1)  # points that the numbers and the name of x take
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=words / SMALL, ncols=2)
    elif len(entries) > 1:
        ax.legend()


def apart(sizes: Sequence[float]) -> list[float]:
    """The sizes, in order, whose numbers do not overlap on a log axis: each at least `APART` times the one before."""
    shown: list[float] = []
    for size in sorted(set(sizes)):
        if not shown or size >= APART * shown[-1]:
            shown.append(size)
    return shown
