"""The autoencoder study: what the latent size decides, from reconstructions to what can be done with the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from study.checks import numbers
from study.config import AUTOENCODER_PRESETS, LATENT_DIM_RANGE, REFERENCE_SIZE, AutoencoderConfig
from study.engine.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from tracking.registry import Direction

MAX_REPEATS = 100
JUDGES = ("judge", "second-judge")
EXTENT = ("latent_dims", "repeats", "free_trials", "latent_dim", "compared_weights")


def plan(config: AutoencoderConfig) -> str:
    parts = [
        f"latent sizes {numbers(config.sizes)} without and with FC layers, {config.epochs} epochs each",
        f"{config.repeats} times each" if config.repeats > 1 else "",
        f"free trials: {config.free_trials}" if config.free_trials else "",
        f"covariance penalties {numbers(config.compared_weights)}" if config.compared_weights else "",
        "the champion by the mixture's FD and the error with 10 labels a class, without classes by the knee"
        if config.latent_dim is None
        else f"the champion of size {config.latent_dim}",
    ]
    return "; ".join(filter(None, parts))


def run(context: Context) -> Outcome:
    """Search latent size and architecture, two objectives: validation loss and largest |off-diagonal PCC|.

    Which trial becomes the champion is decided by what follows from its latents (`choice.choose`): the root of (FD of a
    Gaussian mixture on them, decoded, x error with 10 labels a class), both on validation images. Where the images have
    no classes it is the knee of the Pareto front, the reference's rule. With `latent_dim` given, the trade-off is
    settled, and it is the trial of that size with the least validation loss.
    """
    from functools import partial

    from models.autoencoder import ARCHITECTURES
    from study.engine.search import Search, choice, integer, log_uniform, named
    from study.engine.study import Candidate, open_study
    from study.measures.consequences import COST
    from study.stages.autoencoder.choice import champions_cost, choose, judges
    from study.stages.autoencoder.figures import Trained, log_figures
    from study.stages.autoencoder.table import rows
    from study.stages.autoencoder.trial import Comparison, run_autoencoder_trial
    from tracking.runs import trial_metrics

    config: AutoencoderConfig = context.config
    description = (
        "Convolutional autoencoders: latent size and architecture against validation loss, correlation, and what "
        "follows from the latents. The best has the least cost, the root of (Frechet distance of a Gaussian mixture on "
        "its latents, decoded, x error of a classifier with 10 labels a class): halving either counts the same. "
        "Without classes: the knee of the Pareto front, the trial nearest to the corner where nothing is lost and "
        "nothing correlates, the loss as a share of that of three principal components."
    )
    objectives: dict[str, Direction] = {"val/loss": "minimize", "latent/max_abs_pcc": "minimize"}
    space = {"latent_dim": integer(*LATENT_DIM_RANGE), "architecture": choice(*ARCHITECTURES)}
    grid = [{"latent_dim": size, "architecture": kind} for size in config.sizes for kind in ARCHITECTURES]
    searches = {
        "": Search(objectives, space, named(grid), config.free_trials),
        "repeats": Search(
            objectives,
            space | {"repeat": integer(1, MAX_REPEATS)},
            named([{**params, "repeat": repeat} for repeat in range(1, config.repeats) for params in grid]),
            optional=True,
        ),
        "penalty": Search(
            objectives,
            space | {"covariance_weight": log_uniform(1e-6, 1e3)},
            named(
                [
                    {
                        "latent_dim": config.latent_dim or REFERENCE_SIZE,
                        "architecture": "conv+fc",
                        "covariance_weight": weight,
                    }
                    for weight in sorted(set(config.compared_weights))
                ]
            ),
            optional=True,
        ),
    }
    comparison = Comparison(context.dataset, partial(judges, context))
    with open_study(context, description) as study:
        objective = partial(
            run_autoencoder_trial,
            config=config,
            comparison=comparison,
            device=context.device,
            seed_for=context.seed_for,
        )
        ahead = {part: study.ahead(each, objective, part) for part, each in searches.items() if each.slots}
        found = {part: results() for part, results in ahead.items()}
        results = [*found.get("", ()), *found.get("repeats", ())]
        measured = trial_metrics(study.parent)
        chosen = choose(results, measured, config.latent_dim)
        candidate = Candidate(
            chosen.best,
            chosen.metric,
            picture="reconstructions",
            insist=config.latent_dim is not None and _is_of_another_size(context, config.latent_dim),
            measure_again=None
            if chosen.metric != COST
            else lambda version: champions_cost(version, context, comparison.distance),
        )

        def finish(made: Mapping[str, object]) -> Sequence:
            trained = Trained(results, found.get("penalty", []), measured, chosen.best, chosen.rule)
            log_figures(study, comparison, trained)
            return rows(context, trained)

        return study.close({"autoencoder": candidate}, finish)


def _is_of_another_size(context: Context, latent_dim: int) -> bool:
    """Whether today's champion on these data has another latent size than was asked for."""
    from tracking import registry

    champion = registry.champion_on(context.session.model_name("autoencoder"), context.dataset.digest)
    if champion is None or not champion.metrics:  # Without its run, which was deleted for good, it gives way anyway.
        return False
    return champion.config()["module"]["latent_dim"] != latent_dim


AUTOENCODER = Stage(
    name="autoencoder",
    question="How many numbers does an image need? The more of them, the better the reconstruction; "
    "but what else can be done with them?",
    settings=AutoencoderConfig,
    run=run,
    inputs=JUDGES,
    optional_inputs=JUDGES,
    outputs=("autoencoder",),
    presets=AUTOENCODER_PRESETS,
    identity_excludes=EXTENT,
    version=2,
    needs_classes=False,
    headline="consequences",
)
