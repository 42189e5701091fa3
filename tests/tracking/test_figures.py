import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from tracking import figures


def pixels(figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_grid_puts_images_row_by_row() -> None:
    images = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30)])
    sheet = figures.grid(images, columns=2)[:: figures.ZOOM, :: figures.ZOOM]
    step = 4 + figures.GAP
    assert sheet.shape == (4 + step, 4 + step)
    assert [sheet[0, 0], sheet[0, step], sheet[step, 0]] == [10, 20, 30]
    assert (sheet[:4, :4] == 10).all()


def test_every_figure_draws_something_and_no_warning() -> None:
    points = {"a": [(1.0, 2.0, "3"), (2.0, 1.0, "15")], "b": []}
    made = [
        figures.labelled_grid(np.zeros((7, 28, 28), np.uint8), ["x", "y"], "title", ["caption"] * 7),
        figures.curves({"a": ([1, 2], [3.0, 4.0])}, "x", "y", "t", log_y=True, references={"r": 3.5}, markers=True),
        figures.scatter(points, "x", "y", "t", front=[(1.0, 2.0)], champion=(1.0, 2.0), log_x=True),
        figures.curves({"a": ([1], [3.0], [0.5])}, "x", "y", "t"),
        figures.panels({"loss": {"a": ([1, 2], [3.0, 4.0])}, "accuracy": {"a": ([1], [0.5])}}, "x", "t"),
        figures.heat_maps([[np.eye(3), np.eye(2)], [np.eye(5), np.eye(4)]], ["r", "s"], ["c", "d"], "t"),
    ]
    for figure in made:
        drawn = pixels(figure)
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


def test_each_pixel_of_a_digit_is_a_square_of_the_sheet() -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 28, 28)).astype(np.uint8)
    drawn = pixels(
        figures.labelled_grid(images, ["a label", "b"], "A title that is too long for so few images", ["c"] * 6)
    )
    for image in images:
        square = image.repeat(figures.SHEET_ZOOM, 0).repeat(figures.SHEET_ZOOM, 1)
        size = len(square)
        lines = np.lib.stride_tricks.sliding_window_view(drawn[..., 0], size, axis=1)  # [height, places, size]
        places = np.argwhere((lines == square[0]).all(-1))
        assert any((drawn[y : y + size, x : x + size] == square[..., None]).all() for y, x in places)


def test_the_same_thing_has_the_same_colour_everywhere() -> None:
    def colours(figure) -> dict[str, str]:
        ax = figure.axes[0]
        lines = {line.get_label(): line.get_color() for line in ax.get_lines()}
        return lines | {dots.get_label(): to_hex(dots.get_facecolor()[0]).upper() for dots in ax.collections}

    series = {
        name: ([1, 2], [1.0, 2.0]) for name in ("x", "PCA", "conv+fc, training", "conv, training", "conv, validation")
    }
    curves = colours(figures.curves(series, "x", "y", "t"))
    points = colours(figures.scatter({"conv+fc": [(1, 2, "")], "conv": [(1, 2, "")]}, "x", "y", "t"))
    assert curves["conv, training"] == curves["conv, validation"] == points["conv"]
    assert curves["conv+fc, training"] == points["conv+fc"]
    assert len(set(curves.values())) == 4, "a thing without a colour of its own takes none of the others'"


def test_curves_of_one_colour_differ_in_their_dashes() -> None:
    series = {f"conv, {part}": ([1, 2], [1.0, 2.0]) for part in ("training", "validation")}
    training, validation = figures.curves(series, "epoch", "y", "t").axes[0].get_lines()
    assert training.get_linestyle() != validation.get_linestyle()


def test_long_titles_stay_inside_the_picture() -> None:
    title = "WGAN, 70 epochs: batch 256, learning rate 0.00123, clip value 0.123, n_critic 5, averaged, and so on"
    for figure in (
        figures.curves({"a": ([1, 2], [3.0, 4.0])}, "x", "y", title),
        figures.labelled_grid(np.zeros((20, 28, 28), np.uint8), ["a", "b"], title),
        figures.panels({"p": {"a": ([1, 2], [3.0, 4.0])}}, "x", title),
    ):
        drawn = pixels(figure)
        assert (drawn[:, -3:] == 255).all()
        assert (drawn[:3] == 255).all()
