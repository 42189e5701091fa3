"""The autoencoder study: one trial (train, reconstruct, measure the latents), and the figures and rows of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.autoencoder import ARCHITECTURES, Autoencoder
from models.classifier import Judge
from study import plots
from study.config import LATENT_DIM_RANGE, REFERENCE_SIZE, AutoencoderConfig
from study.data.dataset import to_float, to_pixels
from study.engine.search import pareto_front
from study.engine.stage import Context
from study.engine.study import Study
from study.engine.trial import Trial
from study.measures.latents import (
    FD,
    FEW_LABELS,
    TWO_SAMPLE,
    Distance,
    consequences,
    judged_distance,
    latent_measures,
    pcc_matrix,
    rotate_to_principal_axes,
)
from study.results import MSE_MARGIN, Result, Row, Table, compared
from study.stages.autoencoder import FREE, KNEE
from study.training.autoencoder import (
    knee_distance,
    pca_losses,
    reconstruction_loss,
    reconstruction_pairs,
    train_autoencoder,
)
from study.training.loops import Schedule, apply, eval_mode, fitting_batch
from tracking.models import kept_model
from tracking.runs import mean_histories

BATCH_SIZE, LEARNING_RATE = 256, 1e-2
IMAGES_SHOWN = 10
REFERENCE_LOSS = {"conv": 0.03, "conv+fc": 0.01}  # the reference's, at its latent size
MAX_PCC, ROTATED, MEAN_PCC = "latent/max_abs_pcc", "latent/max_abs_pcc_rotated", "latent/mean_abs_pcc"
FLOOR = "latent/pcc_noise_floor"
NEAR_FLOOR = 1.5  # times the noise floor, up to which the largest correlation counts as none
ALLOWED = {
    FD: ("FD of a Gaussian mixture on the latents", "{:.2f}"),
    TWO_SAMPLE: ("two-sample accuracy of that mixture", "{:.1%}"),
    FEW_LABELS: ("accuracy with 10 labels a class", "{:.1%}"),
}
"""What the latents allow, measured on validation images: names and formats."""


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
    training = Schedule(settings.epochs, fitting_batch(BATCH_SIZE, len(data.train)), LEARNING_RATE)
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
    }
    if trial.part != FREE:  # what is searched for does not need them
        measures |= consequences(model, data, comparison.distance)
    trial.log(measures)
    images = to_pixels(reconstruction_pairs(model, comparison.shown))
    title = f"Autoencoder, latent size {latent_dim}, {architecture}"
    sheet = plots.labelled_grid(images, ["original", "reconstruction"], title)
    trial.log_figure("reconstructions", sheet)
    trial.log_model(model, to_float(data.val.images[:2]), {"module": module})
    return val_loss, max_pcc


def log_figures(study: Study, comparison: Comparison, results: Sequence[Result], best: Result) -> None:
    """Log all figures of the study."""
    every = study.table()
    table = every.where(part=lambda part: part != FREE)  # free trials have fewer epochs
    references = study.context.references(REFERENCE_LOSS)
    log = study.parent.log_figure
    against_size = partial(plots.curves, x="latent size", log_x=True, markers=True)
    figure = plots.scatter(
        _points(table, "{}") | _points(every.where(part=FREE), "{}, searched in fewer epochs"),
        "validation MSE per pixel",
        "largest |off-diagonal PCC|",
        "Latent sizes: reconstruction against correlation",
        front=[_place(result) for result in pareto_front(results)],
        champion=_place(best),
        log_x=True,
    )
    caption = "A point per trial with its latent size. The lower left is better: little is lost, and little correlates."
    log("pareto", figure, caption)
    losses = {
        **table.series("latent_dim", "test/loss", by="architecture"),
        **table.series("latent_dim", "baseline/pca_loss", by=lambda _: "PCA"),
        **{f"reference, {kind}": ([REFERENCE_SIZE], [loss]) for kind, loss in references.items()},
    }
    figure = against_size({"test MSE per pixel": losses}, title="Reconstruction against latent size", log_y=True)
    caption = "Loss of test images that are reconstructed from as many numbers as the latent size says."
    log("loss_against_size", figure, caption)
    correlation = {
        f"{name}, {kind}": series
        for metric, name in {MAX_PCC: "max |PCC|", ROTATED: "max |PCC| rotated", MEAN_PCC: "mean |PCC|"}.items()
        for kind, series in table.series("latent_dim", metric, by="architecture").items()
    }
    figure = against_size({"|PCC| of validation latents": correlation}, title="Correlation against latent size")
    caption = "The largest and the mean correlation of two latents, as trained, and rotated to principal axes."
    log("pcc_against_size", figure, caption)
    panels = {name: table.series("latent_dim", metric, by="architecture") for metric, (name, _) in ALLOWED.items()}
    figure = against_size(
        {name: series for name, series in panels.items() if series},
        title="What the latents allow, on validation images",
        references={ALLOWED[TWO_SAMPLE][0]: {"indistinguishable": 0.5}},
    )
    caption = (
        "How far images drawn from a mixture of 50 Gaussians on the latents are from real images; how often a "
        "classifier tells the mixture from real latents; the accuracy of a classifier on the latents with few labels."
    )
    log("consequences", figure, caption)
    size = REFERENCE_SIZE if table.values("test/loss", latent_dim=REFERENCE_SIZE) else best.params["latent_dim"]
    runs = {kind: table.where(latent_dim=size, architecture=kind).run_ids for kind in ARCHITECTURES}
    histories = {
        f"{kind}, {name}": curve
        for name, metric in (("training", "train/loss"), ("validation", "val/loss"))
        for kind, curve in mean_histories(runs, metric).items()
    }
    title = f"Autoencoders without and with FC layers, latent size {size}"
    dotted = {f"reference, {kind}": loss for kind, loss in references.items() if size == REFERENCE_SIZE}
    y = "MSE per pixel"
    figure = plots.curves({y: histories}, "epoch", title, log_y=True, references={y: dotted})
    log("loss_curves", figure, "Loss on training and validation images during training, mean over seeds.")
    _log_model_figures(study, comparison, table)


def _points(table: Table, title: str) -> dict[str, list[tuple[float, float, str]]]:
    """Return each trial's loss, correlation and latent size, by architecture."""
    groups = {title.format(kind): table.where(architecture=kind) for kind in ARCHITECTURES}
    return {
        name: [(*_place(each), str(each.params["latent_dim"])) for each in trials]
        for name, trials in groups.items()
        if len(trials)
    }


