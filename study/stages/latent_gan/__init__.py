"""The search for WGAN settings on the latents; other seeds of the best; vanilla GANs, random recipes and baselines."""

from __future__ import annotations

from functools import partial

from study.config import LATENT_GAN_PRESETS, LatentGanConfig
from study.engine.stage import Context, Outcome, Stage

DESCRIPTION = (
    "WGANs with weight clipping in the autoencoder's latent space, the WGAN paper's and the reference's settings among "
    "them; the objective is the Frechet distance to the validation images in the features of the first two judges "
    "(their geometric mean). The third judge takes no part in any choice."
)


def run(context: Context) -> Outcome:
    """Search WGAN settings for the least `val/fd`, and train the best with other seeds; the best of those competes."""
    from study.engine.search import Search
    from study.engine.study import OBJECTIVES, Candidate
    from study.stages.generators import GanInputs, baseline_trial, champion_distance
    from study.stages.latent_gan import trial

    settings, inputs = context.settings, GanInputs(context)
    objective = partial(trial.train, inputs=inputs, epochs=settings.epochs)
    with context.open(DESCRIPTION) as study:
        # What does not depend on the search is named first: processes that would wait for its end run these trials.
        baselines = trial.baseline_list(settings, len(context.dataset.train))
        measured = study.enqueue(baselines, partial(baseline_trial, inputs=inputs), "baselines")
        recipes = trial.recipe_list(settings.recipes, context.session.seed)
        watched = study.enqueue(
            recipes,
            partial(trial.train_recipe, inputs=inputs),
            "recipes",
            objectives={trial.COLLAPSED: "minimize"},
            optional=True,
        )
        given = study.run(trial.settings_list(settings), objective, "settings")
        known = trial.competitors(given)
        search = Search(
            OBJECTIVES,
            trial.SPACE,
            settings.free_trials,
            prune_on="val/fd",
            prune_after=settings.epochs // 4,
            optional=bool(known),
            known=trial.in_space(known),
        )
        best = min(known + study.search(search, objective), key=trial.distance)
        # The best trial was picked for its luck too: new seeds stand for its settings.
        again = [{**best.params, "repeat": repeat} for repeat in range(1, settings.repeats + 1)]
        finals = study.run(again, partial(objective, epochs=settings.final_epochs), "best", optional=True) or [best]
        measured()
        watched()
        candidate = Candidate(
            min(finals, key=trial.distance),
            "val/fd",
            picture="samples",
            measure_again=partial(champion_distance, inputs=inputs, classes=0),
        )
        return study.close({"latent-gan": candidate}, lambda _: trial.log_outcome(study, inputs, finals))


LATENT_GAN = Stage(
    name="latent-gan",
    question="Can a GAN learn the autoencoder's latents so well that they decode to new images, "
    "and which settings does it take?",
    settings=LatentGanConfig,
    run=run,
    inputs=("judge", "second-judge", "third-judge", "autoencoder"),
    outputs=("latent-gan",),
    presets=LATENT_GAN_PRESETS,
    identity_excludes=("free_trials", "repeats", "vanilla_seeds", "recipes", "mixture_components"),
    headline="generators",
)
