"""What the studies are compared with: Gaussian mixtures on latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SVM_PENALTY = 10.0  # C of scikit-learn's support vector machines


def mixture_latents(latents: Tensor, components: int, count: int, seed: int) -> Tensor:
    """`count` samples of a Gaussian mixture fitted to latents [N, latent_dim]: the baseline of a latent GAN.

    One component is N(0, I) on whitened latents. There are as many components as latents at most.
    """
    from sklearn.mixture import GaussianMixture

    wanted = min(components, len(latents))
    mixture = GaussianMixture(wanted, random_state=seed, max_iter=50, tol=1e-2, reg_covar=1e-4)
    points, _ = mixture.fit(latents.double().cpu().numpy()).sample(count)  # in the components' order
    return torch.from_numpy(np.random.default_rng(seed).permutation(points)).to(latents)
