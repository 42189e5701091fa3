"""The inputs of generators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.gan import with_labels

SAMPLES, VALIDATION_SAMPLES = 10_000, 5_000
"""How many images are generated to be measured at the end, and during training."""


def noise(count: int, noise_dim: int, seed: int, device: torch.device) -> Tensor:
    """Noise [count, noise_dim] from N(0, 1), the same for the same seed, whatever the device.

    A larger noise_dim adds coordinates and keeps those that a smaller one has.
    """
    drawn = np.random.default_rng(seed).standard_normal((noise_dim, count), dtype=np.float32)
    return torch.from_numpy(drawn).T.contiguous().to(device)


def balanced_labels(count: int, classes: int, device: torch.device) -> Tensor:
    """Labels [count]: 0..classes - 1 in turn."""
    return torch.arange(count, device=device) % classes


def generator_inputs(count: int, noise_dim: int, seed: int, device: torch.device, *, classes: int = 0) -> Tensor:
    """Inputs [count, noise_dim + classes] of a generator.

    Args:
        classes: Of a conditional generator, whose inputs are balanced over them; 0: the generator takes noise only.
    """
    vectors = noise(count, noise_dim, seed, device)
    return with_labels(vectors, balanced_labels(count, classes, device), classes) if classes else vectors
