"""The judges: classifiers of real images, in whose features and labels generated images are measured.

The first (convolutional) and the second (fully connected) judge select together. The third, a residual network with
another augmentation, only reports: its measures of a generator are not flattered by the selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from study.config import JUDGE_PRESETS, JudgeConfig
from study.engine.stage import Context, Outcome, Stage
from study.results import Row

if TYPE_CHECKING:
    from models.classifier import Judge
    from study.data.dataset import Dataset
    from study.engine.trial import Trial
    from tracking.registry import Direction, Version

KINDS = {"judge": "conv", "second-judge": "mlp", "third-judge": "residual"}
"""The registered kinds of model and their architectures, in the order judge1, judge2, judge3."""
OBJECTIVES: dict[str, Direction] = {"val/accuracy": "maximize"}
SIZES = {"width": 16, "feature_dim": 64}
BATCH_SIZE, LEARNING_RATE = 256, 1e-2
MISTAKES, MISTAKES_ROWS = 24, 3  # images in the picture of mistakes


def run(context: Context) -> Outcome:
    """Train the judges on the training images; the test set is only reported."""
    from study.engine.study import Candidate
    from tracking.errors import StoreError

    with context.open("Classifiers, trained on real images, that measure generated images.") as study:
        trials = [{"kind": kind} for kind in KINDS.values()]
        results = study.run(trials, partial(train, context=context), objectives=OBJECTIVES)
        found = {result.params["kind"]: result for result in results}
        failed = [kind for kind in KINDS.values() if kind not in found]
        if failed:
            raise StoreError(f"no trial of the {failed[0]} judge is complete: it failed, see its run")
        candidates = {
            name: Candidate(found[kind], "val/accuracy", "maximize", picture="mistakes") for name, kind in KINDS.items()
        }
        return study.close(candidates, rows)


def train(trial: Trial, context: Context) -> tuple[float]:
    """Train and log a judge. Return `val/accuracy`."""
    from torch.nn import functional as F

    from models.classifier import Judge
    from study.data.dataset import to_float
    from study.measures.latents import max_abs_pcc
    from study.training.classifier import ClassifierSettings, accuracy, jitter, shift, train_judge
    from study.training.loops import apply, eval_mode, fitting_batch

    data, kind, epochs = context.dataset, trial.params["kind"], context.settings.epochs
    settings = ClassifierSettings(epochs, fitting_batch(BATCH_SIZE, len(data.train)), LEARNING_RATE)
    trial.log_params({**SIZES, **vars(settings)})
    module = {"kind": kind, **SIZES, "image_shape": list(data.image_shape), "classes": len(data.classes)}
    judge = Judge(**module).to(context.device)
    augment = partial(jitter, degrees=10, pixels=1.5, scale=0.1) if kind == KINDS["third-judge"] else shift
    train_judge(judge, data.train, data.val, settings, trial.report, augment=augment)
    with eval_mode(judge):
        loss = F.cross_entropy(apply(judge, data.val.images), data.val.labels)
        features = apply(judge.features, data.val.images)
    measures = {"val/loss": float(loss), "val/accuracy": accuracy(judge, data.val)}
    measures |= {"test/accuracy": accuracy(judge, data.test), "latent/max_abs_pcc": max_abs_pcc(features)}
    trial.log(measures, epochs)
    log_mistakes(trial, judge, context.dataset)
    trial.log_model(judge, to_float(data.val.images[:2]), {"module": module})
    return (measures["val/accuracy"],)


def log_mistakes(trial: Trial, judge: Judge, data: Dataset) -> None:
    """Log validation images that the judge gets wrong, if there are any."""
    from study import plots
    from study.data.dataset import to_pixels
    from study.training.loops import apply, eval_mode

    with eval_mode(judge):
        guesses = apply(judge, data.val.images).argmax(1)
    wrong = (guesses != data.val.labels).nonzero().flatten()[:MISTAKES]
    if not len(wrong):
        return
    images, labels = to_pixels(data.val.images[wrong]), data.val.labels[wrong]
    trial.log_image("mistakes", plots.grid(images, 8), step=0)
    pairs = zip(labels.tolist(), guesses[wrong].tolist(), strict=True)
    captions = [f"{data.classes[label]} as {data.classes[guess]}" for label, guess in pairs]
    title, rows = "Validation images that the judge gets wrong", [""] * min(MISTAKES_ROWS, len(wrong))
    trial.log_figure("mistakes", plots.labelled_grid(images, rows, title, captions))


def rows(made: Mapping[str, Version]) -> list[Row]:
    """Return each judge's test accuracy, and a note if a judge is weak."""
    from study.stages.generators import weak_judges

    roles = dict(zip(KINDS, ("judge 1 (selects)", "judge 2 (selects)", "judge 3 (reports only)"), strict=True))
    accuracies = {kind: f"{version.metrics['test/accuracy']:.2%}" for kind, version in made.items()}
    found = [Row(f"test accuracy, {roles[kind]}", each, metric="test/accuracy") for kind, each in accuracies.items()]
    return found + weak_judges(made)


JUDGE = Stage(
    name="judge",
    question="Which class is it? Classifiers of real images, by which generated images are measured.",
    settings=JudgeConfig,
    run=run,
    outputs=tuple(KINDS),
    presets=JUDGE_PRESETS,
)
