"""The conditional stage: the best WGAN's settings, with the digit as a one-hot label beside every input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.gan_trial import LAST_EPOCHS, LatentData, run_gan_trial, sitting_distance
from study.metrics import CLASSES
from study.sampling import Panel
from study.search import Result, Search, Trial, integer
from study.stage import Context, Outcome, Row, Study, settings_of, spread, with_spread
from study.training import GanSettings
from tracking import figures
from tracking.runs import metric_history, trial_metrics


def run(context: Context) -> Outcome:
    """Train the conditional WGAN once a seed; the one with the least Frechet distance is registered."""
    config = context.config.conditional_gan
    inputs = {kind: context.input(kind) for kind in ("judge", "second-judge", "autoencoder", "latent-gan")}
    description = (
        "The best latent WGAN's settings, with the digit as a one-hot label concatenated to the inputs of generator "
        "and critic. The noise decides the style, the label the digit."
    )
    settings = GanSettings(**inputs["latent-gan"].config()["settings"])
    module = inputs["autoencoder"].config()["module"]
    data = LatentData.encode(context, context.rebuild(inputs["autoencoder"], Autoencoder), module)
    panel = Panel(
        context.rebuild(inputs["judge"], Judge), context.rebuild(inputs["second-judge"], Judge), context.dataset
    )

    def objective(trial: Trial) -> tuple[float]:
        torch.manual_seed(context.config.seed_for(trial.params["repeat"]))
        return (run_gan_trial(trial, study, data, panel, settings, config.epochs, config.evaluate_every, True),)

    search = Search(
        objectives={"val/fd": "minimize"},
        space={"repeat": integer(0, 999)},
        fixed=[{"repeat": repeat} for repeat in range(config.repeats)],
    )
    with context.study(
        "conditional-gan", description, settings_of(config, "repeats") | {"kept": "best epoch"}, inputs
    ) as study:
        results = study.search(search, objective)
        best = min(results, key=lambda result: result.values[0])

        def end() -> Outcome:
            sitting_value = sitting_distance(context, "conditional-gan", inputs["judge"], panel, conditional=True)
            champion = study.promote(
                best, "conditional-gan", "val/fd", "minimize", description, sitting_value=sitting_value
            ).champion
            measured = trial_metrics(study.parent)
            _log_figures(study, results, measured)
            return Outcome("conditional-gan", champion, _rows(results, measured))

        return study.close(end)


def _log_figures(study: Study, results: Sequence[Result], measured: Mapping[str, Mapping[str, float]]) -> None:
    seeds = {f"seed {result.number}": result.run_id for result in results}
    curves = {
        metric: {name: metric_history(run_id, metric) for name, run_id in seeds.items()}
        for metric in ("critic/loss", "generator/loss", "val/fd")
    }
    caption = (
        "Losses of critic and generator, and the distance of the samples to the validation images; a curve a seed."
    )
    study.parent.log_figure("loss_curves", figures.panels(curves, "epoch", "Conditional WGAN"), caption)
    accuracies = [
        spread([measured[result.run_id][f"label_accuracy/{digit}"] for result in results]) for digit in range(CLASSES)
    ]
    middle, width = zip(*accuracies, strict=True)
    digits = list(range(CLASSES))
    series = {"samples that the judge takes for the told digit": (digits, middle, width)}
    title = "Conditional WGAN: label accuracy a digit, mean and standard deviation over seeds"
    figure = figures.curves(series, "digit", "share", title, references={"goal 0.97": 0.97}, markers=True)
    study.parent.log_figure("label_accuracy", figure, "How often the judge sees the digit that was asked for.")


def _rows(results: Sequence[Result], measured: Mapping[str, Mapping[str, float]]) -> tuple[Row, ...]:
    def ours(metric: str, form: str) -> str:
        return with_spread([measured[result.run_id][metric] for result in results], form)

    return (
        Row("sample/label_accuracy", ours("sample/label_accuracy", "{:.1%}")),
        Row("the same, worst digit", ours("sample/label_accuracy_worst", "{:.1%}")),
        Row("the same, second judge", ours("second/label_accuracy", "{:.1%}")),
        Row("sample/fd", ours("sample/fd", "{:.2f}")),
        Row("sample/intra_fd, within a digit", ours("sample/intra_fd", "{:.2f}")),
        Row("sample/diversity", ours("sample/diversity", "{:.2f}"), None, "real digits 1"),
        Row("classification accuracy score", ours("sample/classification_accuracy_score", "{:.1%}")),
        Row(
            f"range of val/fd over the last {LAST_EPOCHS} epochs", ours("val/fd_last_epochs_range", "{:.1%}"), "stable"
        ),
    )
