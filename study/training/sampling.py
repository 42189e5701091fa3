"""The inputs of generators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEWEST, MOST = 1_000, 10_000
"""Images that are generated to be measured: as many as the real ones that they are compared with, in these bounds."""


def sample_count(real: int) -> int:
    """How many images are generated to be compared with so many real ones: 10,000 for MNIST's test, 5,000 for its
    validation images.
    """
    return min(max(real, FEWEST), MOST)


def noise(count: int, noise_dim: int, seed: int, device: torch.device) -> Tensor:
    """Noise [count, noise_dim] from N(0, 1), the same for the same seed, whatever the device.

    A larger noise_dim adds coordinates and keeps those that a smaller one has.
    """
    drawn = np.random.default_rng(seed).standard_normal((noise_dim, count), dtype=np.float32)
    return torch.from_numpy(drawn).T.contiguous().to(device)


def balanced_labels(count: int, classes: int, device: torch.device) -> Tensor:
    """Labels [count]: 0..classes - 1 in turn."""
    return torch.arange(count, device=device) % classes


def labels_like(real: Tensor, count: int) -> Tensor:
    """Labels [count] in which each class has its share among real ones [N]: those, from the start again if need be.

    A conditional generator that was asked for other shares than the real images have would be measured for that.
    """
    return real[torch.arange(count, device=real.device) % len(real)]
