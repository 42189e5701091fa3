"""The translation stage: which GAN fits images that are paired, loosely paired, or not paired at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from study.checks import UsageError, numbers
from study.config import TRANSLATION_PRESETS, TranslationConfig
from study.engine.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from study.data.dataset import Dataset

JUDGES = ("judge", "second-judge")


def plan(config: TranslationConfig) -> str:
    parts = [
        f"{', '.join(config.tasks)}: plain GAN, CycleGAN, conditional GAN and L1 alone on paired, loosely paired and"
        f" unpaired images, {config.epochs} epochs each, seeds: {config.repeats}",
        f"other levels of misalignment: {numbers(config.levels)}" if config.levels else "",
        f"other pairings: {', '.join(config.pairings)}" if config.pairings else "",
        f"searched recipes: {config.free_trials} trials for each model and pairing" if config.free_trials else "",
    ]
    return "; ".join(filter(None, parts))


def run(context: Context) -> Outcome:
    """Train each model on each pairing; the translator of paired images with the least validation error is registered.

    The recipes are fixed, or searched, with as many trials for each model and pairing.
    """
    from dataclasses import asdict
    from functools import partial

    from study.engine.search import Objective, Trial
    from study.engine.study import Candidate, open_study
    from study.stages.translation.cells import Cells
    from study.stages.translation.figures import log_figures
    from study.stages.translation.inputs import TranslationInputs
    from study.stages.translation.recipes import (
        OBJECTIVE,
        OURS,
        Cell,
        level_of,
        matrix_search,
        matrix_trials,
        search_recipes,
    )
    from study.stages.translation.table import measures_table, rows
    from study.stages.translation.trial import baseline_search, run_baseline_trial, run_translation_trial
    from tracking.errors import StoreError
    from tracking.runs import trial_metrics

    config: TranslationConfig = context.config
    description = (
        "Translators from domain A to B = T(A), both made from the same images so that the truth is known: a plain GAN "
        "(adversarial loss alone), CycleGAN, a conditional GAN with L1 (pix2pix), and the L1 loss alone. The objective "
        "is the mean absolute error against T(a) on validation images; no judge takes part in a choice."
    )
    with open_study(context, description) as study:
        inputs = TranslationInputs(study)
        for task in config.tasks:
            inputs.truth(task)  # trains the judges of this domain B first
        train = partial(run_translation_trial, inputs=inputs, config=config, seed_for=context.seed_for)

        def searched(cell: Cell) -> Objective:
            task, method, pairing = cell
            given = {"task": task, "method": method, "pairing": pairing, "level": level_of(pairing), "repeat": 0}
            return lambda trial: train(trial, {**asdict(OURS[method]), **given, **trial.params})

        recipe = search_recipes(study, config, searched)

        def objective(trial: Trial) -> tuple[float]:
            return train(trial, trial.params)

        measure = partial(run_baseline_trial, inputs=inputs)
        measured = study.ahead(baseline_search(config.tasks), measure, "baselines")
        results = study.search(matrix_search(matrix_trials(config, recipe)), objective)
        baselines = measured()
        first = [result for result in results if result.params["task"] == config.tasks[0]]
        paired = [result for result in first if result.params["pairing"] == "paired"]
        if not paired:
            raise StoreError(f"no translator of paired images ({config.tasks[0]}) is complete: see the runs")
        best = min(paired, key=lambda result: result.values[0])

        def finish(made: Mapping[str, object]) -> Sequence:
            cells = Cells(results, baselines, trial_metrics(study.parent))
            study.parent.log_table("translators", measures_table(cells))
            log_figures(study, inputs, cells)
            return rows(context, cells, best)

        protocol = {"task": config.tasks[0]}
        return study.close({"translator": Candidate(best, OBJECTIVE, protocol=protocol, picture="samples")}, finish)


def check(config: TranslationConfig, data: Dataset) -> None:
    """Without a pairing, A and B are halves of the training images: each must fill a batch.

    Raises:
        UsageError: It does not.
    """
    half = len(data.train) // 2
    if half < config.batch_size:
        raise UsageError(
            f"`translation.batch_size <= {half}`, half of the training images, must hold, but got {config.batch_size}"
        )


TRANSLATION = Stage(
    name="translation",
    question="Which GAN fits which data: images that are exactly paired, loosely paired, or not paired at all?",
    settings=TranslationConfig,
    run=run,
    check=check,
    inputs=JUDGES,
    outputs=("translator",),
    presets=TRANSLATION_PRESETS,
    identity_excludes=("tasks", "repeats", "levels", "level_repeats", "pairings", "free_trials"),
    reads={"judge": ("epochs", "batch_size", "learning_rate")},
    headline="matrix",
)
