"""One trial of the autoencoder study: train, look at it as it goes, measure its latents, keep the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import hypot

import numpy as np
import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from study import metrics
from study.config import LATENT_DIM_RANGE
from study.data import Dataset, to_float, to_pixels
from study.search import Trial
from study.stage import Study, settings_of
from study.training import apply, eval_mode, reconstruction_loss, train_autoencoder
from tracking import figures

SHOWN = 10  # digits in the pictures


@dataclass(frozen=True)
class Yardstick:
    """What every trial of a study is held against: the same ten digits, and principal components."""

    data: Dataset

    @cached_property
    def shown(self) -> Tensor:
        """The first validation image of each digit, uint8 [10, 1, 28, 28]."""
        val = self.data.val
        return torch.stack([val.images[val.labels == digit][0] for digit in range(SHOWN)])

    @cached_property
    def pca(self) -> tuple[Sequence[float], Sequence[float]]:
        """Validation and test loss of 1, 2, ... principal components."""
        val, test = pca_losses(self.data.train.images, self.data.val.images, self.data.test.images)
        return val, test


def run_autoencoder_trial(trial: Trial, study: Study, yardstick: Yardstick) -> tuple[float, float]:
    """Train and log an autoencoder. Returns `val/loss` and `latent/max_abs_pcc`."""
    config, device, data = study.context.config.autoencoder, study.context.device, yardstick.data
    module = {key: trial.params[key] for key in ("latent_dim", "architecture")}
    settings = settings_of(config, "latent_dims", "repeats", "free_trials", "latent_dim", "compared_weights")
    settings = {"repeat": 0, **settings, **trial.params}
    trial.run.log_params({name: value for name, value in settings.items() if name not in trial.params})
    torch.manual_seed(study.context.config.seed_for(settings["repeat"]))
    model = Autoencoder(**module).to(device)

    def show(epoch: int) -> None:
        images = pairs(model, yardstick.shown)
        trial.run.log_image("reconstructions", figures.grid(images, SHOWN), step=epoch)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        trial.report(epoch, losses)
        show(epoch)

    show(0)  # MLflow's step slider opens at step 0
    train_autoencoder(
        model,
        data.train.images,
        data.val.images,
        config.epochs,
        config.batch_size,
        config.learning_rate,
        report,
        settings["covariance_weight"],
    )
    val_loss = trial.history["val/loss"][1][-1]
    with eval_mode(model):
        latents = apply(model.encoder, data.val.images)
    rotated = rotate_to_principal_axes(model, data.train.images)
    with eval_mode(rotated):
        measures = metrics.latent_measures(latents, apply(rotated.encoder, data.val.images))
    max_pcc = measures["latent/max_abs_pcc"]
    pca_val, pca_test = yardstick.pca
    distance = knee_distance(val_loss, pca_val[LATENT_DIM_RANGE[0] - 1], max_pcc)
    measures |= {
        "latent/knee_distance": distance,
        "test/loss": reconstruction_loss(model, data.test.images),
        "baseline/pca_loss": pca_test[module["latent_dim"] - 1],
    }
    trial.run.log(measures)
    _log_figures(trial, model, rotated, yardstick)
    study.log_model(model, to_float(data.val.images[:2]), {"module": module})
    return val_loss, max_pcc


def rotate_to_principal_axes(model: Autoencoder, images: Tensor) -> Autoencoder:
    """A copy whose latents of these images are uncorrelated, and which reconstructs as the model does."""
    rotated = copy.deepcopy(model)
    with eval_mode(rotated):
        rotated.rotate_latents(metrics.principal_axes(apply(rotated.encoder, images)))
    return rotated


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


def pca_losses(train: Tensor, *held_out: Tensor) -> list[list[float]]:
    """MSE per pixel of reconstructions from the first 1, 2, ... 100 principal components of the training images.

    Args:
        train: uint8 images [N, 1, 28, 28].
        held_out: Sets of images like these; the result has a list of losses for each.
    """
    from sklearn.decomposition import PCA

    def flat(images: Tensor) -> np.ndarray:
        return to_float(images).flatten(1).cpu().numpy()

    pca = PCA(LATENT_DIM_RANGE[1], svd_solver="covariance_eigh").fit(flat(train))
    losses = []
    for images in map(flat, held_out):
        explained = (pca.transform(images) ** 2).mean(0).cumsum()  # the components are orthonormal
        total = ((images - pca.mean_) ** 2).sum(1).mean()
        losses.append([float(loss) for loss in (total - explained) / images.shape[1]])
    return losses


def pairs(model: Autoencoder, images: Tensor) -> np.ndarray:
    """A row of originals above a row of reconstructions, uint8 [2 * N, 28, 28]."""
    with eval_mode(model):
        return to_pixels(torch.cat([to_float(images), model(to_float(images))]))


def _log_figures(trial: Trial, model: Autoencoder, rotated: Autoencoder, yardstick: Yardstick) -> None:
    what = f"latent size {trial.params['latent_dim']}, {trial.params['architecture']}"
    history = {"training": trial.history["train/loss"], "validation": trial.history["val/loss"]}
    loss = figures.curves(history, "epoch", "MSE per pixel", f"Autoencoder, {what}", log_y=True)
    trial.run.log_figure("loss", loss)
    matrices = [correlations(each, yardstick.data.val.images) for each in (model, rotated)]
    columns = ["as trained", "rotated"]
    trial.run.log_figure("pcc", figures.heat_maps([matrices], [what], columns, "Correlation of validation latents"))
    rows = ["original", "reconstruction"]
    sheet = figures.labelled_grid(pairs(model, yardstick.shown), rows, f"Autoencoder, {what}")
    trial.run.log_figure("reconstructions", sheet)


def correlations(model: Autoencoder, images: Tensor) -> np.ndarray:
    """PCC matrix [D, D] of the latents of these images."""
    with eval_mode(model):
        return metrics.pcc_matrix(apply(model.encoder, images)).cpu().numpy()
