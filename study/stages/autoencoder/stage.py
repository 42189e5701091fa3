"""The autoencoder study: how the latent size trades reconstruction against correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from study.harness.settings import numbers
from study.harness.stage import Context, Outcome, Stage
from study.stages.autoencoder.config import EXTENT, LATENT_DIM_RANGE, PRESETS, REFERENCE_SIZE, AutoencoderConfig

if TYPE_CHECKING:
    from study.harness.search import Result
    from tracking.registry import Direction

KNEE_RULE = "knee, (loss / loss of 3-PCA, max |PCC|) nearest to (0, 0)"
MAX_REPEATS = 100


def plan(config: AutoencoderConfig) -> str:
    parts = [
        f"latent sizes {numbers(config.sizes)} without and with FC layers, {config.epochs} epochs each",
        f"{config.repeats} times each" if config.repeats > 1 else "",
        f"free trials: {config.free_trials}" if config.free_trials else "",
        f"covariance penalties {numbers(config.compared_weights)}" if config.compared_weights else "",
    ]
    return "; ".join(filter(None, parts))


def run(context: Context) -> Outcome:
    """Search latent size and architecture, two objectives: validation loss and largest |off-diagonal PCC|.

    The best trial is the knee of the Pareto front by `knee_distance`. With `latent_dim` given, the trade-off is
    settled, and it is the trial of that size with the least validation loss.
    """
    from functools import partial

    from models.autoencoder import ARCHITECTURES
    from study.harness.search import Search, choice, integer, log_uniform, named
    from study.harness.study import Candidate, open_study
    from study.stages.autoencoder.figures import Trained, log_figures
    from study.stages.autoencoder.table import rows
    from study.stages.autoencoder.trial import Comparison, run_autoencoder_trial
    from tracking.runs import trial_metrics

    config: AutoencoderConfig = context.config
    description = (
        "Convolutional autoencoders: latent size and architecture against validation loss and correlation. "
        "The best is the knee of the Pareto front: the trial nearest to the corner where nothing is lost and "
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
    comparison = Comparison(context.dataset)
    with open_study(context, description) as study:
        objective = partial(
            run_autoencoder_trial,
            config=config,
            comparison=comparison,
            device=context.device,
            seed_for=context.seed_for,
        )
        found = {part: study.search(each, objective, part) for part, each in searches.items() if each.slots}
        results = [*found.get("", ()), *found.get("repeats", ())]
        measured = trial_metrics(study.parent)
        best = choose(results, measured, config.latent_dim)
        if config.latent_dim is None:
            candidate, rule = Candidate(best, "latent/knee_distance"), KNEE_RULE
        else:
            candidate = Candidate(best, "val/loss", insist=_is_of_another_size(context, config.latent_dim))
            rule = f"least loss of size {config.latent_dim}, as asked for"

        def finish(made: Mapping[str, object]) -> Sequence:
            trained = Trained(results, found.get("penalty", []), measured, best, rule)
            log_figures(study, comparison, trained)
            return rows(context, trained)

        return study.close({"autoencoder": candidate}, finish)


def choose(results: Sequence[Result], measured: Mapping[str, Mapping[str, float]], latent_dim: int | None) -> Result:
    """The trial with the least knee distance, which lies on the Pareto front; of one size: with the least loss.

    Args:
        measured: The metrics of every trial, by run id.

    Raises:
        StoreError: No trial of the size that was asked for is complete.
    """
    from tracking.errors import StoreError

    if latent_dim is None:
        return min(results, key=lambda result: measured[result.run_id]["latent/knee_distance"])
    of_size = [result for result in results if result.params["latent_dim"] == latent_dim]
    if not of_size:
        raise StoreError(f"no trial of latent size {latent_dim} is complete: it failed, see its run")
    return min(of_size, key=lambda result: result.values[0])


def _is_of_another_size(context: Context, latent_dim: int) -> bool:
    """Whether today's champion on these data has another latent size than was asked for."""
    from tracking import registry

    champion = registry.champion_on(context.session.model_name("autoencoder"), context.dataset.digest)
    if champion is None or not champion.metrics:  # Without its run, which was deleted for good, it gives way anyway.
        return False
    return champion.config()["module"]["latent_dim"] != latent_dim


AUTOENCODER = Stage(
    name="autoencoder",
    question="How many numbers does an image need? The more of them, the better the reconstruction, "
    "and the more they correlate.",
    config=AutoencoderConfig,
    plan=plan,
    run=run,
    outputs=("autoencoder",),
    presets=PRESETS,
    extent=EXTENT,
    needs_classes=False,
)
