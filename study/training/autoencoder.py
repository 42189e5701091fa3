"""Training autoencoders, what they are compared with (principal components), and what undoes the decoder's blur."""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.gan import KNOTS
from study.data.dataset import to_float
from study.training.loops import EVAL_BATCH, Report, Schedule, autocast, eval_mode, fit

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

BETA2 = 0.95  # 0.999 takes a fifth more steps to the same loss
SETTLED = 0.75  # fraction of the epochs after which BatchNorm keeps its statistics: those of one batch are noise
GREYS = 256  # values of a pixel
EXACT_PIXELS = 1024  # pixels from which on the eigenvectors of the whole covariance take minutes


def train_autoencoder(model: Autoencoder, train: Tensor, val: Tensor, schedule: Schedule, report: Report) -> None:
    """Minimise the mean squared error per pixel of uint8 images [N, C, H, W]; report `train/loss` and `val/loss`.

    In the last quarter of the epochs BatchNorm normalises by its running statistics (docs/log.md has what that saves).

    Raises `FloatingPointError` when a loss is not finite.
    """

    def losses_of(index: Tensor) -> list[Tensor]:
        images = to_float(train[index])
        with autocast(train.device):
            reconstructions = model(images)
        return [F.mse_loss(reconstructions.float(), images)]

    def after_epoch(epoch: int) -> dict[str, float]:
        if epoch == round(SETTLED * schedule.epochs):
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.eval()
        return {"val/loss": reconstruction_loss(model, val)}

    names = ["train/loss"]
    fit(model.train(), losses_of, names, train, schedule, report, beta2=BETA2, graph=True, after_epoch=after_epoch)


def reconstruction_loss(autoencoder: Autoencoder, images: Tensor) -> float:
    """Return the mean squared error per pixel on [0, 1] of uint8 images [N, C, H, W]."""
    with eval_mode(autoencoder):
        errors = [F.mse_loss(autoencoder(x), x, reduction="sum") for x in map(to_float, images.split(EVAL_BATCH))]
    return float(torch.stack(errors).sum()) / images.numel()


def reconstruction_pairs(model: Autoencoder, images: Tensor) -> Tensor:
    """Return uint8 images [N, C, H, W] and then their reconstructions, as floats in [0, 1]: [2 * N, C, H, W]."""
    with eval_mode(model):
        originals = to_float(images)
        return torch.cat([originals, model(originals)])


def knee_distance(loss: float, worst_loss: float, max_pcc: float) -> float:
    """Return sqrt((loss / worst_loss)^2 + max_pcc^2), least at the knee of a Pareto front of loss and correlation.

    The worst loss is that of as many principal components as the smallest latent size: a constant of the data set, not
    an end of the front, so that champions of different studies can be compared.
    """
    return hypot(loss / worst_loss, max_pcc)


def pca_losses(train: Tensor, *held_out: Tensor, components: int) -> list[list[float]]:
    """Return the MSE per pixel of reconstructions from the first 1, 2, ... principal components of training images.

    Args:
        train: uint8 images [N, C, H, W].
        held_out: Sets of such images; the result has one list for each set.
        components: Length of these lists. Beyond the number of images or pixels a list repeats its last value.
    """
    pca = fit_pca(flat_pixels(train), components)
    losses = []
    for images in map(flat_pixels, held_out):
        explained = (pca.transform(images) ** 2).mean(0).cumsum()  # the components are orthonormal
        total = ((images - pca.mean_) ** 2).sum(1).mean()
        found = [float(loss) for loss in (total - explained) / images.shape[1]]
        losses.append(found + found[-1:] * (components - len(found)))
    return losses


def flat_pixels(images: Tensor) -> np.ndarray:
    """Return uint8 images [N, C, H, W] as float32 rows [N, C * H * W] in [0, 1]."""
    return to_float(images).flatten(1).cpu().numpy()


def fit_pca(rows: np.ndarray, components: int) -> PCA:
    """Return scikit-learn's PCA of rows [N, D] with `components` components, or as many as N and D allow."""
    from sklearn.decomposition import PCA

    wanted = min(components, *rows.shape)
    if rows.shape[1] <= EXACT_PIXELS:
        return PCA(wanted, svd_solver="covariance_eigh").fit(rows)
    return PCA(wanted, svd_solver="randomized", random_state=0).fit(rows)


def fit_tone_curve(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """Return levels [KNOTS] of the curve that gives reconstructions the distribution of the images' pixel values.

    It undoes the decoder's blur: least squares draws strokes too grey, black and white too rarely. No judge is asked;
    generators and baselines share it. Histogram specification (Gonzalez & Woods, "Digital Image Processing", 3.3).

    Args:
        images: uint8 [N, C, H, W].
    """
    cells = torch.zeros(KNOTS - 1, dtype=torch.float64, device=images.device)
    greys = torch.zeros(GREYS, dtype=torch.float64, device=images.device)
    with eval_mode(autoencoder):
        for batch in images.split(EVAL_BATCH):
            cells += torch.histc(autoencoder(to_float(batch)), KNOTS - 1, 0, 1)
            greys += torch.bincount(batch.flatten(), minlength=GREYS)
    below = torch.cat([cells.new_zeros(1), cells.cumsum(0)]) / cells.sum()  # fraction of the pixels under each knot
    found = torch.searchsorted(greys.cumsum(0) / greys.sum(), below.clamp(max=1 - 1e-12))  # the quantile of the images
    return (found / (GREYS - 1)).clamp(max=1).float()
