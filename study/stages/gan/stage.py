"""The GAN stages: a search for WGAN settings on the latents, and the best of them again with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from study.harness.settings import numbers
from study.harness.stage import Context, Outcome, Stage
from study.stages.gan.config import (
    CONDITIONAL_EXTENT,
    CONDITIONAL_PRESETS,
    LATENT_EXTENT,
    LATENT_PRESETS,
    ConditionalGanConfig,
    LatentGanConfig,
)

if TYPE_CHECKING:
    from study.harness.search import Result
    from study.harness.study import Study
    from study.stages.gan.trial import GanInputs

MOST_REPEATS = 999
SCORE_EPOCHS = 3  # of the classifier that is trained on generated images


def plan_search(config: LatentGanConfig) -> str:
    parts = [
        f"the paper's, the reference's and our own settings, {config.epochs} epochs each",
        f"free trials: {config.free_trials}" if config.free_trials else "",
        f"the best and the reference's with {config.repeats} seeds" if config.repeats > 1 else "",
        f"{config.vanilla_seeds} vanilla GANs" if config.vanilla_seeds else "",
        f"ablations of the best with {config.repeats} seeds each" if config.ablations else "",
        f"reconstructions, and Gaussian mixtures of {numbers(config.mixture_components)} components",
    ]
    return "; ".join(filter(None, parts))


def plan_conditional(config: ConditionalGanConfig) -> str:
    return f"the best settings, {config.epochs} epochs each; seeds: {config.repeats}"


def run_search(context: Context) -> Outcome:
    """Search WGAN settings for the least Frechet distance to the validation images; hopeless trials are pruned."""
    import torch

    from study.harness.search import Search, Trial
    from study.harness.study import Candidate, open_study
    from study.stages.gan.figures import interpolations, log_figures
    from study.stages.gan.settings import BY_NAME, SPACE, params_of, settings_of
    from study.stages.gan.table import generator_table, rows
    from study.stages.gan.trial import GanInputs, champions_distance, run_gan_trial
    from tracking.runs import trial_metrics

    config: LatentGanConfig = context.config
    description = (
        "WGANs with weight clipping in the autoencoder's latent space, the WGAN paper's and the reference's settings "
        "among them; the objective is the Frechet distance to the validation images in the judge's features."
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
        return run_gan_trial(trial, settings_of(trial.slot, trial.params), inputs=inputs, config=config)

    with open_study(context, description) as study:
        results = study.search(search, objective)
        best = min(results, key=lambda result: result.values[0])
        groups = _comparisons(study, inputs, results, best)

        def finish(made: Mapping[str, object]) -> Sequence:
            measured = trial_metrics(study.parent)
            study.parent.log_table("generators", generator_table(groups, measured))
            paths = interpolations(context, inputs, best)
            for name, path in paths.items():
                study.parent.log({f"interpolation/{name}/{key}": value for key, value in path.measures.items()})
            log_figures(study, search, results, groups=groups, paths=paths)
            return rows(context, groups, measured, paths)

        judge = context.inputs["judge"]
        candidate = Candidate(
            best, "val/fd", measure_again=lambda version: champions_distance(version, inputs, judge, 0)
        )
        return study.close({"latent-gan": candidate}, finish)


def _comparisons(study: Study, inputs: GanInputs, results: Sequence[Result], best: Result) -> dict[str, list[Result]]:
    """Trainings and baselines by the names that tables give them: the best settings, and what they are held against."""
    from functools import partial

    import torch

    from study.harness.search import Search, Trial, integer
    from study.science.gans import VANILLA, GanSettings
    from study.stages.gan import settings as named
    from study.stages.gan.baselines import baseline_search, run_baseline_trial
    from study.stages.gan.trial import run_gan_trial

    context, config = study.context, study.context.config

    def seeds(part: str, settings: GanSettings, repeats: range) -> list[Result]:
        """The same settings with several seeds; trainings that break down are missing."""

        def objective(trial: Trial) -> tuple[float]:
            torch.manual_seed(context.seed_for(trial.params["repeat"]))
            return run_gan_trial(trial, settings, inputs=inputs, config=config)

        fixed = {f"repeat {number}": {"repeat": number} for number in repeats}
        space = {"repeat": integer(0, MOST_REPEATS)}
        return study.search(Search({"val/fd": "minimize"}, space, fixed, optional=True), objective, part)

    def seeds_of(result: Result, count: int) -> list[Result]:
        settings = named.settings_of(result.slot, result.params)
        return seeds(named.part_of(result), settings, range(1, count + 1))

    by_slot = {result.slot: [result] for result in results}
    groups = {
        named.BEST: [best],
        named.REFERENCE_SETTINGS: by_slot.get("reference", []),
        named.PAPER_SETTINGS: by_slot.get("paper", []),
    }
    if config.repeats > 1:
        # The best trial was picked for its luck too: new seeds stand for its settings.
        groups[named.BEST] = seeds_of(best, config.repeats) or [best]
        for result in by_slot.get("reference", []):
            groups[named.REFERENCE_SETTINGS] = [result, *seeds_of(result, config.repeats - 1)]
    if config.vanilla_seeds:
        groups[named.VANILLA_GAN] = seeds(named.VANILLA_GAN, VANILLA, range(config.vanilla_seeds))
    if config.ablations:
        for name, settings in named.ablations(named.settings_of(best.slot, best.params)).items():
            part = f"{named.part_of(best)}, {name}"
            groups[f"best settings, {name}"] = seeds(part, settings, range(config.repeats))
    search = baseline_search(config.mixture_components, len(context.dataset.train))
    measure = partial(run_baseline_trial, inputs=inputs, seed_for=context.seed_for)
    found = {result.slot: [result] for result in study.search(search, measure, "baselines")}
    return groups | {name: found.get(name, []) for name in search.fixed}


def run_conditional(context: Context) -> Outcome:
    """Train the conditional WGAN once a seed; the one with the least Frechet distance is registered."""
    import torch

    from study.harness.search import Search, Trial, integer
    from study.harness.study import Candidate, open_study
    from study.science.classifiers import ClassifierSettings
    from study.science.gans import GanSettings
    from study.stages.gan.figures import log_conditional_figures
    from study.stages.gan.table import conditional_rows
    from study.stages.gan.trial import GanInputs, champions_distance, run_gan_trial
    from tracking.runs import trial_metrics

    config: ConditionalGanConfig = context.config
    description = (
        "The best latent WGAN's settings, with the label as a one-hot vector concatenated to the inputs of generator "
        "and critic. The noise decides the style, the label the class."
    )
    settings = GanSettings(**context.inputs["latent-gan"].config()["settings"])
    inputs = GanInputs(context)
    judge = context.others["judge"]
    score = ClassifierSettings(SCORE_EPOCHS, judge["batch_size"], judge["learning_rate"])

    def objective(trial: Trial) -> tuple[float]:
        torch.manual_seed(context.seed_for(trial.params["repeat"]))
        return run_gan_trial(trial, settings, inputs=inputs, config=config, score=score)

    search = Search(
        objectives={"val/fd": "minimize"},
        space={"repeat": integer(0, MOST_REPEATS)},
        fixed={f"repeat {number}": {"repeat": number} for number in range(config.repeats)},
    )
    with open_study(context, description) as study:
        results = study.search(search, objective)
        best = min(results, key=lambda result: result.values[0])

        def finish(made: Mapping[str, object]) -> Sequence:
            measured = trial_metrics(study.parent)
            log_conditional_figures(study, results, measured)
            return conditional_rows(context, results, measured)

        version, classes = context.inputs["judge"], len(context.dataset.classes)
        candidate = Candidate(
            best, "val/fd", measure_again=lambda champion: champions_distance(champion, inputs, version, classes)
        )
        return study.close({"conditional-gan": candidate}, finish)


LATENT_GAN = Stage(
    name="latent-gan",
    question="Can a GAN learn the autoencoder's latents so well that they decode to new images, "
    "and which settings does it take?",
    config=LatentGanConfig,
    plan=plan_search,
    run=run_search,
    inputs=("judge", "second-judge", "autoencoder"),
    outputs=("latent-gan",),
    presets=LATENT_PRESETS,
    extent=LATENT_EXTENT,
)
CONDITIONAL_GAN = Stage(
    name="conditional-gan",
    question="Can one choose which class the generator draws?",
    config=ConditionalGanConfig,
    plan=plan_conditional,
    run=run_conditional,
    inputs=("judge", "second-judge", "autoencoder", "latent-gan"),
    outputs=("conditional-gan",),
    presets=CONDITIONAL_PRESETS,
    extent=CONDITIONAL_EXTENT,
    reads={"judge": ("batch_size", "learning_rate")},
)
