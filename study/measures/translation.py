"""How good translated images are: against the true translation, and by judges of domain B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.classifier import Judge
from study.data.dataset import to_float
from study.measures import fidelity
from study.measures.judges import NEAREST, PREFIXES
from study.training.loops import EVAL_BATCH, apply

WORKS_ERROR, WORKS_LOST = 0.5, 0.1
"""A translator works if its error (MAE) is at most this fraction of the untranslated input's, and by either judge at
most this fraction of its images is not of the input's class."""


def error(images: Tensor, truth: Tensor) -> float:
    """Return the mean absolute error per pixel of floats [N, C, S, S] in [0, 1] against uint8 images."""
    parts = zip(images.split(EVAL_BATCH), truth.split(EVAL_BATCH), strict=True)
    return math.fsum(float((ours - to_float(true)).abs().sum()) for ours, true in parts) / images.numel()


def permuted_accuracy(guesses: Tensor, labels: Tensor, classes: int) -> float:
    """Return the fraction of guesses [N] that are right under the best permutation of the classes.

    Neither a discriminator nor a cycle loss sees that a translator swaps classes. The permutation is a linear
    assignment (Kuhn 1955) on the confusion counts.
    """
    counts = torch.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes).cpu().numpy()
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum()) / len(labels)


@dataclass(frozen=True, eq=False)
class Truth:
    """Held-out images and the judges of domain B. No gradients.

    Attributes:
        a: Inputs, uint8 [N, C, S, S].
        b: Their true translations.
        labels: [N].
        judges: At most three, trained on domain B, in evaluation mode.
    """

    a: Tensor
    b: Tensor
    labels: Tensor
    judges: Sequence[Judge]
    classes: int

    @cached_property
    def floor(self) -> float:
        """The error of the untranslated inputs."""
        return error(to_float(self.a), self.b)

    @cached_property
    def features(self) -> list[Tensor]:
        """Features of the true translations by each judge, [N, D]."""
        return [apply(judge.features, self.b) for judge in self.judges]

    @cached_property
    def radius(self) -> Tensor:
        """The distance of each true image to its fifth neighbour, by the first judge, [N]."""
        return fidelity.kth_neighbour(self.features[0], NEAREST)

    @torch.no_grad()
    def measures(self, images: Tensor) -> dict[str, float]:
        """Measure the translations [N, C, S, S] of `a`, floats in [0, 1].

        Returns:
            `test/mae`; by each judge `kept`, the fraction of images of the input's class, `permuted`, the same under
            the best permutation of the classes, and `fd`; by the first judge `recall` and `coverage`;
            `test/shortfall`, above 1 if the translator does not work (see WORKS_ERROR).
        """
        found = {"test/mae": error(images, self.b)}
        short = [found["test/mae"] / (WORKS_ERROR * self.floor)] if self.floor else []
        for prefix, judge, real in zip(PREFIXES, self.judges, self.features, strict=False):
            features = apply(judge.features, images)
            guesses = judge.head(features).argmax(1)
            found[f"{prefix}/kept"] = kept = float((guesses == self.labels).float().mean())
            found[f"{prefix}/permuted"] = permuted_accuracy(guesses, self.labels, self.classes)
            found[f"{prefix}/fd"] = fidelity.frechet_distance(features, real)
            short.append((1 - kept) / WORKS_LOST)
            if prefix == PREFIXES[0]:
                reach = fidelity.neighbourhood_measures(real, features, NEAREST, self.radius)
                found |= {f"{prefix}/{name}": reach[name] for name in ("recall", "coverage")}
        return found | {"test/shortfall": max(short)}
