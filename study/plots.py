"""Figures in one style: curves, scatter plots, bars, heat maps, confusion matrices, and sheets of images.

Figures are made without pyplot: no global state, nothing to close. The same thing has the same colour everywhere
(COLOUR_OF), and curves of one colour differ in their dashes, so that charts can be read without telling colours apart.
Names of classes come from the users' folders, so any text may be a label: `text.parse_math` is off, `short` and
`wrapped` cut long text, and letters that the font lacks become "?".
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

Series = Mapping[Any, tuple[Sequence[float], ...]]
"""What each curve is called, its x and y, and, where there is a standard deviation, half the length of its bars."""

GAP, ZOOM = 2, 2  # of `grid`: pixels between two images; screen pixels per image pixel
SHEET_ZOOM = 3  # the same of `labelled_grid`
DPI = 140  # at half size, labels are still 10 pixels high
FONT, SMALL, TINY = 11, 9, 8  # points: of most text, of legends and notes, of captions and numbers in cells
FAMILY = "DejaVu Sans"  # comes with matplotlib, so that figures are the same everywhere
LABEL, TITLE, CAPTION = 28, 64, 15  # characters of a row's label, and of a line of a title and of a caption
CAPTION_PIXELS = 9  # a character of a caption
MOST_NUMBERS, MOST_LEVEL, MOST_NAMES = 15, 12, 40  # classes: with numbers in the cells, level names, all names
MOST_LETTERS = 40  # of level names below a matrix
LEGEND_LINE = 0.11  # inches that an entry of a legend below the plot takes: two stand side by side
MOST_DECADES = 1e4  # of a logarithmic axis that has numbers between the powers of ten

STYLE: Any = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT,
    "figure.dpi": DPI,
    "figure.titlesize": FONT,
    "font.family": FAMILY,
    "font.size": FONT,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "text.parse_math": False,
}
# Okabe & Ito's colours, which colour-blind readers can distinguish too.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000"),
)
GREY = "#7F7F7F"
WORDS = {
    VERMILION: ("conv+fc", "fine-tuned", "critic"),
    BLUE: ("conv", "frozen", "generator", "searched"),
    GREEN: ("scratch",),
    PURPLE: ("self-training", "vanilla"),
    ORANGE: ("raw pixels", "paper"),
    SKY: ("PCA", "GMM", "baseline"),
    BLACK: ("nearest neighbour",),
    GREY: ("reference",),
}
COLOUR_OF = {word: colour for colour, words in WORDS.items() for word in words}
"""By the first of these words that a label has; other labels take COLOURS in turn."""
DASHES_OF = {", training": "--", "rotated": ":", "mean": "-."}
MARKERS = ("o", "s", "^", "D", "v", "X")
BESIDE: dict[str, Any] = {"textcoords": "offset points", "xytext": (5, 4), "fontsize": SMALL}
STAR: dict[str, Any] = {"marker": "*", "markersize": 13, "markeredgecolor": "white", "linestyle": "none"}


def curves(
    plots: Mapping[str, Series],
    x: str,
    title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    references: Mapping[str, Mapping[str, float]] | None = None,
    markers: bool = False,
) -> Figure:
    """Plot curves of one quantity or of several side by side over a common x; the y axis has the quantity's name.

    A curve whose label begins with "reference" is drawn as stars.

    Args:
        references: Values of each quantity that get a dotted line.
    """
    alone = len(plots) == 1
    size = (6, 4 + LEGEND_LINE * max(map(len, plots.values()))) if alone else (4.6 * len(plots), 4.2)
    with _figure(title, *size) as figure:
        for ax, (y, series) in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots.items(), strict=True):
            _draw(ax, series, (references or {}).get(y, {}), markers=markers, log=(log_x, log_y))
            ax.set(xlabel=wrapped(x, 44), ylabel=wrapped(y, 40))
            if alone:
                _add_legend(figure, ax)
            elif len(series) > 1:
                ax.legend()
        figure.suptitle(wrapped(title, TITLE if alone else 46 * len(plots)), x=0.01, ha="left")
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
) -> Figure:
    """Plot points (x, y, label) in groups, the Pareto front as a line through them, the champion ringed."""
    with _figure(title, 6, 4.4 + LEGEND_LINE * len(groups)) as figure:
        ax = figure.subplots()
        ax.set_title(wrapped(title, TITLE))
        if front:
            ax.plot(*zip(*sorted(front), strict=True), color=GREY, linewidth=1, label="Pareto front")
        for (name, points), marker, colour in zip(groups.items(), cycle(MARKERS), colours(groups), strict=False):
            if points:  # else there is nothing that the legend should name
                xs, ys, _ = zip(*points, strict=True)
                ax.scatter(xs, ys, label=short(name, 36), color=colour, marker=marker, zorder=3)
                for px, py, label in points:
                    ax.annotate(short(label, 20), (px, py), **BESIDE)
        if champion:
            style: Any = {"s": 170, "facecolors": "none", "edgecolors": BLACK, "linewidths": 1.5, "zorder": 4}
            ax.scatter(*champion, label="champion", **style)
        _set_scales(ax, log_x, False)
        ax.set(xlabel=wrapped(x, 44), ylabel=wrapped(y, 40))
        _add_legend(figure, ax)
    return figure


def bars(values: Mapping[str, float], x: str, title: str) -> Figure:
    """Plot a horizontal bar for each value, the first on top."""
    many = len(values) > MOST_NAMES
    with _figure(title, 7, 1.2 + (0.2 if many else 0.4) * len(values)) as figure:
        ax = figure.subplots()
        ax.set_title(wrapped(title, TITLE))
        ax.barh(range(len(values)), list(values.values()), color=BLUE)
        ax.set_yticks(range(len(values)), short_names(list(values), LABEL), fontsize=SMALL if many else None)
        ax.margins(y=0.5 / max(1, len(values)))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(wrapped(x, 60))
    return figure


def heat_maps(
    matrices: Sequence[Sequence[np.ndarray]], rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Plot correlation matrices [D, D], one at each row and column, on a scale from -1 to 1."""
    size = 4 if len(rows) * len(columns) == 1 else 2
    with _figure(title, size * len(columns) + 1.2, size * len(rows) + 1) as figure:
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for ax, matrix in zip(axes.flat, (each for row in matrices for each in row), strict=True):
            picture = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            ax.grid(False)
            ax.spines[:].set(visible=True, color=GREY)
            ax.set(xticks=[], yticks=[])
        for ax, name in zip(axes[0], columns, strict=True):
            ax.set_title(wrapped(name, 9 * size, 3), loc="center")
        for ax, name in zip(axes[:, 0], rows, strict=True):
            ax.set_ylabel(wrapped(name, 9 * size, 3))
        figure.colorbar(picture, ax=axes, label="Pearson correlation", shrink=0.8)
        figure.suptitle(wrapped(title, 10 * size * len(columns)), x=0.01, ha="left")
    return figure


