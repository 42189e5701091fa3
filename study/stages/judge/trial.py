"""One trial of the judge stage: train a classifier, measure it, keep it."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional as F

from models.classifier import Judge, JudgeKind
from study import plots
from study.config import JudgeConfig
from study.data.dataset import Dataset, to_float, to_pixels
from study.engine.search import Trial
from study.measures.latents import max_abs_pcc
from study.training.classifier import ClassifierSettings, accuracy, jitter, shift, train_judge
from study.training.loops import apply, eval_mode

SIZES = {"width": 16, "feature_dim": 64}
KINDS: dict[str, JudgeKind] = {"judge": "conv", "second-judge": "mlp", "third-judge": "residual"}
"""The registered kinds of model, and what each is built of; in the order of `study.measures.judges.PARTS`."""
THIRD_JITTER = 10, 1.5, 0.1  # degrees, pixels, share of the size: the third differs in its training too
MISTAKES, MISTAKES_ROWS = 24, 3


def gently_jittered(images: Tensor) -> Tensor:
    return jitter(images, *THIRD_JITTER)


def run_judge_trial(trial: Trial, *, config: JudgeConfig, data: Dataset, device: torch.device) -> tuple[float]:
    """Train and log a classifier. Returns `val/accuracy`."""
    trial.run.log_params(asdict(config) | SIZES)
    module = {**trial.params, **SIZES, "image_shape": list(data.image_shape), "classes": len(data.classes)}
    judge = Judge(**module).to(device)
    settings = ClassifierSettings(config.epochs, config.batch_size, config.learning_rate)
    augment = gently_jittered if trial.params["kind"] == KINDS["third-judge"] else shift
    train_judge(judge, data.train, data.val, settings, trial.report, augment=augment)
    with eval_mode(judge):
        logits = apply(judge, data.val.images)
        features = apply(judge.features, data.val.images)
    val_accuracy = accuracy(judge, data.val)
    trial.run.log(
        {
            "val/loss": float(F.cross_entropy(logits, data.val.labels)),
            "val/accuracy": val_accuracy,
            "test/accuracy": accuracy(judge, data.test),
            "latent/max_abs_pcc": max_abs_pcc(features),
        },
        step=config.epochs,
    )
    guesses = logits.argmax(1)
    wrong = (guesses != data.val.labels).nonzero().flatten()[:MISTAKES]
    if len(wrong):
        images = to_pixels(data.val.images[wrong])
        names = data.classes
        captions = [f"{names[int(data.val.labels[i])]} as {names[int(guesses[i])]}" for i in wrong]
        title = "Validation images that the judge gets wrong"
        rows = [""] * min(MISTAKES_ROWS, len(wrong))
        trial.run.log_figure("mistakes", plots.labelled_grid(images, rows, title, captions))
        trial.run.log_image("mistakes", plots.grid(images, 8), step=0)
    else:
        trial.run.log_image("samples", plots.grid(to_pixels(data.val.images[:MISTAKES]), 8), step=0)
    losses = {"training": trial.history["train/loss"]}
    trial.run.log_figure("loss", plots.curves(losses, "epoch", "cross entropy", "Judge, training images"))
    trial.log_model(judge, to_float(data.val.images[:2]), {"module": module})
    return (val_accuracy,)
