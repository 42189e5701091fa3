"""Training autoencoders, and what they are compared with: principal components."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from study.data.dataset import to_float
from study.measures.latents import pcc_matrix, principal_axes
from study.training.loops import (
    EVAL_BATCH,
    Report,
    apply,
    autocast,
    batches,
    captured,
    check_finite,
    eval_mode,
    one_cycle,
    steps_per_epoch,
)

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

BETA2 = 0.95  # 0.999 takes a fifth more steps to the same loss
EXACT_PIXELS = 1024  # pixels from which on the eigenvectors of the whole covariance take minutes


@dataclass(frozen=True)
class AutoencoderSettings:
    """What an autoencoder is trained with."""

    epochs: int
    batch_size: int
    learning_rate: float  # peak of the one-cycle schedule
    covariance_weight: float = 0.0  # that of `covariance_penalty` in what is minimised


def train_autoencoder(
    model: Autoencoder, train: Tensor, val: Tensor, settings: AutoencoderSettings, report: Report
) -> None:
    """Minimise the mean squared error per pixel of uint8 images [N, C, H, W].

    The losses that are reported, `train/loss` and `val/loss`, are without the covariance penalty.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    steps = settings.epochs * steps_per_epoch(len(train), settings.batch_size)
    optimizer, step = one_cycle(model, settings.learning_rate, steps, BETA2)
    model.train()

    def gradients(index: Tensor) -> Tensor:
        images = to_float(train[index])
        with autocast(train.device):
            latents = model.encoder(images)
            reconstructions = model.decoder(latents)
        loss = error = F.mse_loss(reconstructions.float(), images)
        if settings.covariance_weight:
            loss = error + settings.covariance_weight * covariance_penalty(latents.float())
        optimizer.zero_grad()
        loss.backward()
        return error.detach()

    gradients_of = captured(gradients, train.device)
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for index in batches(len(train), settings.batch_size, train.device):
            losses.append(gradients_of(index))
            step()
        metrics = {
            "train/loss": float(torch.stack(losses).mean()),
            "val/loss": reconstruction_loss(model, val),
        }
        check_finite(epoch, metrics)
        report(epoch, metrics)


def covariance_penalty(latents: Tensor) -> Tensor:
    """Sum of the squared off-diagonal covariances of latents [N, D], over D.

    VICReg's third term (Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eq. 3-4). Our latents are standardised
    by BatchNorm, so that covariance is correlation, as in Barlow Twins (https://arxiv.org/abs/2103.03230).
    """
    centred = latents - latents.mean(0)
    covariance = centred.T @ centred / (len(latents) - 1)  # `torch.cov` reads back from a GPU, which no graph can hold
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / latents.shape[1]


def reconstruction_loss(autoencoder: Autoencoder, images: Tensor) -> float:
    """Mean squared error per pixel on [0, 1], of uint8 images [N, C, H, W]."""
    with eval_mode(autoencoder):
        errors = [F.mse_loss(autoencoder(x), x, reduction="sum") for x in map(to_float, images.split(EVAL_BATCH))]
    return float(torch.stack(errors).sum()) / images.numel()


def reconstruction_pairs(model: Autoencoder, images: Tensor) -> Tensor:
    """Originals, then their reconstructions, float in [0, 1], [2 * N, C, H, W], of uint8 images [N, C, H, W]."""
    with eval_mode(model):
        originals = to_float(images)
        return torch.cat([originals, model(originals)])


def rotate_to_principal_axes(model: Autoencoder, images: Tensor) -> Autoencoder:
    """A copy whose latents of these images are uncorrelated, and which reconstructs as the model does."""
    rotated = copy.deepcopy(model)
    with eval_mode(rotated):
        rotated.rotate_latents(principal_axes(apply(rotated.encoder, images)))
    return rotated


def correlations(model: Autoencoder, images: Tensor) -> np.ndarray:
    """Pearson correlation coefficients [D, D] of the latents of these images.

    Raises:
        FloatingPointError: A latent coordinate is the same for all of them.
    """
    with eval_mode(model):
        return pcc_matrix(apply(model.encoder, images)).cpu().numpy()


def knee_distance(loss: float, worst_loss: float, max_pcc: float) -> float:
    """Distance to the corner where nothing is lost and nothing correlates: sqrt((loss / worst_loss)^2 + max_pcc^2).

    The knee of a front is its point nearest to that corner, both axes scaled to [0, 1]. They are scaled here by
    constants of the data set, not by the ends of the front, so that champions of different studies can be compared.

    Args:
        loss: Mean squared error per pixel.
        worst_loss: That of as many principal components as the smallest latent size.
        max_pcc: Largest absolute off-diagonal correlation of the latents.
    """
    return hypot(loss / worst_loss, max_pcc)


def pca_losses(train: Tensor, *held_out: Tensor, components: int) -> list[list[float]]:
    """MSE per pixel of reconstructions from the first 1, 2, ... principal components of the training images.

    Args:
        train: uint8 images [N, C, H, W].
        held_out: Sets of images like these; the result has a list of losses for each.
        components: Length of these lists. There are as many components as images or pixels at most; a list goes on
            with its last value.
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
    """uint8 images [N, C, H, W] as float32 rows [N, C * H * W] in [0, 1]."""
    return to_float(images).flatten(1).cpu().numpy()


def fit_pca(rows: np.ndarray, components: int) -> PCA:
    """scikit-learn's PCA of rows [N, D], with `components` components, or as many as N and D allow."""
    from sklearn.decomposition import PCA

    wanted = min(components, *rows.shape)
    if rows.shape[1] <= EXACT_PIXELS:
        return PCA(wanted, svd_solver="covariance_eigh").fit(rows)
    return PCA(wanted, svd_solver="randomized", random_state=0).fit(rows)