def _place(trial: Result) -> tuple[float, float]:
    loss, correlation = trial.values
    return loss, correlation


def _log_model_figures(study: Study, comparison: Comparison, table: Table) -> None:
    """Log reconstructions and correlations of each latent size whose model is kept; with FC layers, as all have it."""
    val, train = study.context.dataset.val.images, study.context.dataset.train.images
    firsts = {each.params["latent_dim"]: each for each in reversed(table.where(architecture=ARCHITECTURES[-1]))}
    sheets: dict[str, np.ndarray] = {}
    matrices: dict[int, list[np.ndarray]] = {}
    for size, trial in sorted(firsts.items()):
        if (kept := kept_model(trial.run_id)) is not None:
            model = kept.rebuild(Autoencoder).to(study.context.device)
            originals, sheets[f"size {size}"] = np.split(to_pixels(reconstruction_pairs(model, comparison.shown)), 2)
            both = (model, rotate_to_principal_axes(model, train))
            with eval_mode(*both):
                matrices[size] = [pcc_matrix(apply(each.encoder, val)).cpu().numpy() for each in both]
    if not sheets:
        return
    shown = np.concatenate([originals, *sheets.values()])
    figure = plots.labelled_grid(shown, ["original", *sheets], "Validation images and their reconstructions")
    study.parent.log_figure("reconstructions", figure, "The same validation images, reconstructed by each autoencoder.")
    figure = plots.heat_maps(
        list(map(list, zip(*matrices.values(), strict=True))),
        ["as trained", "rotated"],
        [f"latent size {size}" for size in matrices],
        "Pearson correlation of validation latents",
    )
    caption = "Every latent against every other; the rotated models have the same reconstructions as the row above."
    study.parent.log_figure("pcc", figure, caption)


