"""What generated images are drawn from: noise and labels, and Gaussian mixtures, the baseline of every GAN."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.gan import with_labels

FEWEST, MOST = 1_000, 10_000
SHEET_SEED, SHEET_ROW, SHEET_CLASSES = 0, 10, 20  # of sample sheets: images in a row, and most rows with labels


def sample_count(real: int) -> int:
    """Return how many images are generated to be compared with `real` real ones: as many, from FEWEST to MOST."""
    return min(max(real, FEWEST), MOST)


def noise(count: int, noise_dim: int, seed: int, device: torch.device) -> Tensor:
    """Return noise [count, noise_dim] from N(0, 1), the same for the same seed on every device.

    A larger noise_dim adds coordinates and keeps those of a smaller one.
    """
    drawn = np.random.default_rng(seed).standard_normal((noise_dim, count), dtype=np.float32)
    return torch.from_numpy(drawn).T.contiguous().to(device)


def labels_like(real: Tensor, count: int) -> Tensor:
    """Return labels [count] with the class fractions of real labels [N], repeating them where count > N.

    A conditional generator is asked for the fractions of the real images: others would count as its error.
    """
    return real[torch.arange(count, device=real.device) % len(real)]


def generator_inputs(
    noise_dim: int, classes: int, real: Tensor, seed: int, count: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return inputs [count, noise_dim (+ classes)], and the labels [count] that they ask for (None if `classes` is 0).

    Args:
        real: Labels [N] of real images, which give the class fractions.
        count: None: `sample_count(N)`.
    """
    count = count or sample_count(len(real))
    vectors = noise(count, noise_dim, seed, real.device)
    if not classes:
        return vectors, None
    labels = labels_like(real, count)
    return with_labels(vectors, labels, classes), labels


def sheet_inputs(noise_dim: int, classes: int, device: torch.device) -> Tensor:
    """Return the inputs [M, noise_dim (+ classes)] of a sample sheet; with labels: a row a class, the same noises."""
    vectors = noise(SHEET_ROW * SHEET_ROW, noise_dim, SHEET_SEED, device)
    if not classes:
        return vectors
    rows = min(classes, SHEET_CLASSES)
    labels = torch.arange(rows, device=device).repeat_interleave(SHEET_ROW)
    return with_labels(vectors[:SHEET_ROW].repeat(rows, 1), labels, classes)


def places_of(wanted: Tensor, labels: Tensor) -> Tensor:
    """Return for wanted labels [M] their places [M] among labels [N], each place once until a class has no more."""
    places = torch.empty_like(wanted)
    for label in wanted.unique().tolist():
        asked, ours = (wanted == label).nonzero()[:, 0], (labels == label).nonzero()[:, 0]
        places[asked] = ours[torch.arange(len(asked), device=ours.device) % len(ours)]
    return places


def draw_mixture(
    train: Tensor, held_out: Tensor, components: int, count: int, seed: int, *, quick: bool = False
) -> tuple[Tensor, float | None]:
    """Fit a Gaussian mixture with full covariances to latents and draw from it, in random order.

    Args:
        train: Latents [N, D]; the mixture has at most N components.
        held_out: Latents [M, D].
        quick: Fit in five steps of single precision: a fifth of the time at large sizes.

    Returns:
        Points [count, D], and the mean negative log-likelihood of a held-out point in nats (None if M is 0).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = min(components, len(train))
    if len(train) == 1:
        train = train.expand(2, -1)  # scikit-learn wants two
    steps, precision = (5, torch.float32) if quick else (50, torch.float64)
    fitted = GaussianMixture(components, random_state=seed, max_iter=steps, tol=1e-2, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
        fitted.fit(train.to(precision).cpu().numpy())
    random = np.random.default_rng(seed)  # `GaussianMixture.sample` would sort the points by component
    which = random.choice(components, count, p=fitted.weights_)
    roots = np.linalg.cholesky(fitted.covariances_)[which]  # [count, D, D]
    points = fitted.means_[which] + np.einsum("nij,nj->ni", roots, random.standard_normal((count, train.shape[1])))
    loss = -float(fitted.score(held_out.double().cpu().numpy())) if len(held_out) else None
    return torch.from_numpy(points).to(train), loss


def draw_class_mixtures(
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    components: int,
    labels: Tensor,
    seed_of: Callable[[int], int],
) -> tuple[Tensor, float]:
    """Draw for each label from a mixture fitted to the latents of that label alone.

    Args:
        train: Latents [N, D] and labels [N].
        held_out: Latents [M, D] and labels [M].
        labels: [count].
        seed_of: The seed of each label's fit.

    Returns:
        Points [count, D], and the mean of the losses, weighted by the label's fraction.
    """
    points, mean = torch.empty(len(labels), train[0].shape[1]).to(train[0]), 0.0
    for label in labels.unique().tolist():
        wanted = labels == label
        own, others = (latents[known == label] for latents, known in (train, held_out))
        points[wanted], loss = draw_mixture(own, others, components, int(wanted.sum()), seed_of(label))
        mean += (loss or 0.0) * int(wanted.sum()) / len(labels)
    return points, mean
