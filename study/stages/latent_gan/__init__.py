"""The search for WGAN settings on the latents; other seeds of the best; vanilla GANs, random recipes and baselines."""

from __future__ import annotations

from functools import partial

from study.config import LATENT_GAN_PRESETS, LatentGanConfig
from study.engine.stage import Context, Outcome, Stage

DESCRIPTION = (
    "WGANs with weight clipping in the autoencoder's latent space. The search goes by the Frechet distance of a few "
    "images to the validation images in the features of the first judge; the best settings are trained again with new "
    "seeds, beside the WGAN paper's and the reference's. The third judge takes no part in any choice."
)


def run(context: Context) -> Outcome:
    """Search WGAN settings for the least `search/fd`, and train the best with new seeds; the best of those competes."""
    from study.engine.search import Search
    from study.engine.study import Candidate
    from study.stages.generators import GanInputs, baseline_trial, champion_distance
    from study.stages.latent_gan import search, trial
    from study.training.gan import REFERENCE, generator_steps

    settings, inputs, count = context.settings, GanInputs(context), len(context.dataset.train)
    train = partial(trial.train, inputs=inputs)
    with context.open(DESCRIPTION) as study:
        # What does not depend on the search is named first: processes that would wait for its end run these trials.
        baselines = study.enqueue(trial.baseline_list(context), partial(baseline_trial, inputs=inputs), "baselines")
        # Claims compare the reference's settings alone; the others show what GANs with a bad recipe do.
        named = [
            {"settings": name, "repeat": repeat}
            for repeat in context.repeats
            for name in (trial.COMPARED if repeat else trial.NAMED)
        ]
        given = study.enqueue(named, partial(train, epochs=settings.epochs), "settings")
        recipes = study.enqueue(
            trial.recipe_list(settings.recipes, context.session.seed),
            partial(trial.train_recipe, inputs=inputs),
            "recipes",
            objectives={trial.COLLAPSED: "minimize"},
            optional=True,
        )
        objective = partial(search.train, inputs=inputs, epochs=settings.search_epochs)
        wanted = Search(
            {search.OBJECTIVE: "minimize"}, search.SPACE, settings.free_trials, search.OBJECTIVE, settings.sampler
        )
        best = min(study.search(wanted, objective, trial.SEARCH), key=trial.distance)
        # The best trial was picked for its luck too: new seeds stand for its settings.
        again = [{**best.params, "repeat": 1 + repeat} for repeat in context.repeats]
        finals = study.run(again, partial(train, epochs=settings.final_epochs), "best")
        epochs = search.epochs_for(generator_steps(REFERENCE, count, settings.epochs), best.params, count)
        study.run(again, partial(train, epochs=epochs), trial.EQUAL_STEPS, optional=True)
        for part in (baselines, given, recipes):
            part()
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
    identity_excludes=("free_trials", "sampler", "recipes", "mixture_components"),
    headline="generators",
)