def rows(context: Context, table: Table, best: Result) -> list[Row]:
    """Return the test loss of each size and architecture, the claims, and the champion's measures."""
    grid = table.where(part="")
    correlations = _correlations(context, grid) if len(grid) else []
    return [*_losses(context, grid), *correlations, *_champion(table, best)]


def _losses(context: Context, grid: Table) -> list[Row]:
    references, found = context.references(REFERENCE_LOSS), []
    text = "FC layers lower the loss, as in the reference"
    for size in context.settings.sizes:
        trials, compares = grid.where(latent_dim=size), size == REFERENCE_SIZE
        losses = {kind: trials.values("test/loss", architecture=kind) for kind in ARCHITECTURES}
        for kind in (kind for kind in ARCHITECTURES if losses[kind]):
            rivals: dict[str, list[float]] = {
                other: losses[other] for other in ARCHITECTURES[:1] if compares and kind != other
            }
            about: dict[str, Any] = {"text": text, "within": MSE_MARGIN} if rivals else {}
            about["reference"] = f"{references[kind]:.2f}" if compares and references else None
            beside = {**rivals, "PCA": trials.values("baseline/pca_loss")[:1]}
            found.append(compared(f"test MSE, latent {size}, {kind}", losses[kind], beside, "{:.4f}", **about))
    return found


def _correlations(context: Context, grid: Table) -> list[Row]:
    """Return what the reference reads off the plot of correlation against size, and whether correlation is needed."""
    compares = grid.where(latent_dim=lambda size: size in context.settings.repeated)
    repeats = [trials for repeat in context.repeats if len(trials := compares.where(repeat=repeat))]
    best = min(grid.where(repeat=0) or grid, key=lambda trial: trial.metrics[KNEE])
    sizes = sorted({trial.params["latent_dim"] for trial in grid})
    smallest, largest = (grid.values(MAX_PCC, latent_dim=size) for size in (sizes[0], sizes[-1]))
    trained, rotated = (
        [mean(each.metrics[metric] / each.metrics[FLOOR] for each in trials) for trials in repeats]
        for metric in (MAX_PCC, ROTATED)
    )
    knee, reference = "size at the knee of loss and largest |PCC|", str(REFERENCE_SIZE)
    found = [Row(knee, str(best.params["latent_dim"]), reference if context.has_reference else None)]
    if len(sizes) > 1:
        figure, grows = f"max |PCC|, latent {sizes[-1]}", "The largest correlation grows with the latent size"
        found.append(compared(figure, largest, {f"size {sizes[0]}": smallest}, text=grows, better="more"))
    needed: dict[str, Any] = {"text": "Whatever the rotation, latents have to correlate", "goal": NEAR_FLOOR}
    figure = "max |PCC| rotated, over the noise floor, sizes with repeats"
    return [*found, compared(figure, rotated, {"as trained": trained}, "{:.1f}", better="more", **needed)]


def _champion(table: Table, best: Result) -> list[Row]:
    metrics = next(trial.metrics for trial in table if trial.run_id == best.run_id)
    loss, pca = metrics["test/loss"], metrics["baseline/pca_loss"]
    said = (
        f"{best.params['latent_dim']} numbers describe an image up to an error (MSE per pixel) of {loss:.4f}; "
        f"as many principal components up to {pca:.4f}"
    )
    correlation = f"rotated {metrics[ROTATED]:.3f}, floor {metrics[FLOOR]:.3f}"
    return [
        Row("the champion, test MSE", f"{loss:.4f}", None, f"PCA {pca:.4f}", metric="test/loss", found=said),
        Row("the champion, max |PCC|", f"{metrics[MAX_PCC]:.3f}", None, correlation, metric=MAX_PCC),
        Row("the champion, effective rank", f"{metrics['latent/effective_rank']:.1f}"),
        *(
            Row(f"the champion, {what} (validation)", form.format(metrics[name]), metric=name)
            for name, (what, form) in ALLOWED.items()
            if name in metrics
        ),
    ]
