"""Gaussian mixtures on latents: the baseline of every latent GAN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def draw_mixture(
    train: Tensor, held_out: Tensor, components: int, count: int, seed: int
) -> tuple[Tensor, float | None]:
    """Fit a Gaussian mixture with full covariances to latents and draw from it, in random order.

    Args:
        train: Latents [N, D]; the mixture has at most N components.
        held_out: Latents [M, D].

    Returns:
        Points [count, D], and the mean negative log-likelihood of a held-out point in nats (None if M is 0).
    """
    from sklearn.mixture import GaussianMixture

    components = min(components, len(train))
    if len(train) == 1:
        train = train.expand(2, -1)  # scikit-learn wants two
    fitted = GaussianMixture(components, random_state=seed, max_iter=50, tol=1e-2, reg_covar=1e-4)
    fitted.fit(train.double().cpu().numpy())
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
