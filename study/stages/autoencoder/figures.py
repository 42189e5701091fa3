"""Figures of the autoencoder study, on its parent run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.autoencoder import ARCHITECTURES, Autoencoder
from study import plots
from study.config import REFERENCE_SIZE
from study.data.dataset import to_pixels
from study.engine.search import Result, pareto_front
from study.engine.study import Study
from study.engine.table import spread
from study.stages.autoencoder.consequences import consequences_figure
from study.stages.autoencoder.trial import Comparison
from study.training.autoencoder import correlations, reconstruction_pairs, rotate_to_principal_axes
from tracking.runs import Measured, metric_history
from tracking.stored import kept_model

REFERENCE_LOSS = {"conv": 0.03, "conv+fc": 0.01}  # the reference's, at its latent size


@dataclass(frozen=True)
class Trained:
    """What the study has found.

    Attributes:
        results: The trials that may become the champion.
        penalised: Those with a covariance penalty, for comparison.
        measured: Of all trials.
        best: The trial that was chosen, by this rule.
    """

    results: Sequence[Result]
    penalised: Sequence[Result]
    measured: Measured
    best: Result
    rule: str

    @property
    def groups(self) -> dict[str, dict[int, list[Result]]]:
        """Results by architecture and latent size, the smallest size first; repeats stand together."""
        groups: dict[str, dict[int, list[Result]]] = {kind: {} for kind in ARCHITECTURES}
        for result in sorted(self.results, key=lambda result: result.params["latent_dim"]):
            groups[result.params["architecture"]].setdefault(result.params["latent_dim"], []).append(result)
        return groups


def log_figures(study: Study, comparison: Comparison, trained: Trained) -> None:
    """Log all figures of the study."""
    results, penalised, measured, best = trained.results, trained.penalised, trained.measured, trained.best
    groups = trained.groups

    def against_size(metric: str, label: str = "") -> dict[str, tuple[Sequence[float], ...]]:
        series: dict[str, tuple[Sequence[float], ...]] = {}
        for kind, by_size in groups.items():
            found = [spread([measured[r.run_id][metric] for r in group]) for group in by_size.values()]
            series[f"{label}{kind}"] = (list(by_size), [m for m, _ in found], [s for _, s in found])
        return series

    shares = {r.params["latent_dim"]: measured[r.run_id]["baseline/pca_val_loss"] for r in results}
    study.parent.log_figure(
        "consequences",
        consequences_figure(results, measured, best, trained.rule, shares),
        "Each latent size, on validation images: what a reconstruction loses; how far images drawn from a mixture of "
        "50 Gaussians on the latents are from real ones; how often a classifier tells these from real latents; the "
        "error of a classifier on the latents with 10 labels a class; the largest correlation of two latents. "
        "A ring marks the training that was chosen; curves are means over trainings.",
    )
    pca = sorted({r.params["latent_dim"]: measured[r.run_id]["baseline/pca_loss"] for r in results}.items())
    references = study.context.references(REFERENCE_LOSS)
    study.parent.log_figure(
        "pareto",
        plots.scatter(
            {
                kind: [
                    (result.values[0], result.values[1], str(size))
                    for size, group in by_size.items()
                    for result in group
                ]
                for kind, by_size in groups.items()
            },
            "validation MSE per pixel",
            "largest |off-diagonal PCC|",
            f"Latent sizes: reconstruction against correlation\nchampion: {trained.rule}",
            front=[(r.values[0], r.values[1]) for r in pareto_front(results)],
            champion=(best.values[0], best.values[1]),
            log_x=True,
        ),
        "A point a trial, its number the latent size. The lower left is better: little is lost, and little correlates.",
    )
    study.parent.log_figure(
        "loss_against_size",
        plots.curves(
            against_size("test/loss")
            | {"PCA": ([size for size, _ in pca], [loss for _, loss in pca])}
            | {f"reference, {kind}": ([REFERENCE_SIZE], [loss]) for kind, loss in references.items()},
            "latent size",
            "test MSE per pixel",
            "Reconstruction against latent size",
            log_x=True,
            log_y=True,
            markers=True,
        ),
        "What is lost between a test image and its reconstruction, from as many numbers as the latent size says.",
    )
    study.parent.log_figure(
        "pcc_against_size",
        plots.curves(
            against_size("latent/max_abs_pcc", "max |PCC|, ")
            | against_size("latent/max_abs_pcc_rotated", "max, rotated to principal axes, ")
            | against_size("latent/mean_abs_pcc", "mean |PCC|, "),
            "latent size",
            "|PCC| of validation latents",
            "Correlation against latent size",
            log_x=True,
            markers=True,
        ),
        "The largest and the mean correlation between two latents, as trained, and rotated to principal axes.",
    )
    study.parent.log_figure(
        "axes_choice",
        _axes_choice(groups["conv+fc"], penalised, measured),
        "Rotated models reconstruct as before, and correlate no more than independent numbers do by chance.",
    )
    size = REFERENCE_SIZE if REFERENCE_SIZE in groups["conv+fc"] else best.params["latent_dim"]
    histories = {
        f"{kind}, {label}": metric_history(by_size[size][0].run_id, metric)
        for kind, by_size in groups.items()
        if size in by_size
        for label, metric in (("training", "train/loss"), ("validation", "val/loss"))
    }
    lines = {f"reference, {kind}": loss for kind, loss in references.items()} if size == REFERENCE_SIZE else {}
    title = f"Autoencoders without and with FC layers, latent size {size}"
    losses = plots.curves(histories, "epoch", "MSE per pixel", title, log_y=True, references=lines)
    study.parent.log_figure("loss_curves", losses, "Loss on training and validation images as training goes on.")
    _log_model_figures(study, comparison, groups)


def _axes_choice(
    by_size: Mapping[int, Sequence[Result]], penalised: Sequence[Result], measured: Measured
) -> plots.Figure:
    def points(metric: str, labelled: bool = True) -> list[tuple[float, float, str]]:
        runs = [(size, measured[result.run_id]) for size, group in by_size.items() for result in group]
        return [(run["test/loss"], run[metric], str(size) if labelled else "") for size, run in runs]

    groups = {
        "as trained (number: latent size)": points("latent/max_abs_pcc"),
        "the same models, rotated to principal axes": points("latent/max_abs_pcc_rotated", labelled=False),
        "noise floor: independent coordinates": points("latent/pcc_noise_floor", labelled=False),
    }
    if penalised:
        runs = [(result.params, measured[result.run_id]) for result in penalised]
        size = penalised[0].params["latent_dim"]
        groups[f"covariance penalty, size {size} (number: weight)"] = [
            (run["test/loss"], run["latent/max_abs_pcc"], f"{params['covariance_weight']:g}") for params, run in runs
        ]
    title = "Correlation is a choice of axes: a rotation takes it away\nand changes no reconstruction (conv+fc)"
    return plots.scatter(groups, "test MSE per pixel", "largest |off-diagonal PCC|", title, log_x=True)


def _log_model_figures(
    study: Study, comparison: Comparison, groups: Mapping[str, Mapping[int, Sequence[Result]]]
) -> None:
    """Reconstructions of the same images, and correlations, of each latent size that both architectures have.

    Of those whose models were kept.
    """
    data = comparison.data
    found = {(size, kind): kept_model(groups[kind][size][0].run_id) for kind in ARCHITECTURES for size in groups[kind]}
    models = {key: model for key, model in found.items() if model is not None}
    sizes = [size for size in groups["conv"] if all((size, kind) in models for kind in ARCHITECTURES)]
    sheets: dict[tuple[int, str], np.ndarray] = {}
    matrices: dict[tuple[int, str], np.ndarray] = {}
    for kind in ARCHITECTURES:
        for size in sizes:
            model = models[size, kind].rebuild(Autoencoder).to(study.context.device)
            originals, sheets[size, kind] = np.split(to_pixels(reconstruction_pairs(model, comparison.shown)), 2)
            matrices[size, kind] = correlations(model, data.val.images)
            if kind == "conv+fc":
                rotated = rotate_to_principal_axes(model, data.train.images)
                matrices[size, "conv+fc, rotated"] = correlations(rotated, data.val.images)
    if not sizes:
        return
    order = [(size, kind) for size in sizes for kind in ARCHITECTURES]
    study.parent.log_figure(
        "reconstructions",
        plots.labelled_grid(
            np.concatenate([originals, *(sheets[key] for key in order)]),
            ["original", *(f"size {size}, {kind}" for size, kind in order)],
            "Validation images and their reconstructions",
        ),
        "The same validation images, and what each autoencoder makes of them.",
    )
    kinds = [*ARCHITECTURES, "conv+fc, rotated"]
    study.parent.log_figure(
        "pcc",
        plots.heat_maps(
            [[matrices[size, kind] for size in sizes] for kind in kinds],
            kinds,
            [f"latent size {size}" for size in sizes],
            "Pearson correlation of validation latents",
        ),
        "Every latent against every other; the rotated models have the same reconstructions as those above them.",
    )
