"""The conditional stage: the best WGAN's settings, with the digit as a one-hot label beside every input."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.gan_trial import LatentData, run_gan_trial, sitting_distance
from study.sampling import Examiner
from study.search import Result, Search, Trial, integer
from study.stage import Context, Outcome, Row, settings_of, with_spread
from study.training import GanSettings
from tracking.runs import trial_metrics


def run(context: Context) -> Outcome:
    """Train the conditional WGAN once a seed; the one with the least Frechet distance is registered."""
    config = context.config.conditional_gan
    inputs = {kind: context.input(kind) for kind in ("judge", "autoencoder", "latent-gan")}
    description = (
        "The best latent WGAN's settings, with the digit as a one-hot label concatenated to the inputs of generator "
        "and critic. The noise decides the style, the label the digit."
    )
    settings = GanSettings(**inputs["latent-gan"].config()["settings"])
    module = inputs["autoencoder"].config()["module"]
    data = LatentData.encode(context, context.rebuild(inputs["autoencoder"], Autoencoder), module)
    examiner = Examiner(context.rebuild(inputs["judge"], Judge), context.dataset)

    def objective(trial: Trial) -> tuple[float]:
        torch.manual_seed(context.config.seed + trial.params["repeat"])
        return (run_gan_trial(trial, study, data, examiner, settings, config.epochs, config.evaluate_every, True),)

    search = Search(
        objectives={"val/fd": "minimize"},
        space={"repeat": integer(0, config.repeats - 1)},
        fixed=[{"repeat": repeat} for repeat in range(config.repeats)],
    )
    with context.study("conditional-gan", description, settings_of(config, "repeats"), inputs) as study:
        results = study.search(search, objective)
        best = min(results, key=lambda result: result.values[0])

        def end() -> Outcome:
            sitting_value = sitting_distance(context, "conditional-gan", inputs["judge"], examiner, conditional=True)
            champion = study.promote(
                best, "conditional-gan", "val/fd", "minimize", description, sitting_value=sitting_value
            ).champion
            return Outcome("conditional-gan", champion, _rows(results, trial_metrics(study.parent)))

        return study.close(end)


def _rows(results: Sequence[Result], measured: dict[str, dict[str, float]]) -> tuple[Row, ...]:
    def ours(metric: str, form: str) -> str:
        return with_spread([measured[result.run_id][metric] for result in results], form)

    return (
        Row("sample/label_accuracy", ours("sample/label_accuracy", "{:.1%}")),
        Row("sample/fd", ours("sample/fd", "{:.1f}")),
        Row("sample/diversity (real digits: 1)", ours("sample/diversity", "{:.2f}")),
    )
