"""The one style of all figures: colours, dashes and fonts, and text that is safe to draw whatever it says.

The same thing has the same colour everywhere (COLOUR_OF), and curves that share one differ in their dashes (DASHES_OF),
so that charts can be read without telling colours apart.

Names of classes come from the users' folders, so any text may be a label. STYLE switches mathtext off, so that `$x_1$`
is drawn as it stands; `plain`, `shorten`, `short_names` and `wrap` see to the rest.
"""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

DPI = 140  # at half size, labels are still 10 pixels high
FONT, SMALL, TINY = 11, 9, 8  # points: of most text, of legends and notes, of captions and numbers in cells
FAMILY = "DejaVu Sans"  # comes with matplotlib, so that figures are the same everywhere
ELLIPSIS = "…"
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

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""The columns' names, and the rows."""


class Chart(Figure):
    """A figure that knows the values it plots, for those who want to read them off."""

    values: Table = ((), ())


def facts(figure: Figure, caption: str) -> dict[str, str]:
    """What a PNG file of the figure says of itself: title, caption, the plotted values as JSON, when it was made."""
    titles = [figure.get_suptitle(), *(ax.get_title("left") for ax in figure.axes)]
    title = next(filter(None, titles), "").replace("\n", " ")
    caption = caption.encode("utf-8", "replace").decode()  # a folder's name may hold bytes that are no text
    found = {"Title": title, "Description": caption, "Creation Time": datetime.now(UTC).isoformat()}
    if isinstance(figure, Chart):
        found["Values"] = json.dumps(figure.values)
    return found


def colours(labels: Iterable[Any]) -> list[str]:
    """A colour for each label: that of its word in COLOUR_OF, else one that is not taken."""
    known = [next((colour for word, colour in COLOUR_OF.items() if word in str(label)), None) for label in labels]
    free = cycle([colour for colour in COLOURS if colour not in known] or COLOURS)
    return [colour or next(free) for colour in known]


def plain(text: str) -> str:
    """The text with "?" for each character that the font lacks (matplotlib would warn, and draw a box)."""
    composed = unicodedata.normalize("NFC", text)  # macOS gives an accent in a file's name as a character of its own
    return "".join(letter if letter == "\n" or letter in _letters() else "?" for letter in composed)


def text_width(text: str, points: float = FONT) -> float:
    """How many screen pixels a line of plain text takes."""
    font = get_font(findfont(FAMILY))
    font.set_size(points, DPI)
    font.set_text(text)
    return font.get_width_height()[0] / 64


def shorten(text: str, characters: int, pixels: float, points: float = FONT) -> str:
    """One line of at most so many characters and pixels, which ends in … where something had to be left out."""
    line = short = " ".join(plain(" ".join(text.split())).split())
    keep = min(len(line), characters)
    while len(short) > characters or text_width(short, points) > pixels:
        keep -= 1
        short = line[:keep].rstrip() + ELLIPSIS
        if not keep:
            break
    return short


def short_names(names: Sequence[str], characters: int, pixels: float, points: float = FONT) -> list[str]:
    """Each name shortened; different names that would then look the same get their number, from 0, in front."""
    short = [shorten(name, characters, pixels, points) for name in names]
    meanings = defaultdict(set)
    for name, text in zip(names, short, strict=True):
        meanings[text].add(name)
    return [
        text if len(meanings[text]) == 1 else shorten(f"{number}: {names[number]}", characters, pixels, points)
        for number, text in enumerate(short)
    ]


def wrap(text: str, characters: int, pixels: float, *, points: float = FONT, most: int | None = None) -> str:
    """Lines of at most so many characters and pixels; of more than `most` lines, the rest is left out."""
    paragraphs = plain(text).splitlines()
    for length in range(characters, 0, -1):
        lines = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, length) or [""]]
        if all(text_width(line, points) <= pixels for line in lines):
            break
    if most and len(lines) > most:
        lines = [*lines[: most - 1], shorten(" ".join(lines[most - 1 :]), length, pixels, points)]
    return "\n".join(lines)


def legend_names(labels: Sequence[str], characters: int, pixels: float) -> list[str]:
    """Labels as they stand in a legend: short, and none begins with _, since matplotlib leaves such labels out."""
    short = short_names(labels, characters, pixels, SMALL)
    return [f"\u200b{label}" if label.startswith("_") else label for label in short]  # an invisible space


@cache
def _letters() -> frozenset[str]:
    """The characters that the font has."""
    return frozenset(map(chr, get_font(findfont(FAMILY)).get_charmap()))
