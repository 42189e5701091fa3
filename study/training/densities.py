"""Gaussian mixtures on latents: the baseline of every latent GAN."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


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