def confusion(fractions: np.ndarray, names: Sequence[str], rows: str, columns: str, title: str) -> Figure:
    """Plot a matrix of fractions [N, N], in percent in the cells of few classes; `rows` and `columns` label the axes.

    The names of many classes stand upright; of more than MOST_NAMES, only one in two, three, ... is named.
    """
    count, ticks = len(names), short_names(names, 12)
    wide = min(6.4 * max(1, count / MOST_LEVEL), 9)
    step = -(-count // MOST_NAMES)
    with _figure(title, wide, wide - 0.8) as figure:
        ax = figure.subplots()
        picture = ax.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        ax.grid(False)
        ax.set_title(wrapped(title, int(8 * wide)))
        ax.set_xlabel(wrapped(columns, 60) + (f"\n(one class in {step} is named)" if step > 1 else ""))
        ax.set_ylabel(wrapped(rows, 60))
        points = SMALL if count > MOST_LEVEL else None
        turn = 90 if count > MOST_LEVEL or count * max(map(len, ticks)) > MOST_LETTERS else 0
        ax.set_xticks(range(0, count, step), ticks[::step], rotation=turn, fontsize=points)
        ax.set_yticks(range(0, count, step), ticks[::step], fontsize=points)
        for (row, column), fraction in np.ndenumerate(fractions):
            if fraction >= 0.0005 and count <= MOST_NUMBERS:
                style: Any = {"ha": "center", "va": "center", "fontsize": TINY}
                ax.text(column, row, f"{100 * fraction:.1f}", color="white" if fraction > 0.5 else "black", **style)
        figure.colorbar(picture, ax=ax, label="fraction of the row", shrink=0.8)
    return figure


def grid(images: np.ndarray, columns: int, zoom: int = ZOOM) -> np.ndarray:
    """Put images side by side, row by row, into one, with `zoom` screen pixels per image pixel.

    From grey uint8 [N, H, W] comes uint8 [rows * ..., columns * ...], from colour uint8 [N, H, W, 3] the same [..., 3].
    """
    height, width = images.shape[1:3]
    sheet = _cells(images, columns, (height + GAP, width + GAP), 128)[:-GAP, :-GAP]
    return sheet.repeat(zoom, 0).repeat(zoom, 1)


def labelled_grid(images: np.ndarray, rows: Sequence[str], title: str, captions: Sequence[str] = ()) -> Figure:
    """Draw images with a label before each row and a caption under each image.

    Args:
        images: Grey uint8 [N, H, W] or colour [N, H, W, 3], row by row. Each of their pixels becomes a square of
            SHEET_ZOOM screen pixels.
    """
    columns = -(-len(images) // len(rows))
    labels = short_names(rows, LABEL)
    room = images.shape[2] * SHEET_ZOOM
    lines = [wrapped(caption, max(CAPTION, room // CAPTION_PIXELS), 2) for caption in captions]
    widest = max((len(line) for text in lines for line in text.split("\n")), default=0)
    side = max(0, CAPTION_PIXELS * widest - room) // (2 * SHEET_ZOOM)  # wider columns, for captions beside each other
    images = np.pad(images, [(0, 0), (0, 0), (side, side), (0, 0)][: images.ndim], constant_values=255)
    height, cell = images.shape[1:3]
    below = 3 + 7 * max(text.count("\n") + 1 for text in lines) if lines else 0
    pitch_y, pitch_x = height + GAP + below, cell + GAP  # captions stand in the gap
    sheet = _cells(images, columns, (pitch_y, pitch_x), 255).repeat(SHEET_ZOOM, 0).repeat(SHEET_ZOOM, 1)
    left = int(max(map(_width, labels))) + 12
    name = wrapped(title.replace("\n", " "), max(24, (left + sheet.shape[1]) // 13))
    top = 30 * (name.count("\n") + 1) + 10
    wide = max(left + sheet.shape[1], *(int(_width(line)) + 8 for line in name.split("\n"))) + 6
    high = top + sheet.shape[0] + 6

    def write(x: float, y: float, text: str, **style: Any) -> None:
        """Write text at a place in image pixels, from the sheet's upper left."""
        figure.text((left + SHEET_ZOOM * x) / wide, 1 - (top + SHEET_ZOOM * y) / high, text, **style)

    with rc_context(STYLE):
        figure = Figure(figsize=((wide + 0.5) / DPI, (high + 0.5) / DPI), label=title)  # rounded down to whole pixels
        figure.figimage(sheet if sheet.ndim == 3 else np.stack([sheet] * 3, -1), left, 6)
        figure.suptitle(name, x=8 / wide, y=1 - 8 / high, ha="left", va="top")
        for row, label in enumerate(labels):
            write(-GAP, row * pitch_y + height / 2, label, ha="right", va="center")
        for place, caption in enumerate(lines):
            x, y = place % columns * pitch_x + cell / 2, place // columns * pitch_y + height + 1
            write(x, y, caption, ha="center", va="top", fontsize=TINY)
    return figure


def colours(labels: Iterable[Any]) -> list[str]:
    """Return a colour for each label: that of its word in COLOUR_OF, else one that is not taken."""
    known = [next((colour for word, colour in COLOUR_OF.items() if word in str(label)), None) for label in labels]
    free = cycle([colour for colour in COLOURS if colour not in known] or COLOURS)
    return [colour or next(free) for colour in known]


def short(text: str, characters: int) -> str:
    """Return one line of at most so many characters, which ends in … where something had to be left out."""
    line = " ".join(_plain(text).split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"


def short_names(names: Sequence[str], characters: int) -> list[str]:
    """Shorten each name; different names that would then look the same get their number, from 0, in front."""
    found = [short(name, characters) for name in names]
    meanings = {text: {name for name, other in zip(names, found, strict=True) if other == text} for text in found}
    return [
        text if len(meanings[text]) == 1 else short(f"{number}: {names[number]}", characters)
        for number, text in enumerate(found)
    ]


def wrapped(text: str, characters: int, lines: int = 4) -> str:
    """Return lines of at most so many characters; what is beyond so many lines is left out."""
    found = [part for line in text.splitlines() for part in textwrap.wrap(_plain(line), characters)]
    return "\n".join(found[:lines]) + ("…" if len(found) > lines else "")


def _plain(text: str) -> str:
    """Replace each character that the font lacks by "?": matplotlib would warn, and draw a box."""
    composed = unicodedata.normalize("NFC", text)  # macOS gives an accent in a file's name as a character of its own
    return "".join(letter if letter.isspace() or ord(letter) in _letters() else "?" for letter in composed)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FAMILY)).get_charmap())


def _width(line: str, points: float = FONT) -> float:
    """Return how many screen pixels a line of text takes."""
    font = get_font(findfont(FAMILY))
    font.set_size(points, DPI)
    font.set_text(line)
    return font.get_width_height()[0] / 64


def _cells(images: np.ndarray, columns: int, pitch: tuple[int, int], background: int) -> np.ndarray:
    """Put images, uint8 [N, H, W] or [N, H, W, 3], at the upper left of cells of `pitch` = (height, width) pixels."""
    count, height, width, *colour = images.shape
    sheet = np.full((-(-count // columns) * pitch[0], columns * pitch[1], *colour), background, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * pitch[0], place % columns * pitch[1]
        sheet[top : top + height, left : left + width] = image
    return sheet


@contextmanager
def _figure(title: str, width: float, height: float) -> Iterator[Figure]:
    """Make a figure of this size in inches in our style; its label is the title, for the file's metadata."""
    with rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained", label=title)


def _draw(ax: Axes, series: Series, references: Mapping[str, float], *, markers: bool, log: tuple[bool, bool]) -> None:
    """Draw curves and dotted lines."""
    marks = cycle(MARKERS if markers else ("",))
    taken: set[tuple[str, str]] = set()  # colours with their dashes
    for (label, (xs, ys, *errors)), colour in zip(series.items(), colours(series), strict=True):
        own = next((dash for word, dash in DASHES_OF.items() if word in str(label)), "-")
        dashes = next((dash for dash in (own, "-", "--", ":", "-.") if (colour, dash) not in taken), own)
        taken.add((colour, dashes))
        style: Any = {"linestyle": dashes, "marker": "o" if len(xs) == 1 else next(marks), "markersize": 5}
        style |= STAR if str(label).startswith("reference") else {}
        ax.plot(xs, ys, label=short(str(label), 36), color=colour, **style)
        if errors and any(errors[0]):
            ax.errorbar(xs, ys, errors[0], fmt="none", color=colour, capsize=3)
    for (label, value), colour in zip(references.items(), colours(references), strict=True):
        ax.axhline(value, color=colour, linestyle=":", linewidth=1.5)
        place: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "fontsize": SMALL}
        text = ax.annotate(short(label, 50), (0.99, value), **place)
        text.set_path_effects([withStroke(linewidth=2, foreground="white", alpha=0.8)])
    _set_scales(ax, *log)
    if not log[0]:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # epochs, steps, trials


def _set_scales(ax: Axes, log_x: bool, log_y: bool) -> None:
    """Make axes logarithmic, with plain numbers at 1, 2, 5, 10, ..."""
    for axis, log in ((ax.xaxis, log_x), (ax.yaxis, log_y)):
        if log:
            getattr(ax, f"set_{axis.axis_name}scale")("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < MOST_DECADES * low else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())


def _add_legend(figure: Figure, ax: Axes) -> None:
    """Add a legend below the plot, if there are several things to tell apart."""
    if len(ax.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside lower center", ncols=2)
