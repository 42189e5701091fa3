"""What a statistician would draw latents from, beside a GAN: mixtures, kernel densities, interpolated neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from study.measures.fidelity import nearest_distance

NEIGHBOURS = 10  # of SMOTE
COMPARED = 2_000  # points whose nearest training point is looked up
BANDWIDTHS = torch.arange(1, 201) / 100  # that are tried, in standard deviations
POINTS = 500  # at a time, for the memory that their distances take


@dataclass(frozen=True)
class Drawn:
    """Points [count, D] of a density fitted to others, and what it makes of held-out points."""

    points: Tensor
    loss: float | None  # mean negative log-likelihood of a held-out point, in nats; None: there is no density


def mixture(train: Tensor, held_out: Tensor, components: int, count: int, seed: int) -> Drawn:
    """A Gaussian mixture with full covariances, fitted to points [N, D]; as many components as points at most.

    Its loss is None if there are no held-out points.
    """
    from sklearn.mixture import GaussianMixture

    wanted = min(components, len(train))
    if len(train) == 1:
        train = train.expand(2, -1)  # scikit-learn wants two
    fitted = GaussianMixture(wanted, random_state=seed, max_iter=50, tol=1e-2, reg_covar=1e-4)
    fitted.fit(train.double().cpu().numpy())
    random = np.random.default_rng(seed)
    which = random.choice(wanted, count, p=fitted.weights_)
    roots = np.linalg.cholesky(fitted.covariances_)[which]  # [count, D, D]
    points = fitted.means_[which] + np.einsum("nij,nj->ni", roots, random.standard_normal((count, train.shape[1])))
    loss = -float(fitted.score(held_out.double().cpu().numpy())) if len(held_out) else None
    return Drawn(torch.from_numpy(points).to(train), loss)


def kernel_density(train: Tensor, held_out: Tensor, bandwidth: float, count: int, seed: int) -> Drawn:
    """A Gaussian of standard deviation `bandwidth` around each point [N, D] (Parzen 1962)."""
    return Drawn(_around(train, bandwidth, count, seed), kernel_loss(train, held_out[:COMPARED], bandwidth))


def kernel_loss(train: Tensor, held_out: Tensor, bandwidth: float) -> float:
    """Mean negative log-likelihood of held-out points [M, D] under the kernel density of others [N, D], in nats."""
    count, dims = train.shape
    constant = math.log(count) + dims * (math.log(bandwidth) + math.log(2 * math.pi) / 2)
    found = [
        torch.logsumexp(-torch.cdist(part, train).square() / (2 * bandwidth**2), 1) for part in held_out.split(POINTS)
    ]
    return constant - float(torch.cat(found).mean())


def copying_bandwidth(train: Tensor, nearest: float, seed: int) -> float:
    """The least bandwidth at which samples of a kernel density lie as far from their nearest training point as wanted.

    Args:
        train: [N, D].
        nearest: The mean distance wanted.
    """
    low, high = 0, len(BANDWIDTHS) - 1
    while low < high:  # the distance grows with the bandwidth
        middle = (low + high) // 2
        far = nearest_distance(_around(train, float(BANDWIDTHS[middle]), COMPARED, seed), train) >= nearest
        low, high = (low, middle) if far else (middle + 1, high)
    return round(float(BANDWIDTHS[low]), 2)


def smote(train: Tensor, count: int, seed: int) -> Drawn:
    """Points between a training point [N, D] and one of its 10 nearest neighbours, anywhere on the line.

    SMOTE (Chawla et al. 2002, https://arxiv.org/abs/1106.1813), on points of all classes together.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = train[torch.randint(len(train), (count,), generator=generator).to(train.device)]
    found = min(NEIGHBOURS, len(train) - 1)
    which = torch.randint(1, found + 1, (count,), generator=generator).to(train.device)  # 0 is the point itself
    share = torch.rand(count, 1, generator=generator).to(train)
    others = [
        torch.cdist(part, train).topk(found + 1, largest=False).indices.gather(1, wanted[:, None]).flatten()
        for part, wanted in zip(chosen.split(POINTS), which.split(POINTS), strict=True)
    ]
    return Drawn(torch.lerp(chosen, train[torch.cat(others)], share), None)


def _around(train: Tensor, bandwidth: float, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = train[torch.randint(len(train), (count,), generator=generator).to(train.device)]
    return chosen + bandwidth * torch.randn(chosen.shape, generator=generator).to(train)
