"""The inputs of generators: noise and labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEWEST, MOST = 1_000, 10_000


def sample_count(real: int) -> int:
    """Return how many images are generated to be compared with `real` real ones: as many, from FEWEST to MOST."""
    return min(max(real, FEWEST), MOST)


def noise(count: int, noise_dim: int, seed: int, device: torch.device) -> Tensor:
    """Return noise [count, noise_dim] from N(0, 1), the same for the same seed on every device.

    A larger noise_dim adds coordinates and keeps those of a smaller one.
    """
    drawn = np.random.default_rng(seed).standard_normal((noise_dim, count), dtype=np.float32)
    return torch.from_numpy(drawn).T.contiguous().to(device)


def balanced_labels(count: int, classes: int, device: torch.device) -> Tensor:
    """Return labels [count]: 0..classes - 1 in turn."""
    return torch.arange(count, device=device) % classes


def labels_like(real: Tensor, count: int) -> Tensor:
    """Return labels [count] with the class fractions of real labels [N], repeating them where count > N.

    A conditional generator is asked for the fractions of the real images: others would count as its error.
    """
    return real[torch.arange(count, device=real.device) % len(real)]
