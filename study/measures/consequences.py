"""What follows from an autoencoder's latents, on validation images: can they be sampled, and do few labels suffice?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import ToneCurve
from study.data.dataset import Dataset
from study.measures.fidelity import Moments, frechet_distance
from study.measures.latents import two_sample_accuracy
from study.training.autoencoder import fit_tone_curve
from study.training.classifier import draw_labelled
from study.training.few_labels import svm_accuracy
from study.training.loops import apply, eval_mode
from study.training.sampling import draw_mixture

COMPONENTS = 50  # of the mixture
FITTED, TONED = 20_000, 5_000  # training images that the mixture and the tone curve are fitted to
DRAWN, TIMES = 5_000, 10  # images drawn from the mixture: 5,000, but at most 10 times the validation images
LABELS_PER_CLASS, DRAWS = 10, 5
FD, TWO_SAMPLE, FEW_LABELS = "mixture/fd", "mixture/two_sample_accuracy", "few_labels/accuracy"

Distance = Callable[[Tensor], float]
"""Images [N, C, H, W] to their Frechet distance from the validation images."""


def consequences(autoencoder: Autoencoder, data: Dataset, distance: Distance | None) -> dict[str, float]:
    """Return what follows from the latents of an autoencoder, by name.

    - `mixture/two_sample_accuracy`: how often a classifier tells samples of a Gaussian mixture, fitted to the training
      latents, from validation latents; 0.5: it cannot. NaN with fewer than four validation images.
    - `mixture/fd`: the distance of such samples, decoded and sent through the tone curve, from the validation images.
    - `few_labels/accuracy`: the validation accuracy of support vector machines (RBF kernel) on the latents of 10 images
      a class, mean over five draws.

    Args:
        distance: See `judged_distance`; None without classes: only the first measure is computed.
    """
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:FITTED]
    fitted = data.train.images[order.to(data.train.images.device)]
    with eval_mode(autoencoder):
        train, val = (apply(autoencoder.encoder, images) for images in (fitted, data.val.images))
    drawn, _ = draw_mixture(train, val[:0], COMPONENTS, min(DRAWN, TIMES * len(val)), seed=0, quick=True)
    count = min(len(drawn), len(val))
    found = {TWO_SAMPLE: two_sample_accuracy(drawn[:count], val[:count]) if count > 3 else math.nan}
    if distance is None:
        return found
    tone = ToneCurve().to(drawn.device)
    tone.levels.copy_(fit_tone_curve(autoencoder, fitted[:TONED]))
    with eval_mode(autoencoder):
        found[FD] = distance(apply(lambda latents: tone(autoencoder.decoder(latents)), drawn))
    return found | {FEW_LABELS: few_label_accuracy(autoencoder, data, val)}


def few_label_accuracy(autoencoder: Autoencoder, data: Dataset, val: Tensor) -> float:
    """Return the mean accuracy on validation latents [N, D] of classifiers fitted to five draws of 10 images a class.

    With smaller classes each draw takes as many images a class as the smallest has.
    """
    counts, found = torch.bincount(data.train.labels), []
    for draw in range(DRAWS):
        most = min(LABELS_PER_CLASS, int(counts.min()))
        few = data.train.take(draw_labelled(data.train.labels, most, draw, classes=len(counts)))
        with eval_mode(autoencoder):
            points = apply(autoencoder.encoder, few.images)
        rows = (each.cpu().numpy() for each in (points, few.labels, val, data.val.labels))
        found.append(svm_accuracy(*rows))
    return sum(found) / len(found)


def judged_distance(judges: Sequence[Judge], images: Tensor) -> Distance:
    """Return the Frechet distance from these images [N, C, H, W], the geometric mean over the judges' features."""

    @torch.no_grad()
    def moments(judge: Judge, given: Tensor) -> Moments:
        return Moments.of(apply(judge.features, given))

    real = [moments(judge, images) for judge in judges]

    def distance(fake: Tensor) -> float:
        found = [frechet_distance(moments(judge, fake), each) for judge, each in zip(judges, real, strict=True)]
        return math.prod(found) ** (1 / len(found))

    return distance
