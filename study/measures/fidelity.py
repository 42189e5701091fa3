"""Measures of generated images in a judge's features and logits.

All take torch tensors and return floats; a measure that is undefined for so few images is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

ROWS = 250  # points at a time, whose distances to all others stay in the processor's cache
MODE_FRACTION = 0.1  # a class counts as a mode from this part of its expected fraction on
SURE = 0.9  # an image of less confidence counts as of no class


def frechet_distance(fake: Tensor, real: Tensor) -> float:
    """Squared Frechet distance of Gaussians fitted to features: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Dowson & Landau 1982, eq. 7; used on features by Heusel et al. 2017 (https://arxiv.org/abs/1706.08500). The
    trace of the root comes from the symmetric S_a^(1/2) S_b S_a^(1/2), which has the same eigenvalues. The mean over
    classes is Miyato & Koyama's of 2018, https://arxiv.org/abs/1802.05637, section 5.1.

    Args:
        fake: [N, D].
        real: [M, D]; a single image has the covariance zero.

    Raises:
        FloatingPointError: A feature is not finite.
    """
    both = fake.double(), real.double()
    mean_a, mean_b = (features.mean(0) for features in both)
    a, b = (torch.atleast_2d(torch.cov(features.T, correction=int(len(features) > 1))) for features in both)
    if not all(bool(torch.isfinite(m).all()) for m in (mean_a, a, mean_b, b)):
        raise FloatingPointError("the Frechet distance is undefined: features are not finite")
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return max(float((mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * cross), 0.0)


def neighbourhood_measures(real: Tensor, fake: Tensor, k: int, real_radius: Tensor) -> dict[str, float]:
    """Return `precision`, `recall`, `density` and `coverage` of fake features [M, D] against real features [N, D].

    Precision and recall: Kynkaanniemi et al. 2019 (https://arxiv.org/abs/1904.06991), eq. 1-2. Density and
    coverage: Naeem et al. 2020 (https://arxiv.org/abs/2002.09797), eq. 5-6.

    Args:
        k: Neighbours that span a neighbourhood; all others, where there are fewer.
        real_radius: `kth_neighbour(real, k)`, [N].
    """
    fake_radius = kth_neighbour(fake, k)  # [M]
    within = torch.zeros(len(fake), device=fake.device)  # real neighbourhoods around each fake point
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), float("inf"), device=real.device)
    for rows in torch.arange(len(fake), device=fake.device).split(ROWS):
        distance = torch.cdist(fake[rows], real)  # [ROWS, N]
        within[rows] = (distance <= real_radius).sum(1).float()
        recalled |= (distance <= fake_radius[rows, None]).any(0)
        nearest = torch.minimum(nearest, distance.amin(0))
    return {
        "precision": float((within > 0).float().mean()),
        "recall": float(recalled.float().mean()),
        "density": float(within.mean()) / max(1, min(k, len(real) - 1)),
        "coverage": float((nearest <= real_radius).float().mean()),
    }


def kth_neighbour(points: Tensor, k: int) -> Tensor:
    """Return the distance of each point [N, D] to its k-th nearest other point (the farthest, if N <= k), [N]."""
    found = min(k + 1, len(points))  # each point is its own nearest
    nearest = (torch.cdist(rows, points).topk(found, largest=False) for rows in points.split(ROWS))
    return torch.cat([each.values[:, -1] for each in nearest])


def nearest_distance(points: Tensor, others: Tensor) -> float:
    """Return the mean distance of points [N, D] to the nearest of others [M, D]."""
    return float(torch.cat([torch.cdist(rows, others).amin(1) for rows in points.split(ROWS)]).mean())


def class_measures(logits: Tensor, expected: Tensor) -> dict[str, float]:
    """Return from logits [N, classes]: `modes` (classes with at least MODE_FRACTION of their expected fraction),
    `class_kl` (KL of the class histogram to the expected one, in nats), and `low_confidence` (the fraction of images
    whose confidence is below SURE, which are of no class).

    Args:
        expected: Fraction of each class [classes] among real images, in double precision.
    """
    confidence, guesses = logits.softmax(1).max(1)
    fractions = torch.bincount(guesses, minlength=len(expected)).double() / len(guesses)
    # A class that is generated but not expected costs much, but not infinitely much.
    ratios = fractions / expected.clamp(min=1e-12)
    return {
        "modes": float((fractions >= MODE_FRACTION * expected).sum()),
        "class_kl": float((fractions * ratios.clamp(min=1e-12).log()).sum()),
        "low_confidence": float((confidence < SURE).float().mean()),
    }


def within_classes(
    measure: Callable[[Tensor, Tensor], float], fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor
) -> float:
    """Return the mean over the classes of a measure of fake features [n, D] and real features [m, D] of one class.

    Left out are classes of fewer than two images of either kind, and those whose measure is NaN; NaN if none is left.
    """
    labels = real_labels.unique().tolist()
    pairs = ((fake[fake_labels == label], real[real_labels == label]) for label in labels)
    found = [measure(ours, theirs) for ours, theirs in pairs if min(len(ours), len(theirs)) > 1]
    kept = [value for value in found if not math.isnan(value)]
    return ratio(sum(kept), len(kept))


def diversity(fake: Tensor, real: Tensor) -> float:
    """Return the mean pairwise distance of fake features over that of real ones; 0: all are the same."""
    return ratio(torch.pdist(fake).mean(), torch.pdist(real).mean())


def ratio(value: float | Tensor, unit: float | Tensor) -> float:
    """Return value / unit, NaN where the unit is 0."""
    return float(value / unit) if unit else math.nan
