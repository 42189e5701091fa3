"""The translation stage: which GAN fits images that are paired, loosely paired, or not paired at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.config import TRANSLATION_PRESETS, TranslationConfig
from study.engine.stage import Context, Outcome, Stage

JUDGES = ("judge", "second-judge")


def run(context: Context) -> Outcome:
    """Train each model on each pairing; register the translator of paired images with the least validation error."""
    from functools import partial

    from study.engine.study import Candidate
    from study.results import Row
    from study.stages.translation import trial
    from study.training.translation import METHODS, PAIRED, PAIRINGS
    from tracking.errors import StoreError
    from tracking.registry import Direction

    description = (
        "Translators from domain A to B, which are made from the same images so that the true translation is known: a "
        "plain GAN (adversarial loss alone), CycleGAN, a conditional GAN with L1 (pix2pix), and the L1 loss alone. The "
        "objective is the mean absolute error on validation images; no judge takes part in a choice."
    )
    settings = context.settings
    matrix = [
        {"method": method, "pairing": pairing, "repeat": repeat}
        for pairing in PAIRINGS
        for repeat in context.repeats
        for method in METHODS
    ]
    held_out = trial.HeldOut.of(context, JUDGES)
    objectives: dict[str, Direction] = {trial.OBJECTIVE: "minimize"}
    with context.open(description) as study:
        sources = [{"source": source} for source in trial.SOURCES]
        measure = partial(trial.measure_source, held_out=held_out)
        baselines = study.enqueue(sources, measure, "baselines", objectives=objectives)
        train = partial(trial.train_and_measure, context=context, held_out=held_out)
        results = study.run(matrix, train, objectives=objectives)
        baselines()
        paired = [result for result in results if result.params["pairing"] == PAIRED]
        if not paired:
            raise StoreError(f"no translator of paired images ({settings.task}) is complete: see the runs")
        best = min(paired, key=lambda result: result.values[0])

        def finish(_: Mapping[str, object]) -> Sequence[Row]:
            table = study.table()
            trial.log_table(study.parent, table)
            trial.log_figures(study.parent, context, held_out, table)
            return trial.rows(context, table, best.run_id)

        candidate = Candidate(best, trial.OBJECTIVE, protocol={"task": settings.task}, picture="samples")
        return study.close({"translator": candidate}, finish)


TRANSLATION = Stage(
    name="translation",
    question="Which GAN fits which data: images that are exactly paired, loosely paired, or not paired at all?",
    settings=TranslationConfig,
    run=run,
    inputs=JUDGES,
    outputs=("translator",),
    presets=TRANSLATION_PRESETS,
    headline="matrix",
)
