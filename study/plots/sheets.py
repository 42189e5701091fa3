"""Sheets: many images in one picture, row by row, with words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from study.plots.style import DPI, STYLE, TINY, short_names, text_width, wrap
from tracking.grids import GAP, cells

SHEET_ZOOM = 3  # of a sheet with labels
CAPTION, NEXT_LINE = 10, 7  # image pixels that a caption of one line takes, and each further line
CHARACTER, LINE = 12, 30  # screen pixels of a character's width and of a line of a sheet's title
LABEL, LABEL_PIXELS = 28, 340  # how long the label of a row may get: characters, screen pixels
CAPTION_PIXELS, CAPTION_LINES = 130, 3  # how wide a caption may make its column, in screen pixels, and its lines


def labelled_grid(images: np.ndarray, rows: Sequence[str], title: str, captions: Sequence[str] = ()) -> Figure:
    """Images, grey uint8 [N, H, W] or colour [N, H, W, 3], with a label before each row and a caption under each image.

    Each pixel of an image is a square of SHEET_ZOOM screen pixels. Long labels are shortened; captions that are wider
    than the images get more lines and wider columns.
    """
    columns = -(-len(images) // len(rows))
    images, captions, below = _with_room(images, captions)
    height, cell = images.shape[1:3]
    pitch_x, pitch_y = cell + GAP, height + GAP + below  # captions stand in the gap
    sheet = cells(images, columns, pitch_y, pitch_x, 255).repeat(SHEET_ZOOM, 0).repeat(SHEET_ZOOM, 1)
    rows = short_names(rows, LABEL, LABEL_PIXELS)
    left = max(CHARACTER * len(row) + 12 for row in rows)
    left = max(left, *(int(text_width(row)) + 10 for row in rows))  # a row of wide letters
    title = wrap(title.replace("\n", " "), (left + sheet.shape[1]) // CHARACTER, left + sheet.shape[1] - 8)
    top = LINE * (title.count("\n") + 1) + 10
    wide, high = left + sheet.shape[1] + 6, top + sheet.shape[0] + 6

    def write(x: float, y: float, text: str, **style: Any) -> None:
        """Text at a place in image pixels, from the sheet's upper left."""
        figure.text((left + SHEET_ZOOM * x) / wide, 1 - (top + SHEET_ZOOM * y) / high, text, **style)

    with rc_context(STYLE):
        figure = Figure(figsize=((wide + 0.5) / DPI, (high + 0.5) / DPI))  # rounded down to whole pixels
        figure.figimage(sheet if sheet.ndim == 3 else np.stack([sheet] * 3, -1), left, 6)
        figure.suptitle(title, x=8 / wide, y=1 - 8 / high, ha="left", va="top")
        for row, label in enumerate(rows):
            write(-GAP, row * pitch_y + height / 2, label, ha="right", va="center")
        for place, caption in enumerate(captions):
            x, y = place % columns * pitch_x + cell / 2, place // columns * pitch_y + height + 1
            write(x, y, caption, ha="center", va="top", fontsize=TINY)
    return figure


def _with_room(images: np.ndarray, captions: Sequence[str]) -> tuple[np.ndarray, list[str], int]:
    """Images with the white beside them that captions need, the captions in lines, and the image pixels below."""
    room = (images.shape[2] + GAP) * SHEET_ZOOM
    lines = [wrap(text, 60, max(room - 4, CAPTION_PIXELS), points=TINY, most=CAPTION_LINES) for text in captions]
    widest = max((text_width(line, TINY) for text in lines for line in text.split("\n")), default=0)
    missing = max(0, int(widest + 6 - room)) if widest > room else 0
    side = -(-missing // (2 * SHEET_ZOOM))
    beside = [(0, 0), (0, 0), (side, side), (0, 0)][: images.ndim]
    below = CAPTION + NEXT_LINE * max(text.count("\n") for text in lines) if lines else 0
    return np.pad(images, beside, constant_values=255), lines, below
