"""The judges: two classifiers of real images, in whose features and labels generated images are measured.

The first, convolutional, decides; the second, fully connected, shows that nobody has fitted the first.
"""

from __future__ import annotations

from torch.nn import functional as F

from models.classifier import Judge
from study import metrics
from study.data import to_float, to_pixels
from study.search import Search, Trial, choice
from study.stage import Context, Outcome, Row, settings_of
from study.training import accuracy, apply, eval_mode, train_judge
from tracking import figures
from tracking.store import StoreError

SIZES = {"width": 16, "feature_dim": 64}
KINDS = {"judge": "conv", "second-judge": "mlp"}
MISTAKES = 24


def run(context: Context) -> Outcome:
    """Train the judges on the training images; the test set is only ever reported."""
    config, data = context.config.judge, context.dataset
    description = "Digit classifiers, trained on real images, that measure generated ones."

    def objective(trial: Trial) -> tuple[float, ...]:
        trial.run.log_params(settings_of(config) | SIZES)
        module = trial.params | SIZES
        judge = Judge(**module).to(context.device)
        train_judge(judge, data.train, data.val, config.epochs, config.batch_size, config.learning_rate, trial.report)
        with eval_mode(judge):
            logits = apply(judge, data.val.images)
            features = apply(judge.features, data.val.images)
        guesses = logits.argmax(1)
        wrong = (guesses != data.val.labels).nonzero().flatten()[:MISTAKES]
        val_accuracy = accuracy(judge, data.val)
        trial.run.log(
            {
                "val/loss": float(F.cross_entropy(logits, data.val.labels)),
                "val/accuracy": val_accuracy,
                "test/accuracy": accuracy(judge, data.test),
                "latent/max_abs_pcc": metrics.max_abs_pcc(features),
            },
            step=config.epochs,
        )
        if len(wrong):
            images = to_pixels(data.val.images[wrong])
            captions = [f"{data.val.labels[i]} as {guesses[i]}" for i in wrong]
            figure = figures.labelled_grid(images, [""] * 3, "Validation images that the judge gets wrong", captions)
            trial.run.log_figure("mistakes", figure)
            trial.run.log_image("mistakes", figures.grid(images, 8), step=0)
        trial.run.log_figure(
            "loss",
            figures.curves(
                {"training": trial.history["train/loss"]}, "epoch", "cross entropy", "Judge, training images"
            ),
        )
        study.log_model(judge, to_float(data.val.images[:2]), {"module": module})
        return (val_accuracy,)

    space = {"kind": choice(*KINDS.values())}
    search = Search({"val/accuracy": "maximize"}, space, fixed=[{"kind": kind} for kind in KINDS.values()])
    with context.study("judge", description, settings_of(config) | SIZES | {"kinds": KINDS}, {}) as study:
        results = {result.params["kind"]: result for result in study.search(search, objective)}
        for kind in KINDS.values():
            if kind not in results:
                raise StoreError(f"no trial of the {kind} judge is complete: it failed, see its run")

        def end() -> Outcome:
            first, second = (
                study.promote(results[kind], name, "val/accuracy", "maximize", description).champion
                for name, kind in KINDS.items()
            )
            rows = (
                Row("test accuracy", f"{first.metrics['test/accuracy']:.2%}"),
                Row(
                    f"test accuracy, second judge ({second.name} v{second.number})",
                    f"{second.metrics['test/accuracy']:.2%}",
                ),
            )
            return Outcome("judge", first, rows)

        return study.close(end)
