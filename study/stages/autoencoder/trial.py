"""One trial of the autoencoder study: train, show reconstructions, measure the latents, log the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study import plots
from study.config import LATENT_DIM_RANGE, AutoencoderConfig
from study.data.dataset import to_float, to_pixels
from study.engine.stage import Context
from study.engine.trial import Trial
from study.measures.consequences import Distance, consequences, judged_distance
from study.measures.latents import latent_measures, pcc_matrix, rotate_to_principal_axes
from study.training.autoencoder import (
    AutoencoderSettings,
    knee_distance,
    pca_losses,
    reconstruction_loss,
    reconstruction_pairs,
    train_autoencoder,
)
from study.training.loops import apply, eval_mode, fitting_batch

BATCH_SIZE, LEARNING_RATE = 128, 1e-2
IMAGES_SHOWN = 10


@dataclass(frozen=True)
class Comparison:
    """What all trials of a study share: the images shown, principal components, and the selecting judges."""

    context: Context

    @cached_property
    def shown(self) -> Tensor:
        """The first validation image of each of the first ten classes, without classes the first ten: uint8."""
        data = self.context.dataset
        if not data.classes:
            return data.val.images[:IMAGES_SHOWN]
        classes = range(min(IMAGES_SHOWN, len(data.classes)))
        return torch.stack([data.val.images[data.val.labels == each][0] for each in classes])

    @cached_property
    def pca(self) -> Sequence[Sequence[float]]:
        """Validation and test loss of 1, 2, ... principal components."""
        data = self.context.dataset
        return pca_losses(data.train.images, data.val.images, data.test.images, components=LATENT_DIM_RANGE[1])

    @cached_property
    def distance(self) -> Distance | None:
        """The selecting judges' distance from the validation images; None without classes."""
        judges = [self.context.module(kind, Judge) for kind in self.context.inputs]
        return judged_distance(judges, self.context.dataset.val.images) if judges else None


def train(trial: Trial, *, settings: AutoencoderConfig, comparison: Comparison) -> tuple[float, float]:
    """Train and log an autoencoder. Return `val/loss` and `latent/max_abs_pcc`."""
    data = comparison.context.dataset
    latent_dim, architecture = trial.params["latent_dim"], trial.params["architecture"]
    training = AutoencoderSettings(settings.epochs, fitting_batch(BATCH_SIZE, len(data.train)), LEARNING_RATE)
    trial.log_params(vars(training))
    module = {"latent_dim": latent_dim, "architecture": architecture, "image_shape": list(data.image_shape)}
    model = Autoencoder(**module).to(comparison.context.device)

    def show(epoch: int) -> None:
        images = to_pixels(reconstruction_pairs(model, comparison.shown))
        trial.log_image("reconstructions", plots.grid(images, len(comparison.shown)), step=epoch)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        trial.report(epoch, losses)
        show(epoch)

    show(0)  # MLflow's step slider opens at step 0
    train_autoencoder(model, data.train.images, data.val.images, training, report)
    val_loss = trial.history["val/loss"][1][-1]
    rotated = rotate_to_principal_axes(model, data.train.images)
    with eval_mode(model, rotated):
        latents = [apply(each.encoder, data.val.images) for each in (model, rotated)]
    measures = latent_measures(*latents)
    max_pcc = measures["latent/max_abs_pcc"]
    pca_val, pca_test = comparison.pca
    measures |= {
        "latent/knee_distance": knee_distance(val_loss, pca_val[LATENT_DIM_RANGE[0] - 1], max_pcc),
        "test/loss": reconstruction_loss(model, data.test.images),
        "baseline/pca_loss": pca_test[latent_dim - 1],
        "baseline/pca_val_loss": pca_val[latent_dim - 1],
    }
    trial.log(measures | consequences(model, data, comparison.distance))
    what = f"latent size {latent_dim}, {architecture}"
    history = {"training": trial.history["train/loss"], "validation": trial.history["val/loss"]}
    trial.log_figure("loss", plots.curves(history, "epoch", "MSE per pixel", f"Autoencoder, {what}", log_y=True))
    matrices = [pcc_matrix(each).cpu().numpy() for each in latents]
    title = "Correlation of validation latents"
    trial.log_figure("pcc", plots.heat_maps([matrices], [what], ["as trained", "rotated"], title))
    images = to_pixels(reconstruction_pairs(model, comparison.shown))
    sheet = plots.labelled_grid(images, ["original", "reconstruction"], f"Autoencoder, {what}")
    trial.log_figure("reconstructions", sheet)
    trial.log_model(model, to_float(data.val.images[:2]), {"module": module})
    return val_loss, max_pcc
