"""The autoencoder study: how the latent size trades reconstruction against correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import hypot

import numpy as np
import torch

from models.autoencoder import ARCHITECTURES, Autoencoder
from study import metrics
from study.config import LATENT_DIM_RANGE
from study.data import to_float, to_pixels
from study.search import Result, Search, Trial, choice, integer, pareto_front
from study.stage import Context, Outcome, Row, Study, settings_of
from study.training import apply, eval_mode, reconstruction_loss, train_autoencoder
from tracking import figures
from tracking.runs import trial_metrics
from tracking.store import StoreError

SHOWN = 10  # digits in the pictures
REFERENCE_LOSS = {"conv": 0.03, "conv+fc": 0.01}  # the reference's figures at latent size 15
REFERENCE_SIZE = 15
KNEE_RULE = "knee, least sqrt((loss / loss of 3 principal components)^2 + max |PCC|^2)"


def run(context: Context) -> Outcome:
    """Search latent size and architecture, two objectives: validation loss and largest |off-diagonal PCC|.

    The champion is the knee of the Pareto front by `knee_distance`. With `latent_dim` given, the trade-off is
    settled, and the champion is the trial of that size with the least validation loss.
    """
    config, data = context.config.autoencoder, context.dataset
    description = (
        "Convolutional autoencoders: latent size and architecture against validation loss and correlation. "
        "The champion is the knee of the Pareto front: the trial nearest to the corner where nothing is lost and "
        "nothing correlates, the loss as a share of that of three principal components."
    )
    pca = cache(lambda: pca_losses(data.train.images, data.val.images, data.test.images))
    shown = torch.stack([data.val.images[data.val.labels == digit][0] for digit in range(SHOWN)])

    def objective(trial: Trial) -> tuple[float, ...]:
        module = {key: trial.params[key] for key in ("latent_dim", "architecture")}
        model = Autoencoder(**module).to(context.device)

        def show(epoch: int) -> None:
            trial.run.log_image("reconstructions", figures.grid(_pairs(model, shown), SHOWN), step=epoch)

        def report(epoch: int, losses: Mapping[str, float]) -> None:
            trial.report(epoch, losses)
            show(epoch)

        trial.run.log_params(settings_of(config, "latent_dims", "free_trials", "latent_dim"))
        show(0)  # MLflow's step slider opens at step 0
        train_autoencoder(
            model,
            data.train.images,
            data.val.images,
            config.epochs,
            config.batch_size,
            config.learning_rate,
            report,
        )
        with eval_mode(model):
            axes = metrics.principal_axes(apply(model.encoder, data.train.images))
            latents = apply(model.encoder, data.val.images)
        val_loss = trial.history["val/loss"][1][-1]
        measures = metrics.latent_measures(latents, axes)
        max_pcc = measures["latent/max_abs_pcc"]
        pca_val, pca_test = pca()
        trial.run.log(
            measures
            | {
                "latent/knee_distance": knee_distance(val_loss, pca_val[LATENT_DIM_RANGE[0] - 1], max_pcc),
                "test/loss": reconstruction_loss(model, data.test.images),
                "baseline/pca_loss": pca_test[trial.params["latent_dim"] - 1],
            },
            step=config.epochs,
        )
        what = f"latent size {trial.params['latent_dim']}, {trial.params['architecture']}"
        history = {name: trial.history[name] for name in ("train/loss", "val/loss")}
        trial.run.log_figure(
            "loss", figures.curves(history, "epoch", "MSE per pixel", f"Autoencoder, {what}", log_y=True)
        )
        trial.run.log_figure(
            "pcc",
            figures.heat_map(metrics.pcc_matrix(latents).cpu().numpy(), f"Correlation of latents, {what}"),
        )
        trial.run.log_figure(
            "reconstructions",
            figures.labelled_grid(_pairs(model, shown), ["original", "reconstruction"], f"Autoencoder, {what}"),
        )
        study.log_model(model, to_float(data.val.images[:2]), {"module": module})
        return val_loss, max_pcc

    sizes = sorted({*config.latent_dims, *([] if config.latent_dim is None else [config.latent_dim])})
    search = Search(
        objectives={"val/loss": "minimize", "latent/max_abs_pcc": "minimize"},
        space={"latent_dim": integer(*LATENT_DIM_RANGE), "architecture": choice(*ARCHITECTURES)},
        fixed=[{"latent_dim": size, "architecture": kind} for size in sizes for kind in ARCHITECTURES],
        free=config.free_trials,
    )
    settings = settings_of(config, "free_trials", "latent_dim") | {"space": search.space}
    with context.study("autoencoder", description, settings, {}) as study:
        results = study.search(search, objective)
        measured = trial_metrics(study.parent)
        best = choose(results, measured, config.latent_dim)
        sitting = context.champion("autoencoder")
        wanted = config.latent_dim is not None and (
            sitting is None or sitting.config()["module"]["latent_dim"] != config.latent_dim
        )
        promotion = study.promote(
            best,
            "autoencoder",
            "latent/knee_distance" if config.latent_dim is None else "val/loss",
            "minimize",
            description,
            insist=wanted,
        )
        rule = KNEE_RULE if config.latent_dim is None else f"least loss of size {config.latent_dim}, as asked for"
        study.parent.set_tags({"champion.rule": rule})
        _log_figures(study, results, measured, best, rule)
    rows = _rows(results, measured, promotion.champion.metrics, context.references(REFERENCE_LOSS))
    return Outcome("autoencoder", promotion.champion, rows)


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


def choose(results: Sequence[Result], measured: Mapping[str, Mapping[str, float]], latent_dim: int | None) -> Result:
    """The trial with the least knee distance, which lies on the Pareto front; of one size: with the least loss."""
    if latent_dim is None:
        return min(results, key=lambda result: measured[result.run_id]["latent/knee_distance"])
    of_size = [result for result in results if result.params["latent_dim"] == latent_dim]
    if not of_size:
        raise StoreError(f"no trial of latent size {latent_dim} is complete: it failed, see its run")
    return min(of_size, key=lambda result: result.values[0])


def pca_losses(train: torch.Tensor, *held_out: torch.Tensor) -> list[list[float]]:
    """MSE per pixel of reconstructions from the first 1, 2, ... 100 principal components of the training images.

    Args:
        train: uint8 images [N, 1, 28, 28].
        held_out: Sets of images like these; the result has a list of losses for each.
    """
    from sklearn.decomposition import PCA

    def flat(images: torch.Tensor) -> np.ndarray:
        return to_float(images).flatten(1).cpu().numpy()

    pca = PCA(LATENT_DIM_RANGE[1], svd_solver="covariance_eigh").fit(flat(train))
    losses = []
    for images in map(flat, held_out):
        explained = (pca.transform(images) ** 2).mean(0).cumsum()  # the components are orthonormal
        total = ((images - pca.mean_) ** 2).sum(1).mean()
        losses.append([float(loss) for loss in (total - explained) / images.shape[1]])
    return losses


def _pairs(model: Autoencoder, images: torch.Tensor) -> np.ndarray:
    """A row of originals above a row of reconstructions, uint8 [2 * N, 28, 28]."""
    with eval_mode(model):
        return to_pixels(torch.cat([to_float(images), model(to_float(images))]))


def _log_figures(
    study: Study,
    results: Sequence[Result],
    measured: Mapping[str, Mapping[str, float]],
    best: Result,
    rule: str,
) -> None:
    results = sorted(results, key=lambda result: result.params["latent_dim"])
    by_kind = {kind: [r for r in results if r.params["architecture"] == kind] for kind in ARCHITECTURES}

    def against_size(metric: str, label: str) -> dict[str, tuple[list[float], list[float]]]:
        return {
            f"{label}{kind}": (
                [r.params["latent_dim"] for r in group],
                [measured[r.run_id][metric] for r in group],
            )
            for kind, group in by_kind.items()
        }

    sizes = sorted({r.params["latent_dim"]: measured[r.run_id]["baseline/pca_loss"] for r in results}.items())
    study.parent.log_figure(
        "pareto",
        figures.scatter(
            {k: [(r.values[0], r.values[1], str(r.params["latent_dim"])) for r in g] for k, g in by_kind.items()},
            "validation MSE per pixel",
            "largest |off-diagonal PCC|",
            f"Latent sizes: reconstruction against correlation\nchampion: {rule}",
            front=[(r.values[0], r.values[1]) for r in pareto_front(results)],
            champion=(best.values[0], best.values[1]),
            log_x=True,
        ),
    )
    study.parent.log_figure(
        "loss_against_size",
        figures.curves(
            against_size("test/loss", "") | {"PCA": ([size for size, _ in sizes], [loss for _, loss in sizes])},
            "latent size",
            "test MSE per pixel",
            "Reconstruction against latent size",
            log_x=True,
            log_y=True,
            references={
                f"reference, size {REFERENCE_SIZE}, {kind}": loss
                for kind, loss in study.context.references(REFERENCE_LOSS).items()
            },
            markers=True,
        ),
    )
    study.parent.log_figure(
        "pcc_against_size",
        figures.curves(
            against_size("latent/max_abs_pcc", "max |PCC|, ")
            | against_size("latent/max_abs_pcc_rotated", "rotated to principal axes, ")
            | against_size("latent/mean_abs_pcc", "mean |PCC|, "),
            "latent size",
            "|PCC| of validation latents",
            "Correlation against latent size",
            log_x=True,
            markers=True,
        ),
    )


def _rows(
    results: Sequence[Result],
    measured: Mapping[str, Mapping[str, float]],
    champion: Mapping[str, float],
    references: Mapping[str, float],
) -> tuple[Row, ...]:
    rows = [
        Row(
            f"test MSE, latent {REFERENCE_SIZE}, {result.params['architecture']}",
            f"{measured[result.run_id]['test/loss']:.4f}",
            f"{references[result.params['architecture']]:.2f}" if references else None,
            f"PCA {measured[result.run_id]['baseline/pca_loss']:.4f}",
        )
        for result in sorted(results, key=lambda r: str(r.params["architecture"]))
        if result.params["latent_dim"] == REFERENCE_SIZE
    ]
    pca = champion["baseline/pca_loss"]
    return (
        *rows,
        Row("champion's test MSE", f"{champion['test/loss']:.4f}", None, f"PCA {pca:.4f}"),
        Row(
            "champion's max |PCC|",
            f"{champion['latent/max_abs_pcc']:.3f}",
            None,
            f"rotated {champion['latent/max_abs_pcc_rotated']:.3f}",
        ),
    )
