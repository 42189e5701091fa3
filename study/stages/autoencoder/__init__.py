"""The autoencoder study: latent size and architecture against reconstruction, correlation and use of the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from study.config import AUTOENCODER_PRESETS, LATENT_DIM_RANGE, AutoencoderConfig
from study.engine.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from study.results import Result
    from tracking.registry import Direction

JUDGES = ("judge", "second-judge")
OBJECTIVES: dict[str, Direction] = {"val/loss": "minimize", "latent/max_abs_pcc": "minimize"}
KNEE = "latent/knee_distance"
FREE, FOUND = "free", "found"  # the parts of the trials that Optuna proposes, and of the best of them


def run(context: Context) -> Outcome:
    """Train the grid of latent sizes, search for others in fewer epochs, train what was found; register the best.

    The champion is the trial with the least validation loss at the size given by `latent_dim`, else the knee of the
    Pareto front of validation loss and largest |off-diagonal PCC| (the reference's rule). Repeats do not compete: with
    more of them, the stages after this one go on with the model that they have.
    """
    from models.autoencoder import ARCHITECTURES
    from study.engine.search import Search, choice, integer
    from study.engine.study import Candidate
    from study.stages.autoencoder.trial import Comparison, log_figures, rows, train

    settings: AutoencoderConfig = context.settings
    comparison = Comparison(context)
    objective = partial(train, settings=settings, comparison=comparison)
    grid = [
        {"latent_dim": size, "architecture": kind, "repeat": repeat}
        for repeat in context.repeats
        for size in (settings.repeated if repeat else settings.sizes)
        for kind in ARCHITECTURES
        if kind == ARCHITECTURES[-1] or size == settings.compared
    ]
    description = (
        "Convolutional autoencoders: latent size and architecture against validation loss, correlation, and what the "
        "latents allow. The best has the least validation loss at the latent size asked for; without one it is the "
        "knee of the Pareto front: the trial nearest to the corner without loss (as a fraction of the loss of three "
        "principal components) and without correlation."
    )
    with context.open(description) as study:
        results = study.run(grid, objective, objectives=OBJECTIVES, optional=settings.free_trials > 0)
        if settings.free_trials:
            space = {"latent_dim": integer(*LATENT_DIM_RANGE), "architecture": choice(*ARCHITECTURES)}
            search = Search(OBJECTIVES, space, settings.free_trials, optional=bool(results))
            quick = partial(train, settings=replace(settings, epochs=settings.search_epochs), comparison=comparison)
            if study.search(search, quick, FREE):
                nearest = min(study.table().where(part=FREE), key=lambda trial: trial.metrics[KNEE])
                results += study.run([{**nearest.params, "repeat": 0}], objective, FOUND, objectives=OBJECTIVES)
        knees = {each.run_id: each.metrics[KNEE] for each in study.table()}
        first = [result for result in results if result.params["repeat"] == 0] or results
        best, metric = choose(first, knees, settings.latent_dim)
        force = settings.latent_dim is not None and _differs(context, settings.latent_dim)
        candidate = Candidate(best, metric, picture="reconstructions", force=force)

        def finish(_: Mapping[str, object]) -> Sequence:
            log_figures(study, comparison, results, best)
            return rows(context, study.table(), best)

        return study.close({"autoencoder": candidate}, finish)


def choose(results: Sequence[Result], knees: Mapping[str, float], latent_dim: int | None) -> tuple[Result, str]:
    """Return the champion, and the metric with which it competes.

    Args:
        knees: The knee distance of each run.
        latent_dim: The champion's size; None: the least knee distance decides.

    Raises:
        StoreError: No trial of the size that was asked for is complete.
    """
    from tracking.errors import StoreError

    if latent_dim is None:
        return min(results, key=lambda result: knees[result.run_id]), KNEE
    of_size = [result for result in results if result.params["latent_dim"] == latent_dim]
    if not of_size:
        raise StoreError(f"no trial of latent size {latent_dim} is complete: it failed, see its run")
    return min(of_size, key=lambda result: result.values[0]), "val/loss"


def _differs(context: Context, latent_dim: int) -> bool:
    """Return whether today's champion on these data has another latent size."""
    from tracking import registry

    champion = registry.champion_on(context.session.model_name("autoencoder"), context.dataset.digest)
    if champion is None or not champion.metrics:  # without its run, which was deleted for good, it gives way anyway
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
    identity_excludes=("latent_dims", "free_trials", "latent_dim"),
    version=2,
    needs_classes=False,
    headline="pareto",
)
