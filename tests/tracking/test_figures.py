import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

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
