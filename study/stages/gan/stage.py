"""The GAN stages: a search for WGAN settings on the latents, and the best of them again with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.checks import MOST_REPEATS, numbers
from study.config import (
    CONDITIONAL_GAN_PRESETS,
    LATENT_GAN_PRESETS,
    ConditionalGanConfig,
    LatentGanConfig,
)
from study.engine.stage import Context, Outcome, Stage

JUDGES = ("judge", "second-judge", "third-judge")
LATENT_EXTENT = ("free_trials", "repeats", "vanilla_seeds", "recipes", "ablations", "mixture_components")
CONDITIONAL_EXTENT = ("repeats",)


def plan_search(config: LatentGanConfig) -> str:
    parts = [
        f"the paper's, the reference's and our own settings, {config.epochs} epochs each",
        f"free trials: {config.free_trials}" if config.free_trials else "",
        f"the best ({config.final_epochs} epochs) and the reference's with seeds: {config.repeats}",
        f"vanilla GANs: {config.vanilla_seeds}" if config.vanilla_seeds else "",
        f"random recipes, each as vanilla GAN and WGAN: {config.recipes}" if config.recipes else "",
        f"ablations of the best with {config.repeats} seeds each" if config.ablations else "",
        f"real images, reconstructions, SMOTE, a kernel density, mixtures of {numbers(config.mixture_components)}",
    ]
    return "; ".join(filter(None, parts))


def plan_conditional(config: ConditionalGanConfig) -> str:
    return f"the best settings, {config.epochs} epochs each; seeds: {config.repeats}; baselines of each class"


def run_search(context: Context) -> Outcome:
    """Search WGAN settings for the least Frechet distance to the validation images; hopeless trials are pruned.

    The best settings are then trained anew, longer and with other seeds; the best of those is registered.
    """
    from functools import partial

    import torch

    from study.engine.search import Search, Trial
    from study.engine.study import Candidate, open_study
    from study.stages.gan.comparisons import search_and_compare
    from study.stages.gan.figures import interpolations, log_figures
    from study.stages.gan.inputs import GanInputs
    from study.stages.gan.settings import BEST, BY_NAME, SPACE, params_of, settings_of
    from study.stages.gan.table import generator_table, rows
    from study.stages.gan.trial import champions_distance, run_gan_trial
    from tracking.runs import trial_metrics

    config: LatentGanConfig = context.config
    description = (
        "WGANs with weight clipping in the autoencoder's latent space, the WGAN paper's and the reference's settings "
        "among them; the objective is the Frechet distance to the validation images in the features of the first two "
        "judges (their geometric mean). The third judge takes no part in any choice."
    )
    inputs = GanInputs(context)
    search = Search(
        objectives={"val/fd": "minimize"},
        space=SPACE,
        fixed={name: params_of(settings) for name, settings in BY_NAME.items()},
        free=config.free_trials,
        prune_on="val/fd",
        prune_after=config.epochs // 4,
    )

    def objective(trial: Trial) -> tuple[float]:
        torch.manual_seed(context.seed_for(0))
        settings = settings_of(trial.slot, trial.params)
        every = config.evaluate_every
        return run_gan_trial(trial, settings, inputs=inputs, epochs=config.epochs, evaluate_every=every)

    with open_study(context, description) as study:
        found = search_and_compare(study, inputs, search, objective)
        best = min(found.groups[BEST], key=lambda result: result.values[0])

        def finish(made: Mapping[str, object]) -> Sequence:
            measured = trial_metrics(study.parent)
            study.parent.log_table("generators", generator_table(found.groups, measured))
            paths = interpolations(context, inputs, best)
            for name, path in paths.items():
                study.parent.log({f"interpolation/{name}/{key}": value for key, value in path.measures.items()})
            log_figures(study, search, found.results, found=found, measured=measured, paths=paths)
            return rows(context, found, measured, paths)

        remeasure = partial(champions_distance, inputs=inputs, classes=0)
        candidate = Candidate(best, "val/fd", picture="samples", measure_again=remeasure)
        return study.close({"latent-gan": candidate}, finish)


def run_conditional(context: Context) -> Outcome:
    """Train the conditional WGAN once a seed; the one with the least Frechet distance is registered."""
    from functools import partial

    import torch

    from study.engine.search import Search, Trial, integer
    from study.engine.study import Candidate, open_study
    from study.stages.gan.baselines import class_search, run_class_trial
    from study.stages.gan.conditional_table import conditional_rows
    from study.stages.gan.figures import log_conditional_figures
    from study.stages.gan.inputs import GanInputs
    from study.stages.gan.trial import champions_distance, run_gan_trial
    from study.training.classifier import ClassifierSettings
    from study.training.gan import GanSettings
    from tracking.runs import trial_metrics

    config: ConditionalGanConfig = context.config
    description = (
        "The best latent WGAN's settings, with the label as a one-hot vector concatenated to the inputs of generator "
        "and critic. The noise decides the style, the label the class."
    )
    settings = GanSettings(**context.inputs["latent-gan"].config()["settings"])
    inputs = GanInputs(context)
    judge = context.others["judge"]
    score = ClassifierSettings(config.score_epochs, judge["batch_size"], judge["learning_rate"])

    def objective(trial: Trial) -> tuple[float]:
        torch.manual_seed(context.seed_for(trial.params["repeat"]))
        schedule = {"epochs": config.epochs, "evaluate_every": config.evaluate_every}
        return run_gan_trial(trial, settings, inputs=inputs, score=score, **schedule)

    search = Search(
        objectives={"val/fd": "minimize"},
        space={"repeat": integer(0, MOST_REPEATS)},
        fixed={f"repeat {number}": {"repeat": number} for number in range(config.repeats)},
    )
    with open_study(context, description) as study:
        measure = partial(run_class_trial, inputs=inputs, seed_for=context.seed_for, score=score)
        measured_baselines = study.ahead(class_search(), measure, "baselines")
        results = study.search(search, objective)
        best = min(results, key=lambda result: result.values[0])
        baselines = {result.slot: result for result in measured_baselines()}

        def finish(made: Mapping[str, object]) -> Sequence:
            measured = trial_metrics(study.parent)
            log_conditional_figures(study, results, measured)
            return conditional_rows(context, results, baselines, measured)

        classes = len(context.dataset.classes)
        remeasure = partial(champions_distance, inputs=inputs, classes=classes)
        candidate = Candidate(best, "val/fd", picture="samples", measure_again=remeasure)
        return study.close({"conditional-gan": candidate}, finish)


LATENT_GAN = Stage(
    name="latent-gan",
    question="Can a GAN learn the autoencoder's latents so well that they decode to new images, "
    "and which settings does it take?",
    settings=LatentGanConfig,
    run=run_search,
    inputs=(*JUDGES, "autoencoder"),
    outputs=("latent-gan",),
    presets=LATENT_GAN_PRESETS,
    identity_excludes=LATENT_EXTENT,
    version=2,
    headline="generators",
)
CONDITIONAL_GAN = Stage(
    name="conditional-gan",
    question="Can one choose which class the generator draws?",
    settings=ConditionalGanConfig,
    run=run_conditional,
    inputs=(*JUDGES, "autoencoder", "latent-gan"),
    outputs=("conditional-gan",),
    presets=CONDITIONAL_GAN_PRESETS,
    identity_excludes=CONDITIONAL_EXTENT,
    version=3,
    headline="best/samples",
    reads={"judge": ("batch_size", "learning_rate")},
)
