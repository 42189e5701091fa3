"""Measures: of latents (correlation, effective rank) and of generated images (in the judge's features).

All take and give torch tensors; figures come back as floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES = 10
ROWS = 250  # points at a time, whose distances to all others stay in the processor's cache
MODE_SHARE = 0.01  # a digit counts as a mode if it is at least this share of the samples
SURE = 0.9  # confidence below which an image counts as no digit


# --- Latents -------------------------------------------------------------------------------------------


def pcc_matrix(latents: Tensor) -> Tensor:
    """Pearson correlation coefficients [D, D] of the columns of latents [N, D].

    Raises:
        FloatingPointError: A column is constant or not finite, so that its correlation is undefined.
    """
    centred = (latents - latents.mean(0)).double()
    norms = centred.norm(dim=0)
    bad = (~(norms > 1e-9 * len(latents) ** 0.5)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"PCC is undefined: latent coordinates {bad} are constant or not finite")
    unit = centred / norms
    return (unit.T @ unit).clamp(-1, 1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """The entries of a square matrix [D, D] off its diagonal, [D * (D - 1)]."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def pcc_noise_floor(count: int, dims: int, draws: int = 5, seed: int = 0) -> float:
    """Mean of max |PCC| of `count` samples of `dims` independent N(0, 1) columns: what sampling alone gives."""
    generator = torch.Generator().manual_seed(seed)
    samples = (torch.randn(count, dims, generator=generator) for _ in range(draws))
    return sum(float(off_diagonal(pcc_matrix(sample)).abs().max()) for sample in samples) / draws


def principal_axes(latents: Tensor) -> Tensor:
    """Orthonormal columns [D, D]: the eigenvectors of the covariance of latents [N, D]."""
    return torch.linalg.eigh(torch.atleast_2d(torch.cov(latents.double().T))).eigenvectors


def effective_rank(latents: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred latents [N, D]; 1 to D.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", eq. 4.
    """
    singular = torch.linalg.svdvals((latents - latents.mean(0)).double())
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def max_abs_pcc(latents: Tensor) -> float:
    """The largest absolute correlation of two columns of latents [N, D]."""
    return float(off_diagonal(pcc_matrix(latents)).abs().max())


def latent_measures(latents: Tensor, rotated: Tensor) -> dict[str, float]:
    """The correlation measures of held-out latents [N, D], by their names in MLflow.

    Args:
        latents: As the encoder gives them.
        rotated: The same in the principal axes of the training latents.
    """
    return {
        "latent/max_abs_pcc": max_abs_pcc(latents),
        "latent/max_abs_pcc_rotated": max_abs_pcc(rotated),
        "latent/mean_abs_pcc": float(off_diagonal(pcc_matrix(latents)).abs().mean()),
        "latent/pcc_noise_floor": pcc_noise_floor(*latents.shape),
        "latent/effective_rank": effective_rank(latents),
    }


# --- Generated images, in a classifier's features ------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] of features, in double precision."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        features = features.double()
        return cls(features.mean(0), torch.cov(features.T))


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
        nearest = torch.minimum(nearest, distance.min(0).values)
    return {
        "sample/precision": float((within > 0).float().mean()),
        "sample/recall": float(recalled.float().mean()),
        "sample/density": float(within.mean()) / k,
        "sample/coverage": float((nearest <= real_radius).float().mean()),
    }


def kth_neighbour(points: Tensor, k: int) -> Tensor:
    """Distance of each point [N, D] to its k-th nearest other point, [N]."""
    found = min(k + 1, len(points))  # itself among them
    nearest = [torch.cdist(rows, points).topk(found, dim=1, largest=False).values[:, -1] for rows in points.split(ROWS)]
    return torch.cat(nearest)


def class_measures(logits: Tensor) -> dict[str, float]:
    """From the judge's logits [N, 10]: modes, KL of the class histogram to uniform (nats), mean confidence, and the
    share of images of low confidence, which are no clear digit.
    """
    confidence, digits = logits.softmax(1).max(1)
    shares = torch.bincount(digits, minlength=CLASSES).double() / len(digits)
    return {
        "sample/modes": float((shares >= MODE_SHARE).sum()),
        "sample/class_kl": float((shares * (shares * CLASSES).clamp(min=1e-12).log()).sum()),
        "sample/confidence": float(confidence.mean()),
        "sample/low_confidence": float((confidence < SURE).float().mean()),
    }


def nearest_distance(points: Tensor, others: Tensor) -> float:
    """Mean distance of points [N, D] to the nearest of others [M, D]."""
    return float(torch.cat([torch.cdist(rows, others).min(1).values for rows in points.split(ROWS)]).mean())


def confusion(guesses: Tensor, labels: Tensor) -> Tensor:
    """Shares [10, 10]: of the images of each label (row), those taken for each digit (column); NaN without any."""
    counts = torch.bincount(labels * CLASSES + guesses, minlength=CLASSES**2).reshape(CLASSES, CLASSES).double()
    return counts / counts.sum(1, keepdim=True)


def intra_class_distance(fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Frechet distance of fake [N, D] to real features [M, D] within each digit, averaged over the digits that both
    have twice (Miyato & Koyama 2018, https://arxiv.org/abs/1802.05637, section 5.1); NaN if none.
    """
    distances = []
    for digit in range(CLASSES):
        ours, theirs = fake[fake_labels == digit], real[real_labels == digit]
        if min(len(ours), len(theirs)) > 1:
            distances.append(frechet_distance(Moments.of(ours), Moments.of(theirs)))
    return sum(distances) / len(distances) if distances else float("nan")


def path_smoothness(features: Tensor) -> float:
    """How even the steps of paths are: length of a path over the longest step times their number, averaged; 0 to 1.

    Args:
        features: [P, S, D] of P paths of S points. 1: equal steps; 1 / (S - 1): all the way in one step.
    """
    steps = features.diff(dim=1).norm(dim=2)  # [P, S - 1]
    return float((steps.sum(1) / (steps.max(1).values * steps.shape[1])).mean())


def diversity(fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Mean pairwise feature distance within each digit over that of real images, averaged over the digits.

    1: samples of a digit differ as much as real ones; 0: they are all the same. NaN if no digit has two samples of
    both kinds.
    """
    ratios = []
    for digit in range(CLASSES):
        ours, theirs = fake[fake_labels == digit], real[real_labels == digit]
        if min(len(ours), len(theirs)) > 1:
            ratios.append(float(torch.pdist(ours).mean() / torch.pdist(theirs).mean()))
    return sum(ratios) / len(ratios) if ratios else float("nan")
