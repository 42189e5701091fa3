import json
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from study import plots

NAMES = [
    "$x_1$",
    "$\\frac{1}$ \\alpha^2_",
    "_hidden",
    "a folder name that is so long that nobody would ever want to read all of it",
    "W" * 80,
    "cell_line_experiment_a",
    "cell_line_experiment_b",
    "ひらがな",
    "漢字 🐈‍⬛",
    "e\u0301te\u0301",  # as macOS writes it
    "two\nlines\tand a tab",
    "bytes\udcff",
    "عربي",
]
"""Names that a user's folders may have."""


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_grid_puts_images_row_by_row() -> None:
    images = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30)])
    sheet = plots.grid(images, columns=2)[:: plots.ZOOM, :: plots.ZOOM]
    step = 4 + plots.GAP
    assert sheet.shape == (4 + step, 4 + step)
    assert [sheet[0, 0], sheet[0, step], sheet[step, 0]] == [10, 20, 30]
    assert (sheet[:4, :4] == 10).all()


def test_grid_of_colour_images_is_the_grid_of_each_colour() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 24, 3)).astype(np.uint8)
    sheet = plots.grid(images, columns=3)
    for colour in range(3):
        assert (sheet[..., colour] == plots.grid(images[..., colour], columns=3)).all()


def test_every_figure_draws_something_and_no_warning() -> None:
    points = {"a": [(1.0, 2.0, "3"), (2.0, 1.0, "15")], "b": []}
    made = [
        plots.labelled_grid(np.zeros((7, 28, 28), np.uint8), ["x", "y"], "title", ["caption"] * 7),
        plots.curves({"a": ([1, 2], [3.0, 4.0])}, "x", "y", "t", log_y=True, references={"r": 3.5}, markers=True),
        plots.scatter(points, "x", "y", "t", front=[(1.0, 2.0)], champion=(1.0, 2.0), log_x=True),
        plots.curves({"a": ([1], [3.0], [0.5])}, "x", "y", "t"),
        plots.side_by_side({"loss": {"a": ([1, 2], [3.0, 4.0])}, "accuracy": {"a": ([1], [0.5])}}, "x", "t"),
        plots.heat_maps([[np.eye(3), np.eye(2)], [np.eye(5), np.eye(4)]], ["r", "s"], ["c", "d"], "t"),
    ]
    for figure in made:
        drawn = pixels(figure)
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("shape", [(28, 28), (16, 16), (64, 48), (32, 32, 3), (16, 16, 3)])
@pytest.mark.parametrize("caption", ["c", "an automobile that is taken for an airplane"])
def test_each_pixel_of_an_image_is_a_square_of_the_sheet(shape: tuple[int, ...], caption: str) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, *shape)).astype(np.uint8)
    title = "A title that is too long for so few images"
    drawn = pixels(plots.labelled_grid(images, ["a label", "b"], title, [caption] * 6))
    for image in images:
        square = image.repeat(plots.SHEET_ZOOM, 0).repeat(plots.SHEET_ZOOM, 1)
        square = square if square.ndim == 3 else np.stack([square] * 3, -1)
        high, wide, _ = square.shape
        lines = np.lib.stride_tricks.sliding_window_view(drawn[..., 0], wide, axis=1)  # [height, places, wide]
        places = np.argwhere((lines == square[0, :, 0]).all(-1))
        assert any((drawn[y : y + high, x : x + wide] == square).all() for y, x in places)


def test_the_same_thing_has_the_same_colour_everywhere() -> None:
    def colours(figure: Figure) -> dict[str, str]:
        ax = figure.axes[0]
        lines = {line.get_label(): line.get_color() for line in ax.get_lines()}
        return lines | {dots.get_label(): to_hex(dots.get_facecolor()[0]).upper() for dots in ax.collections}

    series = {
        name: ([1, 2], [1.0, 2.0]) for name in ("x", "PCA", "conv+fc, training", "conv, training", "conv, validation")
    }
    curves = colours(plots.curves(series, "x", "y", "t"))
    points = colours(plots.scatter({"conv+fc": [(1, 2, "")], "conv": [(1, 2, "")]}, "x", "y", "t"))
    assert curves["conv, training"] == curves["conv, validation"] == points["conv"]
    assert curves["conv+fc, training"] == points["conv+fc"]
    assert len(set(curves.values())) == 4, "a thing without a colour of its own takes none of the others'"


def test_curves_of_one_colour_differ_in_their_dashes() -> None:
    series = {f"conv, {part}": ([1, 2], [1.0, 2.0]) for part in ("training", "validation")}
    training, validation = plots.curves(series, "epoch", "y", "t").axes[0].get_lines()
    assert training.get_linestyle() != validation.get_linestyle()


