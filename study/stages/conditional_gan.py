"""The best latent WGAN again, with labels: can one choose which class the generator draws?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from study.config import CONDITIONAL_GAN_PRESETS, ConditionalGanConfig
from study.engine.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from study.engine.search import Params
    from study.engine.study import Study
    from study.results import Row, Table

DESCRIPTION = (
    "The best latent WGAN's settings, with the label as a one-hot vector concatenated to the inputs of generator and "
    "critic. The noise decides the style, the label the class."
)
EVALUATE_EVERY = 5  # epochs
SCORE_BATCH, SCORE_RATE = 256, 1e-2  # as the judges have them
COMPONENTS = 20  # of each class's mixture
WGAN, RIVAL = "Conditional WGAN", f"{COMPONENTS} Gaussians a class"
STEPS = "generator/steps"
DIVERSE = 0.95  # the fraction of the reconstructions' diversity that counts as enough
STABLE = 0.1  # the range of the last epochs' distances, as a fraction of the least, that counts as stable


def run(context: Context) -> Outcome:
    """Train the conditional WGAN and the baselines of each class; the WGAN with the least `val/fd` competes."""
    from study.engine.study import Candidate
    from study.stages import generators as shared
    from study.training.classifier import ClassifierSettings
    from study.training.gan import GanSettings

    settings, inputs = context.settings, shared.GanInputs(context)
    gan = GanSettings(**context.inputs["latent-gan"].config()["settings"])
    # The classifier of the classification accuracy score takes half of the judges' epochs, rounded up.
    score = ClassifierSettings((context.others["judge"]["epochs"] + 1) // 2, SCORE_BATCH, SCORE_RATE)
    options = {"epochs": settings.epochs, "evaluate_every": EVALUATE_EVERY, "score": score}
    objective = partial(shared.gan_trial, inputs=inputs, settings=gan, **options)
    baselines: list[Params] = [{"source": shared.REAL}, {"source": shared.RECONSTRUCTIONS}]
    mixture = {"source": shared.MIXTURE, "components": COMPONENTS}
    baselines += [{**mixture, "repeat": repeat} for repeat in context.repeats]
    with context.open(DESCRIPTION) as study:
        measured = study.enqueue(baselines, partial(shared.baseline_trial, inputs=inputs, score=score), "baselines")
        results = study.run([{"repeat": repeat} for repeat in context.repeats], objective)
        measured()
        candidate = Candidate(
            min(results, key=lambda result: result.values[0]),
            "val/fd",
            picture="samples",
            measure_again=partial(shared.champion_distance, inputs=inputs, classes=len(context.dataset.classes)),
        )
        return study.close({"conditional-gan": candidate}, lambda _: log_outcome(study))


def log_outcome(study: Study) -> list[Row]:
    """Log the table and the figures on the parent run, and return the rows."""
    from study import plots
    from study.results import wide_table
    from study.stages.generators import MEASURES, log_losses

    groups, names = groups_of(study.table()), study.context.dataset.classes
    study.parent.log_table("generators", wide_table("generator", groups, MEASURES))
    repeats = {f"repeat {repeat}": groups[WGAN].where(repeat=repeat) for repeat in study.context.repeats}
    log_losses(study, repeats, WGAN)
    accuracies = {name: groups[WGAN].values(f"label_accuracy/{label}") for label, name in enumerate(names)}
    means = {name: mean(values) for name, values in accuracies.items() if values}
    figure = plots.bars(means, "fraction", f"{WGAN}: label accuracy of each class, mean over repeats")
    study.parent.log_figure("label_accuracy", figure, "How often judge 3 sees the class that was asked for.")
    return rows(study.context, groups)


def groups_of(table: Table) -> dict[str, Table]:
    """Return the repeats of the WGAN and of each baseline, the rival first."""
    from study.stages.generators import MIXTURE, REAL, RECONSTRUCTIONS

    sources = {RIVAL: MIXTURE, REAL: REAL, RECONSTRUCTIONS: RECONSTRUCTIONS}
    return {WGAN: table.where(part="")} | {title: table.where(source=source) for title, source in sources.items()}


def rows(context: Context, groups: Mapping[str, Table]) -> list[Row]:
    """Return the GAN's figures beside each class's mixture, real images and reconstructions; the claims."""
    from study.results import ACCURACY_MARGIN, FD_MARGIN, compared
    from study.stages.generators import LAST_EPOCHS, REAL, RECONSTRUCTIONS, caution, measure_rows, weak_judges

    gan, beside = groups[WGAN], {title: trials for title, trials in groups.items() if title != WGAN}
    accuracy, fd, diversity = (f"judge3/{name}" for name in ("label_accuracy", "fd", "diversity"))
    said = f"Asked for a class, the conditional WGAN draws it in {gan.cell(accuracy, '{:.1%}')} of its images"
    found = f"{said} (judge 3; real images {beside[REAL].cell(accuracy, '{:.1%}')}){caution(context)}"
    shows = f"Its images show the class that was asked for more often than those of {RIVAL}"
    diverse = f"Its diversity within a class is at least {DIVERSE} of that of reconstructions"
    goal = DIVERSE * sum(beside[RECONSTRUCTIONS].values(diversity))  # of one trial
    steady = f"Training is stable: the FD of the last {LAST_EPOCHS} epochs varies by less than {STABLE:.0%}"
    stable, better = ("stable", "better") if context.has_reference else (None, None)
    claims: dict[str, dict[str, Any]] = {
        accuracy: {"text": shows, "margin": ACCURACY_MARGIN, "better": "more", "found": found},
        fd: {"text": f"It comes nearer to the test images than {RIVAL}", "within": FD_MARGIN},
        diversity: {"text": diverse, "goal": goal, "better": "more"},
        "val/fd_range": {"text": steady, "goal": STABLE, "reference": stable},
    }
    found_rows = [*weak_judges(context.inputs), *measure_rows(gan, beside, claims)]
    before = context.inputs["latent-gan"].metrics
    if fd in before:  # else its run was deleted for good
        steps, others = (f"{count:,.0f} steps" for count in (gan.values(STEPS)[0], before[STEPS]))
        without = {f"without labels, {others}": [before[fd]]}
        found_rows.append(compared(f"FD, judge 3, with labels, {steps}", gan.values(fd), without, reference=better))
    return found_rows


CONDITIONAL_GAN = Stage(
    name="conditional-gan",
    question="Can one choose which class the generator draws?",
    settings=ConditionalGanConfig,
    run=run,
    inputs=("judge", "second-judge", "third-judge", "autoencoder", "latent-gan"),
    outputs=("conditional-gan",),
    presets=CONDITIONAL_GAN_PRESETS,
    headline="best/samples",
    reads={"judge": ("epochs",)},
)
