"""Measures of generated images, in the judge's features and labels.

All take torch tensors and give floats; one that is undefined for so few images is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 250  # points at a time, whose distances to all others stay in the processor's cache
MODE_SHARE = 0.1  # a class counts as a mode if it has at least this part of its even share of the samples
SURE = 0.9  # confidence below which an image counts as of no class


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] of features, in double precision."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features [N, D]; a single image has the covariance zero."""
        features = features.double()
        covariance = torch.cov(features.T, correction=int(len(features) > 1))
        return cls(features.mean(0), torch.atleast_2d(covariance))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Dowson & Landau 1982, eq. 7; used on features by Heusel et al. 2017 (https://arxiv.org/abs/1706.08500). The
    trace of the root comes from the symmetric S_a^(1/2) S_b S_a^(1/2), which has the same eigenvalues.

    Raises:
        FloatingPointError: A moment is not finite.
    """
    if not all(bool(torch.isfinite(m).all()) for m in (a.mean, a.covariance, b.mean, b.covariance)):
        raise FloatingPointError("the Frechet distance is undefined: features are not finite")
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


def neighbourhood_measures(
    real: Tensor, fake: Tensor, k: int = 5, real_radius: Tensor | None = None
) -> dict[str, float]:
    """Precision, recall, density and coverage of fake features [M, D] against real features [N, D].

    Precision and recall: Kynkaanniemi et al. 2019 (https://arxiv.org/abs/1904.06991), eq. 1-2. Density and
    coverage: Naeem et al. 2020 (https://arxiv.org/abs/2002.09797), eq. 5-6.

    Args:
        k: Neighbours that span a neighbourhood; all others, where there are fewer.
        real_radius: `kth_neighbour(real, k)`, where it is known already.
    """
    if real_radius is None:
        real_radius = kth_neighbour(real, k)  # [N]
    fake_radius = kth_neighbour(fake, k)  # [M]
    within = torch.zeros(len(fake), device=fake.device)  # real neighbourhoods that each fake point is in
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), float("inf"), device=real.device)
    for rows in torch.arange(len(fake), device=fake.device).split(ROWS):
        distance = torch.cdist(fake[rows], real)  # [ROWS, N]
        within[rows] = (distance <= real_radius).sum(1).float()
        recalled |= (distance <= fake_radius[rows, None]).any(0)
        nearest = torch.minimum(nearest, distance.amin(0))
    return {
        "sample/precision": float((within > 0).float().mean()),
        "sample/recall": float(recalled.float().mean()),
        "sample/density": float(within.mean()) / max(1, min(k, len(real) - 1)),
        "sample/coverage": float((nearest <= real_radius).float().mean()),
    }


def kth_neighbour(points: Tensor, k: int) -> Tensor:
    """Distance of each point [N, D] to its k-th nearest other point, [N]; to its farthest, where there are fewer."""
    found = min(k + 1, len(points))  # itself among them
    nearest = [torch.cdist(rows, points).topk(found, dim=1, largest=False).values[:, -1] for rows in points.split(ROWS)]
    return torch.cat(nearest)


def class_measures(logits: Tensor, expected: Tensor | None = None) -> dict[str, float]:
    """From the judge's logits [N, classes]: modes, KL of the class histogram to the expected one (nats), mean
    confidence, and the share of images of low confidence, which are clearly of no class.

    A class counts as a mode if at least 0.1 / classes of the images are of it.

    Args:
        expected: Share of each class [classes] among real images; None: all alike.
    """
    classes = logits.shape[1]
    confidence, guesses = logits.softmax(1).max(1)
    shares = torch.bincount(guesses, minlength=classes).double() / len(guesses)
    # A class that is generated but not expected costs much, but not infinitely much.
    usual = torch.full_like(shares, 1 / classes) if expected is None else expected.to(shares)
    ratios = shares / usual.clamp(min=1e-12)
    return {
        "sample/modes": float((shares >= MODE_SHARE * usual).sum()),
        "sample/class_kl": float((shares * ratios.clamp(min=1e-12).log()).sum()),
        "sample/confidence": float(confidence.mean()),
        "sample/low_confidence": float((confidence < SURE).float().mean()),
    }


def nearest_distance(points: Tensor, others: Tensor) -> float:
    """Mean distance of points [N, D] to the nearest of others [M, D]."""
    return float(torch.cat([torch.cdist(rows, others).amin(1) for rows in points.split(ROWS)]).mean())


def confusion(guesses: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Shares [classes, classes]: of the images of each label (row), those taken for each class (column); NaN in the
    row of a label without images.
    """
    counts = torch.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes).double()
    return counts / counts.sum(1, keepdim=True)


def intra_class_distance(fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor, classes: int) -> float:
    """Frechet distance of fake [N, D] to real features [M, D] within each class, averaged over the classes that both
    have twice (Miyato & Koyama 2018, https://arxiv.org/abs/1802.05637, section 5.1); NaN if none.
    """
    distances = []
    for each in range(classes):
        ours, theirs = fake[fake_labels == each], real[real_labels == each]
        if min(len(ours), len(theirs)) > 1:
            distances.append(frechet_distance(Moments.of(ours), Moments.of(theirs)))
    return sum(distances) / len(distances) if distances else float("nan")


def diversity(fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor, classes: int) -> float:
    """Mean pairwise feature distance within each class over that of real images, averaged over the classes.

    1: samples of a class differ as much as real ones; 0: they are all the same. NaN if no class has two samples of
    both kinds, the real ones different.
    """
    ratios = []
    for each in range(classes):
        ours, theirs = fake[fake_labels == each], real[real_labels == each]
        if min(len(ours), len(theirs)) > 1:
            spread = torch.pdist(theirs).mean()
            if spread > 0:
                ratios.append(float(torch.pdist(ours).mean() / spread))
    return sum(ratios) / len(ratios) if ratios else float("nan")
