"""What follows from an autoencoder's latents, measured cheaply: can they be drawn, and what do few labels make of them?

All on validation images, so that an autoencoder can be chosen by it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import ToneCurve
from study.data.dataset import Dataset, Split
from study.measures.fidelity import Moments, frechet_distance
from study.measures.two_sample import two_sample_accuracy
from study.training.classifier import draw_labelled
from study.training.few_labels import SVM_PENALTY
from study.training.loops import apply, eval_mode
from study.training.tone import fit_tone_curve

COMPONENTS, STEPS = 50, 5  # of the mixture; steps of its fit, bounded for the sake of large latent sizes
FITTED, TONED = 20_000, 5_000  # training images that the mixture and the tone curve are fitted to
DRAWN, TIMES = 5_000, 10  # images drawn from the mixture: so many, but no more than so many times the validation images
LABELS_PER_CLASS, DRAWS = 10, 5
FD, TOLD_APART, FEW_LABELS, COST = (
    *("mixture/fd", "mixture/two_sample_accuracy"),
    *("few_labels/accuracy", "consequences/cost"),
)
"""The measures' names in MLflow."""

Distance = Callable[[Tensor], float]
"""From images [N, C, H, W] to the validation images."""


def consequences(autoencoder: Autoencoder, data: Dataset, distance: Distance | None) -> dict[str, float]:
    """What follows from the latents of an autoencoder, by name.

    - `mixture/two_sample_accuracy`: how often a classifier tells samples of a Gaussian mixture on the training images'
      latents from validation images' latents; 0.5: it cannot. NaN with fewer than four validation images.
    - `mixture/fd`: the distance of such samples, decoded and sent through the tone curve, to the validation images.
    - `few_labels/accuracy`: that on validation images with 10 labels a class, the encoder frozen (see
      `few_label_accuracy`).
    - `consequences/cost`: both in one number, see `cost`.

    Args:
        distance: None, as it must be without classes: the first measure only.
    """
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:FITTED]
    fitted = data.train.images[order.to(data.train.images.device)]
    with eval_mode(autoencoder):
        train, val = (apply(autoencoder.encoder, images) for images in (fitted, data.val.images))
    drawn = draw_mixture(train, min(DRAWN, TIMES * len(val)), seed=0)
    count = min(len(drawn), len(val))
    found = {TOLD_APART: two_sample_accuracy(drawn[:count], val[:count]) if count > 3 else math.nan}
    if distance is None:
        return found
    tone = ToneCurve().to(drawn.device)
    tone.levels.copy_(fit_tone_curve(autoencoder, fitted[:TONED]))
    with eval_mode(autoencoder):
        found[FD] = distance(apply(lambda latents: tone(autoencoder.decoder(latents)), drawn))
        few = [(apply(autoencoder.encoder, part.images), part.labels) for part in few_labelled(data.train)]
    found[FEW_LABELS] = few_label_accuracy(few, val, data.val.labels)
    return found | {COST: cost(found[FD], found[FEW_LABELS], len(val))}


def cost(distance: float, accuracy: float, images: int) -> float:
    """The geometric mean of a Frechet distance and of the error rate with few labels: halving either counts the same.

    An error below half an image counts as half an image, so that two faultless autoencoders still differ.

    Args:
        images: By which the accuracy was measured.
    """
    return math.sqrt(distance * max(1 - accuracy, 0.5 / images))


def least_cost(costs: Mapping[tuple[int, str], Sequence[float]]) -> tuple[int, str]:
    """The latent size and architecture with the least mean cost; of equal ones the smaller size.

    Args:
        costs: `consequences/cost` of each of its trainings.
    """
    return min(costs, key=lambda each: (sum(costs[each]) / len(costs[each]), *each))


def draw_mixture(latents: Tensor, count: int, seed: int) -> Tensor:
    """`count` samples of 50 Gaussians with full covariances, fitted to latents [N, D] by k-means and five steps of EM.

    There are as many Gaussians as latents at most. The fit is in single precision: at a size of 100, half the time.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    wanted = min(COMPONENTS, len(latents))
    mixture = GaussianMixture(wanted, random_state=seed, max_iter=STEPS, tol=1e-2, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
        mixture.fit(latents.float().cpu().numpy())
    fitted = (mixture.weights_, mixture.means_, mixture.covariances_)
    shares, means, covariances = (torch.from_numpy(each).double() for each in fitted)
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(shares, count, replacement=True, generator=generator)
    points = torch.randn(count, latents.shape[1], generator=generator, dtype=torch.float64)
    for component, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        own = which == component
        points[own] = mean + points[own] @ torch.linalg.cholesky(covariance).T
    return points.to(latents)


def few_labelled(train: Split) -> list[Split]:
    """Five fixed draws of 10 images a class, or of as many as the smallest class has."""
    counts = torch.bincount(train.labels)
    most = min(LABELS_PER_CLASS, int(counts.min()))
    return [train.take(draw_labelled(train.labels, most, draw, classes=len(counts))) for draw in range(DRAWS)]


def few_label_accuracy(few: Sequence[tuple[Tensor, Tensor]], held_out: Tensor, labels: Tensor) -> float:
    """Mean accuracy on held-out latents of support vector machines (RBF kernel), each fitted to a few latents.

    Args:
        few: The latents [N, D] and the labels [N] of each draw.
        held_out: [M, D].
        labels: Of the held-out latents, [M].
    """
    from sklearn.svm import SVC

    found = []
    for points, known in few:
        with warnings.catch_warnings():
            # One label a class is all there is, and no regression problem.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            machine = SVC(C=SVM_PENALTY).fit(points.cpu().numpy(), known.cpu().numpy())
        found.append(machine.score(held_out.cpu().numpy(), labels.cpu().numpy()))
    return float(np.mean(found))


class JudgedDistance:
    """The Frechet distance of images to these, in the features of several judges: the geometric mean.

    Args:
        judges: Trained, in evaluation mode.
        images: [N, C, H, W], uint8.
    """

    def __init__(self, judges: Sequence[Judge], images: Tensor) -> None:
        self._judges = judges
        self._real = [self._moments(judge, images) for judge in judges]

    def __call__(self, images: Tensor) -> float:
        """Of images [M, C, H, W], uint8 or float in [0, 1]."""
        pairs = zip(self._judges, self._real, strict=True)
        distances = [frechet_distance(self._moments(judge, images), real) for judge, real in pairs]
        return math.prod(distances) ** (1 / len(distances))

    @staticmethod
    @torch.no_grad()
    def _moments(judge: Judge, images: Tensor) -> Moments:
        return Moments.of(apply(judge.features, images))
