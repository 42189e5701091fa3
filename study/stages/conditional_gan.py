"""The best latent WGAN again, with labels: can one choose which class the generator draws?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
DIVERSE = 0.95  # the fraction of the reconstructions' diversity that counts as enough
STABLE = 0.1  # the range of the last epochs' distances, as a fraction of the least, that counts as stable


def run(context: Context) -> Outcome:
    """Train the conditional WGAN and the baselines of each class; the WGAN with the least `val/fd` competes."""
    from study.engine.study import Candidate
    from study.stages.generators import GanInputs, baseline_trial, champion_distance, gan_trial
    from study.training.classifier import ClassifierSettings
    from study.training.gan import GanSettings

    settings, inputs = context.settings, GanInputs(context)
    gan = GanSettings(**context.inputs["latent-gan"].config()["settings"])
    # The classifier of the classification accuracy score takes half of the judges' epochs, rounded up.
    score = ClassifierSettings((context.others["judge"]["epochs"] + 1) // 2, SCORE_BATCH, SCORE_RATE)
    objective = partial(
        gan_trial, inputs=inputs, settings=gan, epochs=settings.epochs, evaluate_every=EVALUATE_EVERY, score=score
    )
    with context.open(DESCRIPTION) as study:
        baselines = baseline_list(context.repeats)
        measured = study.enqueue(baselines, partial(baseline_trial, inputs=inputs, score=score), "baselines")
        results = study.run([{"repeat": repeat} for repeat in context.repeats], objective)
        measured()
        candidate = Candidate(
            min(results, key=lambda result: result.values[0]),
            "val/fd",
            picture="samples",
            measure_again=partial(champion_distance, inputs=inputs, classes=len(context.dataset.classes)),
        )
        return study.close({"conditional-gan": candidate}, lambda _: log_outcome(study))


def baseline_list(repeats: Sequence[int]) -> list[Params]:
    """Return each class's own images, reconstructions, and mixtures, drawn as often as the GAN is trained."""
    from study.stages.generators import MIXTURE, REAL, RECONSTRUCTIONS

    mixtures = [{"source": MIXTURE, "components": COMPONENTS, "repeat": repeat} for repeat in repeats]
    return [{"source": REAL}, {"source": RECONSTRUCTIONS}, *mixtures]


def log_outcome(study: Study) -> list[Row]:
    """Log the figures on the parent run, and return the rows."""
    from statistics import mean

    from study import plots
    from study.stages.generators import log_losses

    table = study.table()
    trials = table.where(part="")
    repeats = {f"repeat {repeat}": trials.where(repeat=repeat) for repeat in study.context.repeats}
    log_losses(study, repeats, "Conditional WGAN")
    names = study.context.dataset.classes
    accuracies = {name: trials.values(f"label_accuracy/{label}") for label, name in enumerate(names)}
    means = {name: mean(values) for name, values in accuracies.items() if values}
    figure = plots.bars(means, "fraction", "Conditional WGAN: label accuracy of each class, mean over repeats")
    study.parent.log_figure("label_accuracy", figure, "How often judge 3 sees the class that was asked for.")
    return rows(study.context, table)


def rows(context: Context, table: Table) -> list[Row]:
    """Return the GAN's figures beside each class's mixture, real images and reconstructions; the claims."""
    from study.results import Row, compared
    from study.stages.generators import LAST_EPOCHS, MIXTURE, REAL, RECONSTRUCTIONS, caution, weak_judges

    rival, gan = f"{COMPONENTS} Gaussians a class", table.where(part="")
    sources = {rival: MIXTURE, REAL: REAL, RECONSTRUCTIONS: RECONSTRUCTIONS}
    beside = {title: table.where(source=source) for title, source in sources.items()}
    accuracy, fd, diversity, unsure = (
        f"judge3/{name}" for name in ("label_accuracy", "fd", "diversity", "low_confidence")
    )

    def ours(figure: str, metric: str, form: str = "{:.3f}", text: str = "", **rule: Any) -> Row:
        others = {title: trials.values(metric) for title, trials in beside.items()}
        return compared(figure, gan.values(metric), others, form, text=text, metric=(text and metric) or None, **rule)

    said = f"Asked for a class, the conditional WGAN draws it in {gan.cell(accuracy, '{:.1%}')} of its images"
    found = f"{said} (judge 3; real images {beside[REAL].cell(accuracy, '{:.1%}')}){caution(context)}"
    shows = f"Its images show the class that was asked for more often than those of {rival}"
    diverse = f"Its diversity within a class is at least {DIVERSE} of that of reconstructions"
    goal = DIVERSE * sum(beside[RECONSTRUCTIONS].values(diversity))  # of one trial
    steady = f"Training is stable: the FD of the last {LAST_EPOCHS} epochs varies by less than {STABLE:.0%}"
    more: Any = {"better": "more"}
    online = "val/fd_online_range"
    stable, better = ("stable", "better") if context.has_reference else (None, None)
    found_rows = [
        *weak_judges(context.inputs),
        ours("label accuracy, judge 3", accuracy, "{:.1%}", shows, found=found, **more),
        ours("FD, judge 3", fd, text=f"It comes nearer to the test images than {rival}"),
        ours("diversity within a class, judge 3", diversity, text=diverse, goal=goal, **more),
        ours("range of val/fd, last epochs", "val/fd_range", "{:.1%}", steady, goal=STABLE, reference=stable),
        *([ours("the same of the online generator", online, "{:.1%}")] if gan.values(online) else []),
        ours("label accuracy of the worst class, judge 3", f"{accuracy}_worst", "{:.1%}"),
        ours("images of no class, judge 3", unsure, "{:.1%}"),
        *(ours(f"FD, judge {number} (selects)", f"judge{number}/fd") for number in (1, 2)),
        ours("FD within a class, judge 3", "judge3/intra_fd"),
        ours("recall, judge 3", "judge3/recall"),
        ours("classification accuracy score", "classification_accuracy_score", "{:.1%}"),
        ours("latents: two-sample accuracy (50% is perfect)", "latent/two_sample_accuracy", "{:.1%}"),
        ours("latents: distance to training latents (test latents 1)", "latent/nearest"),
    ]
    before = context.inputs["latent-gan"].metrics
    if fd in before:  # else its run was deleted for good
        rival, steps = f"without labels {before[fd]:.3f}", (gan.values("generator/steps")[0], before["generator/steps"])
        cells = [
            f"{cell} ({count:,.0f} generator steps)" for cell, count in zip((gan.cell(fd), rival), steps, strict=True)
        ]
        found_rows.append(Row("FD, judge 3, with and without labels", cells[0], better, cells[1]))
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
