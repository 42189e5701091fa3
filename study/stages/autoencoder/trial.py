"""One trial of the autoencoder study: train, look at it as it goes, measure its latents, keep the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study import plots
from study.config import LATENT_DIM_RANGE, AutoencoderConfig
from study.data.dataset import Dataset, to_float, to_pixels
from study.engine.search import Trial
from study.measures.consequences import JudgedDistance, consequences
from study.measures.latents import latent_measures
from study.training.autoencoder import (
    AutoencoderSettings,
    correlations,
    knee_distance,
    pca_losses,
    reconstruction_loss,
    reconstruction_pairs,
    rotate_to_principal_axes,
    train_autoencoder,
)
from study.training.loops import apply, eval_mode

EXTENT = ("latent_dims", "repeats", "free_trials", "latent_dim", "compared_weights")
IMAGES_SHOWN = 10  # images in the pictures


@dataclass(frozen=True)
class Comparison:
    """What every trial of a study is compared by: the same few images, principal components, and judges.

    Attributes:
        judges: Gives the judges that select; none without classes.
    """

    data: Dataset
    judges: Callable[[], Sequence[Judge]] = tuple

    @cached_property
    def shown(self) -> Tensor:
        """The first validation image of each of the first ten classes, without classes the first ten; uint8."""
        val = self.data.val
        if not self.data.classes:
            return val.images[:IMAGES_SHOWN]
        classes = range(min(IMAGES_SHOWN, len(self.data.classes)))
        return torch.stack([val.images[val.labels == each][0] for each in classes])

    @cached_property
    def pca(self) -> tuple[Sequence[float], Sequence[float]]:
        """Validation and test loss of 1, 2, ... principal components."""
        data = self.data
        val, test = pca_losses(data.train.images, data.val.images, data.test.images, components=LATENT_DIM_RANGE[1])
        return val, test

    @cached_property
    def distance(self) -> JudgedDistance | None:
        """Of images to the validation images, by the judges; None without classes."""
        judges = self.judges()
        return JudgedDistance(judges, self.data.val.images) if judges else None


def run_autoencoder_trial(
    trial: Trial,
    *,
    config: AutoencoderConfig,
    comparison: Comparison,
    device: torch.device,
    seed_for: Callable[[int], int],
) -> tuple[float, float]:
    """Train and log an autoencoder. Returns `val/loss` and `latent/max_abs_pcc`.

    What follows from its latents is measured too (see `study.measures.consequences`), but for those with a penalty.
    """
    data = comparison.data
    latent_dim, architecture = trial.params["latent_dim"], trial.params["architecture"]
    settings = {name: value for name, value in asdict(config).items() if name not in EXTENT}
    settings = {"repeat": 0, **settings, **trial.params}
    trial.run.log_params({name: value for name, value in settings.items() if name not in trial.params})
    torch.manual_seed(seed_for(settings["repeat"]))
    module = {"latent_dim": latent_dim, "architecture": architecture, "image_shape": list(data.image_shape)}
    model = Autoencoder(**module).to(device)

    def show(epoch: int) -> None:
        images = to_pixels(reconstruction_pairs(model, comparison.shown))
        trial.run.log_image("reconstructions", plots.grid(images, len(comparison.shown)), step=epoch)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        trial.report(epoch, losses)
        show(epoch)

    show(0)  # MLflow's step slider opens at step 0
    training = AutoencoderSettings(
        config.epochs, config.batch_size, config.learning_rate, settings["covariance_weight"]
    )
    train_autoencoder(model, data.train.images, data.val.images, training, report)
    val_loss = trial.history["val/loss"][1][-1]
    with eval_mode(model):
        latents = apply(model.encoder, data.val.images)
    rotated = rotate_to_principal_axes(model, data.train.images)
    with eval_mode(rotated):
        measures = latent_measures(latents, apply(rotated.encoder, data.val.images))
    max_pcc = measures["latent/max_abs_pcc"]
    pca_val, pca_test = comparison.pca
    measures |= {
        "latent/knee_distance": knee_distance(val_loss, pca_val[LATENT_DIM_RANGE[0] - 1], max_pcc),
        "test/loss": reconstruction_loss(model, data.test.images),
        "baseline/pca_loss": pca_test[latent_dim - 1],
        "baseline/pca_val_loss": pca_val[latent_dim - 1],
    }
    if "covariance_weight" not in trial.params:
        measures |= consequences(model, data, comparison.distance)
    trial.run.log(measures)
    _log_figures(trial, model, rotated, comparison)
    trial.log_model(model, to_float(data.val.images[:2]), {"module": module})
    return val_loss, max_pcc


def _log_figures(trial: Trial, model: Autoencoder, rotated: Autoencoder, comparison: Comparison) -> None:
    what = f"latent size {trial.params['latent_dim']}, {trial.params['architecture']}"
    history = {"training": trial.history["train/loss"], "validation": trial.history["val/loss"]}
    loss = plots.curves(history, "epoch", "MSE per pixel", f"Autoencoder, {what}", log_y=True)
    trial.run.log_figure("loss", loss)
    matrices = [correlations(each, comparison.data.val.images) for each in (model, rotated)]
    columns = ["as trained", "rotated"]
    trial.run.log_figure("pcc", plots.heat_maps([matrices], [what], columns, "Correlation of validation latents"))
    rows = ["original", "reconstruction"]
    images = to_pixels(reconstruction_pairs(model, comparison.shown))
    trial.run.log_figure("reconstructions", plots.labelled_grid(images, rows, f"Autoencoder, {what}"))
