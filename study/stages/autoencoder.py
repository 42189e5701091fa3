"""The autoencoder study: how the latent size trades reconstruction against correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.autoencoder import ARCHITECTURES, Autoencoder
from study.autoencoder_trial import (
    Yardstick,
    correlations,
    pairs,
    rotate_to_principal_axes,
    run_autoencoder_trial,
)
from study.config import LATENT_DIM_RANGE
from study.search import Distribution, Result, Search, choice, integer, log_uniform, pareto_front
from study.stage import Context, Outcome, Row, Study, settings_of, spread, with_spread
from tracking import figures, registry
from tracking.registry import Direction
from tracking.runs import metric_history, trial_metrics
from tracking.store import StoreError

REFERENCE_LOSS = {"conv": 0.03, "conv+fc": 0.01}  # the reference's figures at latent size 15
REFERENCE_SIZE = 15
KNEE_RULE = "knee, (loss / loss of 3-PCA, max |PCC|) nearest to (0, 0)"
OBJECTIVES: dict[str, Direction] = {"val/loss": "minimize", "latent/max_abs_pcc": "minimize"}
MODULE_SPACE = {"latent_dim": integer(*LATENT_DIM_RANGE), "architecture": choice(*ARCHITECTURES)}
MAX_REPEATS = 100

Measured = Mapping[str, Mapping[str, float]]
"""The metrics of every trial, by run id."""


def run(context: Context) -> Outcome:
    """Search latent size and architecture, two objectives: validation loss and largest |off-diagonal PCC|.

    The champion is the knee of the Pareto front by `knee_distance`. With `latent_dim` given, the trade-off is
    settled, and the champion is the trial of that size with the least validation loss.
    """
    config = context.config.autoencoder
    description = (
        "Convolutional autoencoders: latent size and architecture against validation loss and correlation. "
        "The champion is the knee of the Pareto front: the trial nearest to the corner where nothing is lost and "
        "nothing correlates, the loss as a share of that of three principal components."
    )
    yardstick = Yardstick(context.dataset)
    sizes = sorted({*config.latent_dims, *([] if config.latent_dim is None else [config.latent_dim])})
    grid = [{"latent_dim": size, "architecture": kind} for size in sizes for kind in ARCHITECTURES]
    repeats = [{**params, "repeat": repeat} for repeat in range(1, config.repeats) for params in grid]
    compared_size = config.latent_dim or REFERENCE_SIZE
    compared = [
        {"latent_dim": compared_size, "architecture": "conv+fc", "covariance_weight": weight}
        for weight in sorted(set(config.compared_weights))
    ]
    settings = settings_of(config, "latent_dims", "repeats", "free_trials", "latent_dim", "compared_weights")
    with context.study("autoencoder", description, settings | {"space": MODULE_SPACE}, {}) as study:

        def search(part: str, fixed: Sequence[dict], free: int = 0, **space: Distribution) -> list[Result]:
            if not len(fixed) + free:
                return []
            trials = Search(OBJECTIVES, MODULE_SPACE | space, fixed, free, optional=bool(part))
            return study.search(trials, lambda trial: run_autoencoder_trial(trial, study, yardstick), part)

        results = search("", grid, config.free_trials)
        results += search("repeats", repeats, repeat=integer(1, MAX_REPEATS))
        penalised = search("penalty", compared, covariance_weight=log_uniform(1e-6, 1e3))

        def end() -> Outcome:
            measured = trial_metrics(study.parent)
            best = choose(results, measured, config.latent_dim)
            sitting = context.champion("autoencoder")
            wanted = config.latent_dim is not None and (
                sitting is None or sitting.config()["module"]["latent_dim"] != config.latent_dim
            )
            champion = study.promote(
                best,
                "autoencoder",
                "latent/knee_distance" if config.latent_dim is None else "val/loss",
                "minimize",
                description,
                insist=wanted,
            ).champion
            rule = KNEE_RULE if config.latent_dim is None else f"least loss of size {config.latent_dim}, as asked for"
            study.parent.set_tags({"champion.rule": rule})
            _log_figures(study, yardstick, results, penalised, measured, best, rule)
            references = context.references(REFERENCE_LOSS)
            rows = _rows(sizes, results, penalised, measured, champion.metrics, references)
            return Outcome("autoencoder", champion, rows)

        return study.close(end)


def choose(results: Sequence[Result], measured: Measured, latent_dim: int | None) -> Result:
    """The trial with the least knee distance, which lies on the Pareto front; of one size: with the least loss."""
    if latent_dim is None:
        return min(results, key=lambda result: measured[result.run_id]["latent/knee_distance"])
    of_size = [result for result in results if result.params["latent_dim"] == latent_dim]
    if not of_size:
        raise StoreError(f"no trial of latent size {latent_dim} is complete: it failed, see its run")
    return min(of_size, key=lambda result: result.values[0])


def _groups(results: Sequence[Result]) -> dict[str, dict[int, list[Result]]]:
    """Results by architecture and latent size, the smallest size first; repeats stand together."""
    groups: dict[str, dict[int, list[Result]]] = {kind: {} for kind in ARCHITECTURES}
    for result in sorted(results, key=lambda result: result.params["latent_dim"]):
        groups[result.params["architecture"]].setdefault(result.params["latent_dim"], []).append(result)
    return groups


def _log_figures(
    study: Study,
    yardstick: Yardstick,
    results: Sequence[Result],
    penalised: Sequence[Result],
    measured: Measured,
    best: Result,
    rule: str,
) -> None:
    groups = _groups(results)

    def against_size(metric: str, label: str = "") -> dict[str, tuple[Sequence[float], ...]]:
        series: dict[str, tuple[Sequence[float], ...]] = {}
        for kind, by_size in groups.items():
            found = [spread([measured[r.run_id][metric] for r in group]) for group in by_size.values()]
            series[f"{label}{kind}"] = (list(by_size), [m for m, _ in found], [s for _, s in found])
        return series

    pca = sorted({r.params["latent_dim"]: measured[r.run_id]["baseline/pca_loss"] for r in results}.items())
    references = study.context.references(REFERENCE_LOSS)
    study.parent.log_figure(
        "pareto",
        figures.scatter(
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
            f"Latent sizes: reconstruction against correlation\nchampion: {rule}",
            front=[(r.values[0], r.values[1]) for r in pareto_front(results)],
            champion=(best.values[0], best.values[1]),
            log_x=True,
        ),
        "A point a trial, its number the latent size. The lower left is better: little is lost, and little correlates.",
    )
    study.parent.log_figure(
        "loss_against_size",
        figures.curves(
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
        figures.curves(
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
    losses = figures.curves(histories, "epoch", "MSE per pixel", title, log_y=True, references=lines)
    study.parent.log_figure("loss_curves", losses, "Loss on training and validation images as training goes on.")
    _log_model_figures(study, yardstick, groups)


def _axes_choice(
    by_size: Mapping[int, Sequence[Result]], penalised: Sequence[Result], measured: Measured
) -> figures.Figure:
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
    return figures.scatter(groups, "test MSE per pixel", "largest |off-diagonal PCC|", title, log_x=True)


def _log_model_figures(
    study: Study, yardstick: Yardstick, groups: Mapping[str, Mapping[int, Sequence[Result]]]
) -> None:
    """Reconstructions of the same digits, and correlations, of each latent size that both architectures have."""
    data = yardstick.data
    sizes = [size for size in groups["conv"] if size in groups["conv+fc"]]
    sheets: dict[tuple[int, str], np.ndarray] = {}
    matrices: dict[tuple[int, str], np.ndarray] = {}
    for kind in ARCHITECTURES:
        for size in sizes:
            model = study.context.rebuild(registry.logged_model(groups[kind][size][0].run_id), Autoencoder)
            originals, sheets[size, kind] = np.split(pairs(model, yardstick.shown), 2)
            matrices[size, kind] = correlations(model, data.val.images)
            if kind == "conv+fc":
                rotated = rotate_to_principal_axes(model, data.train.images)
                matrices[size, "conv+fc, rotated"] = correlations(rotated, data.val.images)
    if not sizes:
        return
    order = [(size, kind) for size in sizes for kind in ARCHITECTURES]
    study.parent.log_figure(
        "reconstructions",
        figures.labelled_grid(
            np.concatenate([originals, *(sheets[key] for key in order)]),
            ["original", *(f"size {size}, {kind}" for size, kind in order)],
            "Validation images and their reconstructions",
        ),
        "The first validation image of each digit, and what each autoencoder makes of it.",
    )
    kinds = [*ARCHITECTURES, "conv+fc, rotated"]
    study.parent.log_figure(
        "pcc",
        figures.heat_maps(
            [[matrices[size, kind] for size in sizes] for kind in kinds],
            kinds,
            [f"latent size {size}" for size in sizes],
            "Pearson correlation of validation latents",
        ),
        "Every latent against every other; the rotated models have the same reconstructions as those above them.",
    )


def _rows(
    sizes: Sequence[int],
    results: Sequence[Result],
    penalised: Sequence[Result],
    measured: Measured,
    champion: Mapping[str, float],
    references: Mapping[str, float],
) -> tuple[Row, ...]:
    rows = []
    groups = _groups(results)
    for size in sizes:
        for kind in ARCHITECTURES:
            runs = [measured[result.run_id] for result in groups[kind].get(size, [])]
            if runs:
                reference = references.get(kind) if size == REFERENCE_SIZE else None
                rows.append(
                    Row(
                        f"test MSE, latent {size}, {kind}",
                        with_spread([run["test/loss"] for run in runs], "{:.4f}"),
                        None if reference is None else f"{reference:.2f}",
                        f"PCA {runs[0]['baseline/pca_loss']:.4f}",
                    )
                )
    for result in penalised:
        run = measured[result.run_id]
        rows.append(
            Row(
                f"test MSE, covariance penalty {result.params['covariance_weight']:g}",
                f"{run['test/loss']:.4f}",
                None,
                f"max |PCC| {run['latent/max_abs_pcc']:.3f}, rank {run['latent/effective_rank']:.1f}",
            )
        )
    pcc = f"rotated {champion['latent/max_abs_pcc_rotated']:.3f}, floor {champion['latent/pcc_noise_floor']:.3f}"
    return (
        *rows,
        Row("champion's test MSE", f"{champion['test/loss']:.4f}", None, f"PCA {champion['baseline/pca_loss']:.4f}"),
        Row("champion's max |PCC|", f"{champion['latent/max_abs_pcc']:.3f}", None, pcc),
        Row("champion's effective rank", f"{champion['latent/effective_rank']:.1f}"),
    )
