"""The attention stage: can self-attention be a convolution and a fully connected layer, and does it learn to?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    from study.results import Row
    from study.stages.attention.trial import (
        HEADS,
        OBJECTIVE,
        copy_encoder,
        first_convolution,
        learn_convolution,
        log_outcome,
    )

    description = (
        "A copy of the autoencoder whose encoder has self-attention in place of every convolution and fully connected "
        "layer, with the same reconstructions; and attention that learns to imitate the encoder's first convolution. "
        f"The copy is one of {context.inputs['autoencoder'].uri}."
    )
    trials = [{"heads": heads, "repeat": repeat} for repeat in range(context.settings.repeats) for heads in HEADS]
    conv = first_convolution(context.module("autoencoder", Autoencoder))
    with context.open(description) as study:
        copy = study.enqueue(
            [{"alpha": ALPHA}], partial(copy_encoder, context=context), "exact", objectives={"val/loss": "minimize"}
        )
        learn = partial(learn_convolution, context=context, conv=conv)
        learned = study.enqueue(trials, learn, "learned", objectives={OBJECTIVE: "minimize"})
        (exact,) = copy()
        learned()

        def finish(_: Mapping[str, object]) -> Sequence[Row]:
            return log_outcome(study.parent, context, conv, study.table())

        return study.close({"attention-autoencoder": Candidate(exact, "val/loss")}, finish)


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
