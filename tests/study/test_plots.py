"""Figures: nothing is cut off, whatever text stands in them; images stay what they are; colours mean one thing."""

from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from study import plots

NAMES = [
    *("$\\frac{1}$ \\alpha^2_", "_hidden", "漢字 🐈‍⬛ ひらがな عربي bytes\udcff", "two\nlines\tand a tab e\u0301"),
    *("a folder name that is so long that nobody would ever want to read all of it", "a folder name that is so short"),
]
"""Names that a user's folders may have."""


def pixels(figure: Figure) -> np.ndarray:
    file = BytesIO()
    figure.savefig(file)
    return np.asarray(Image.open(file).convert("RGB"))


def white_at_the_edges(figure: Figure) -> bool:
    drawn = pixels(figure)
    return all((edge == 255).all() for edge in (drawn[:, :2], drawn[:, -2:], drawn[:2], drawn[-2:]))


def all_kinds(name: str) -> dict[str, Figure]:
    """A figure of each kind in which this text stands everywhere."""
    series = {name: ([1, 2], [3.0, 4.0], [0.1, 0.2]), "b": ([1], [0.5])}
    points = {name: [(1.0, 2.0, name), (2.0, 1.0, name)], "b": [(2.0, 1.0, name)], "none": []}
    return {
        "curves": plots.curves({name: series}, name, name, references={name: {name: 3.5}}, log_y=True, markers=True),
        "side": plots.curves({name: series, "other": series}, name, name, log_x=True),
        "scatter": plots.scatter(points, name, name, name, front=[(1, 2), (2, 1)], champion=(1, 2), log_x=True),
        "heat": plots.heat_maps([[np.eye(3), np.eye(4)]] * 2, [name, name], [name, name], name),
        "confusion": plots.confusion(np.eye(3), [name, "b", "c"], name, name, name),
        "bars": plots.bars({name: 1.0, "b": 2.0}, name, name),
        "sheet": plots.labelled_grid(np.zeros((4, 16, 16, 3), np.uint8), [name, ""], name, [name] * 4),
    }


@pytest.mark.parametrize("name", NAMES)
def test_any_text_may_stand_anywhere(name: str) -> None:
    for kind, figure in all_kinds(name).items():
        assert white_at_the_edges(figure), f"{kind}: nothing is cut off"
        assert len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) > 10
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())
        assert figure.get_label() == name


@pytest.mark.parametrize(("shape", "caption"), [((64, 48), "c"), ((16, 16, 3), "an automobile, not an airplane")])
def test_each_pixel_of_an_image_is_a_square_of_the_sheet(shape: tuple[int, ...], caption: str) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, *shape)).astype(np.uint8)
    drawn = pixels(plots.labelled_grid(images, ["a label", "b"], "A title too long for so few images", [caption] * 4))
    for image in images:
        square = image.repeat(plots.SHEET_ZOOM, 0).repeat(plots.SHEET_ZOOM, 1)
        square = square if square.ndim == 3 else np.stack([square] * 3, -1)
        high, wide, _ = square.shape
        lines = np.lib.stride_tricks.sliding_window_view(drawn[..., 0], wide, axis=1)  # [height, places, wide]
        places = np.argwhere((lines == square[0, :, 0]).all(-1))
        assert any((drawn[y : y + high, x : x + wide] == square).all() for y, x in places)


def test_the_same_thing_has_the_same_colour_everywhere_and_curves_of_one_colour_differ_in_dashes() -> None:
    names = ("x", "PCA", "conv+fc, training", "conv, training", "conv, validation")
    lines = plots.curves({"y": {name: ([1, 2], [1.0, 2.0]) for name in names}}, "x", "t").axes[0].get_lines()
    colour = {line.get_label(): line.get_color() for line in lines}
    dots = plots.scatter({"conv+fc": [(1, 2, "")], "conv": [(1, 2, "")]}, "x", "y", "t").axes[0].collections
    point = {each.get_label(): to_hex(each.get_facecolor()[0]).upper() for each in dots}
    assert colour["conv, training"] == colour["conv, validation"] == point["conv"]
    assert colour["conv+fc, training"] == point["conv+fc"]
    assert len(set(colour.values())) == 4, "a thing without a colour of its own takes none of the others'"
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names)


def test_names_in_ticks_and_rows_can_be_told_apart() -> None:
    figure = plots.confusion(np.eye(len(NAMES)), NAMES, "true", "predicted", "t")
    ticks = {tick.get_text() for tick in figure.axes[0].get_yticklabels()}
    assert (len(ticks), max(map(len, ticks)) <= 12) == (len(NAMES), True)
    sheet = plots.labelled_grid(np.zeros((3, 16, 16), np.uint8), ["ひら", "e\u0301", "Ω ж $x_1$"], "t").findobj(Text)
    shown = {text.get_text() for text in sheet}
    assert {"??", "é", "Ω ж $x_1$"} <= shown, "letters that the font lacks become question marks"


@pytest.mark.parametrize(("count", "named", "numbers"), [(10, 10, True), (26, 26, False), (200, 40, False)])
@pytest.mark.parametrize("name", ["{}", "{} is a long name"])
def test_confusion_of_few_and_of_many_classes(count: int, named: int, numbers: bool, name: str) -> None:
    names = [name.format(number) for number in range(count)]
    figure = plots.confusion(np.eye(count), names, "true", "predicted", "t")
    (ax, *_), white = figure.axes, white_at_the_edges(figure)
    assert (white, [text.get_text() for text in ax.texts]) == (True, ["100.0"] * (count if numbers else 0))
    for axis in (ax.xaxis, ax.yaxis):
        boxes = [tick.get_window_extent() for tick in axis.get_ticklabels()]
        assert (len(boxes), any(a.overlaps(b) for a, b in pairwise(boxes))) == (named, False)