def test_long_titles_stay_inside_the_picture() -> None:
    title = "WGAN, 70 epochs: batch 256, learning rate 0.00123, clip value 0.123, n_critic 5, averaged, and so on"
    for figure in (
        plots.curves({"a": ([1, 2], [3.0, 4.0])}, "x", "y", title),
        plots.labelled_grid(np.zeros((20, 28, 28), np.uint8), ["a", "b"], title),
        plots.side_by_side({"p": {"a": ([1, 2], [3.0, 4.0])}}, "x", title),
    ):
        drawn = pixels(figure)
        assert (drawn[:, -3:] == 255).all()
        assert (drawn[:3] == 255).all()


def labels(figure: Figure) -> list[str]:
    """All the text of a figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def white_at_the_edges(figure: Figure) -> bool:
    drawn = pixels(figure)
    return all((edge == 255).all() for edge in (drawn[:, :2], drawn[:, -2:], drawn[:2], drawn[-2:]))


@pytest.mark.parametrize("name", NAMES)
def test_any_text_may_stand_anywhere(name: str) -> None:
    series = {name: ([1, 2], [3.0, 4.0]), "b": ([1], [0.5])}
    matrices = [[np.eye(3)] * 2]
    made = [
        plots.labelled_grid(np.zeros((4, 16, 16, 3), np.uint8), [name, ""], name, [name] * 4),
        plots.curves(series, name, name, name, references={name: 3.5}, log_y=True),
        plots.side_by_side({name: series, "other": series}, name, name),
        plots.scatter({name: [(1.0, 2.0, name)], "b": [(2.0, 1.0, name)]}, name, name, name, log_x=True),
        plots.heat_maps(matrices, [name], [name, name], name),
        plots.confusion(np.eye(3), [name, "b", "c"], name, name, name),
        plots.bars({name: 1.0, "b": 2.0}, name, name),
    ]
    for figure in made:
        assert white_at_the_edges(figure), "nothing is cut off"
        said = plots.facts(figure, name)
        assert all(text.encode() for text in said.values())
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())


def test_a_chart_keeps_the_whole_names_among_its_values() -> None:
    figure = plots.confusion(np.eye(len(NAMES)), NAMES, "true", "predicted", "t")
    assert json.loads(plots.facts(figure, "")["Values"])[0] == ["true", *NAMES]


def test_names_with_a_leading_underscore_stand_in_the_legend() -> None:
    figure = plots.curves({"_a": ([1, 2], [3.0, 4.0]), "b": ([1, 2], [4.0, 4.0])}, "x", "y", "t")
    assert [text.get_text().strip("\u200b") for text in figure.axes[0].get_legend().get_texts()] == ["_a", "b"]


def test_letters_that_the_font_lacks_become_question_marks() -> None:
    drawn = labels(plots.labelled_grid(np.zeros((3, 16, 16), np.uint8), ["ひら", "e\u0301", "Ω ж $x_1$"], "t"))
    assert {"??", "é", "Ω ж $x_1$"} <= set(drawn)


def test_different_names_stay_different_when_they_are_shortened() -> None:
    figure = plots.confusion(np.eye(len(NAMES)), NAMES, "true", "predicted", "t")
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(set(ticks)) == len(NAMES)
    assert max(map(len, ticks)) <= 12
    assert "$x_1$" in ticks


@pytest.mark.parametrize(
    ("count", "named", "numbers", "turn"),
    [(3, 3, True, 0), (10, 10, True, 0), (26, 26, False, 90), (200, 40, False, 90)],
)
def test_confusion_of_few_and_of_many_classes(count: int, named: int, numbers: bool, turn: int) -> None:
    names = [str(number) for number in range(count)]
    figure = plots.confusion(np.eye(count), names, "true", "predicted", "t")
    assert white_at_the_edges(figure)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["100.0"] * (count if numbers else 0)
    for axis in (ax.xaxis, ax.yaxis):
        ticks = axis.get_ticklabels()
        assert [tick.get_text() for tick in ticks] == names[:: -(-count // named)]
        boxes = [tick.get_window_extent() for tick in ticks]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert {tick.get_rotation() for tick in ax.get_xticklabels()} == {turn}


def test_long_names_of_few_classes_do_not_overlap() -> None:
    names = [f"{number} is a long name" for number in range(10)]
    figure = plots.confusion(np.eye(10), names, "true", "predicted", "t")
    pixels(figure)
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_row_labels_of_a_sheet_are_short() -> None:
    rows = labels(plots.labelled_grid(np.zeros((4, 28, 28, 3), np.uint8), [NAMES[3], NAMES[4]], ""))
    assert len(rows) == 2
    assert all(len(row) <= 28 and row.endswith("…") for row in rows)
