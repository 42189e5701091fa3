"""The attention stage: can self-attention be a convolution and a fully connected layer, and does it learn to?"""

from __future__ import annotations

from study.config import ATTENTION_PRESETS, AttentionConfig
from study.engine.stage import Context, Outcome, Stage


def run(context: Context) -> Outcome:
    """Turn the encoder into attention, measure the exact forms, and train attention to be a convolution.

    The copy of the autoencoder is registered.
    """
    from functools import partial

    from models.attention import ALPHA
    from models.autoencoder import Autoencoder
    from study.engine.study import Candidate
    from study.stages.attention import trial

    description = (
        "A copy of the autoencoder whose encoder has self-attention in place of every convolution and fully connected "
        "layer, with the same reconstructions; and attention that learns to imitate the encoder's first convolution. "
        f"The copy is one of {context.inputs['autoencoder'].uri}."
    )
    trials = [{"heads": heads, "repeat": repeat} for repeat in range(context.settings.repeats) for heads in trial.HEADS]
    conv = trial.first_convolution(context.module("autoencoder", Autoencoder))
    with context.open(description) as study:
        copy_encoder = partial(trial.copy_encoder, context=context)
        copy = study.enqueue([{"alpha": ALPHA}], copy_encoder, "exact", objectives={"val/loss": "minimize"})
        learn = partial(trial.learn_convolution, context=context, conv=conv)
        learned = study.enqueue(trials, learn, "learned", objectives={trial.OBJECTIVE: "minimize"})
        (exact,) = copy()
        learned()
        candidate = Candidate(exact, "val/loss")
        return study.close(
            {"attention-autoencoder": candidate},
            lambda _: trial.log_outcome(study.parent, context, conv, study.table()),
        )


ATTENTION = Stage(
    name="attention",
    question="Can self-attention do what convolutions and fully connected layers do? "
    "Exactly, by weights that are given; and does it find a convolution by training?",
    settings=AttentionConfig,
    run=run,
    inputs=("autoencoder", "judge"),
    optional_inputs=("judge",),
    outputs=("attention-autoencoder",),
    presets=ATTENTION_PRESETS,
    identity_excludes=("repeats",),
    needs_classes=False,
    headline="heads",
)
