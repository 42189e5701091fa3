"""A tone curve that undoes the decoder's blur: least squares draws strokes too grey, black and white too rarely.

It is fitted on training images and their reconstructions, without a judge; generators and baselines share it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.gan import KNOTS
from study.data.dataset import to_float
from study.training.loops import EVAL_BATCH, eval_mode

GREYS = 256  # values of a pixel


def fit_tone_curve(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """Return levels [KNOTS] of the curve that gives reconstructions the distribution of the images' pixel values.

    Histogram specification (Gonzalez & Woods, "Digital Image Processing", section 3.3).

    Args:
        images: uint8 [N, C, H, W].
    """
    cells = torch.zeros(KNOTS - 1, dtype=torch.float64, device=images.device)
    greys = torch.zeros(GREYS, dtype=torch.float64, device=images.device)
    with eval_mode(autoencoder):
        for batch in images.split(EVAL_BATCH):
            cells += torch.histc(autoencoder(to_float(batch)), KNOTS - 1, 0, 1)
            greys += torch.bincount(batch.flatten(), minlength=GREYS)
    return match_histograms(cells, greys)


def match_histograms(cells: Tensor, greys: Tensor) -> Tensor:
    """Return levels [KNOTS], float32, that turn one distribution of pixel values into another, quantile by quantile.

    Args:
        cells: Pixels of the first distribution in each of KNOTS - 1 equal cells of [0, 1].
        greys: Pixels of the second distribution with each value 0 / 255, 1 / 255, ... 1.
    """
    below = torch.cat([cells.new_zeros(1), cells.cumsum(0)]) / cells.sum()  # [KNOTS]
    fractions = greys.cumsum(0) / greys.sum()
    found = torch.searchsorted(fractions, below.clamp(max=1 - 1e-12))
    return (found / (len(greys) - 1)).clamp(max=1).float()
