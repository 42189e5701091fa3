"""Many images in one picture, row by row: plain arrays, without Matplotlib, whose import takes half a second."""

from __future__ import annotations

import numpy as np

GAP, ZOOM = 2, 2  # pixels between two images of a grid; screen pixels per image pixel


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images side by side, row by row, as one image.

    From grey uint8 [N, H, W] comes uint8 [rows * ..., columns * ...], from colour uint8 [N, H, W, 3] the same [..., 3].
    """
    height, width = images.shape[1:3]
    sheet = cells(images, columns, height + GAP, width + GAP, 128)[:-GAP, :-GAP]
    return sheet.repeat(ZOOM, 0).repeat(ZOOM, 1)


def cells(images: np.ndarray, columns: int, pitch_y: int, pitch_x: int, background: int) -> np.ndarray:
    """Images, uint8 [N, H, W] or [N, H, W, 3], at the upper left of cells of this size."""
    count, height, width, *colour = images.shape
    sheet = np.full((-(-count // columns) * pitch_y, columns * pitch_x, *colour), background, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * pitch_y, place % columns * pitch_x
        sheet[top : top + height, left : left + width] = image
    return sheet
