"""The inputs of generators, noise and labels, and which real images are compared with them."""

from __future__ import annotations

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


def balanced_labels(count: int, classes: int, device: torch.device) -> Tensor:
    """Return labels [count]: 0..classes - 1 in turn."""
    return torch.arange(count, device=device) % classes


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
