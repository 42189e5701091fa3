"""The attention stage: can self-attention be a convolution and a fully connected layer, and does it learn to?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.config import ATTENTION_PRESETS, AttentionConfig
from study.engine.stage import Context, Outcome, Stage


def plan(config: AttentionConfig) -> str:
    free = f"; {config.free_trials} free ones of each of the first two" if config.free_trials else ""
    return (
        "the encoder as self-attention; layers that learn to imitate its first convolution, a fully connected layer"
        f" and a mirror, {config.epochs} epochs, {config.repeats} times each{free}"
    )


def run(context: Context) -> Outcome:
    """Turn the encoder into attention, measure what attention can be exactly, and train layers to become it.

    The copy of the autoencoder is registered; what is learned is searched by the error on validation images.
    """
    from functools import partial

    from study.engine.study import Candidate, open_study
    from study.stages.attention.exact import run_exact_trial
    from study.stages.attention.figures import log_figures
    from study.stages.attention.searches import EXACT, exact_search, learned_searches
    from study.stages.attention.table import rows
    from study.stages.attention.trial import LearnedTargets, run_learned_trial
    from tracking.runs import trial_metrics

    copied = context.inputs["autoencoder"]
    description = (
        "A copy of the autoencoder whose encoder has self-attention in place of every convolution and fully connected "
        "layer, with the same reconstructions; and attention that learns to imitate a convolution, a fully connected "
        "layer, and a mirror."
    )
    with open_study(context, f"{description} The copy is one of {copied.uri}.") as study:
        exact_trial = study.ahead(exact_search(), partial(run_exact_trial, context=context), EXACT)
        objective = partial(run_learned_trial, context=context, targets=LearnedTargets(context))
        searches = {
            part: study.ahead(search, partial(objective, part=part), part)
            for part, search in learned_searches(context).items()
        }
        (exact,) = exact_trial()
        learned = {part: results() for part, results in searches.items()}

        def finish(made: Mapping[str, object]) -> Sequence:
            measured = trial_metrics(study.parent)
            log_figures(study, exact, learned, measured)
            return rows(study, exact, learned, measured)

        return study.close({"attention-autoencoder": Candidate(exact, "val/loss")}, finish)


ATTENTION = Stage(
    name="attention",
    question="Can self-attention do what convolutions and fully connected layers do? "
    "Exactly, by weights that are given; and does it find them by training?",
    settings=AttentionConfig,
    run=run,
    inputs=("autoencoder", "judge"),
    optional_inputs=("judge",),
    outputs=("attention-autoencoder",),
    presets=ATTENTION_PRESETS,
    identity_excludes=("repeats", "free_trials"),
    needs_classes=False,
    headline="heads",
)
