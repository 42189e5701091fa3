"""Generated images measured by the judges, and the rules by which a generator counts as collapsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.classifier import Judge
from study.data.dataset import Dataset
from study.science import fidelity
from study.science.fidelity import Moments
from study.science.loops import apply

NEAREST = 5  # k of precision, recall, density, coverage
MEMORY_SAMPLES = 2_000  # images whose nearest training image is looked up
DIVERSITY_SAMPLES = 2_000  # images whose distances to all others of their class are taken

COLLAPSED_SHARE = 0.8
"""A generator counts as collapsed if fewer than this share of the classes are modes, ..."""
COLLAPSED_KL = 0.5
"""... or if its class histogram's KL to that of the test images, or of the labels asked for, is above this (nats)."""
HOPELESS_SHARE = 0.5
"""A training may be given up if fewer than this share of the classes are modes."""
WEAK_ACCURACY = 0.95
"""A judge of less accuracy than this on validation images says little about generated ones."""


def weakness(accuracy: float) -> str | None:
    """What a table says of a judge of this accuracy on validation images; None: nothing."""
    if accuracy >= WEAK_ACCURACY:
        return None
    return f"{accuracy:.1%} on validation, under {WEAK_ACCURACY:.0%}: its measures are weak"


def is_collapsed(measures: Mapping[str, float], classes: int) -> bool:
    """Whether the generator with these `sample/` measures makes too few of the classes."""
    few = measures["sample/modes"] < COLLAPSED_SHARE * classes
    return few or measures["sample/class_kl"] > COLLAPSED_KL


@dataclass(frozen=True)
class RealFeatures:
    """A judge's features of the real images, by which generated ones are measured."""

    train: Tensor  # [N, D]
    val: Tensor
    test: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, judge: Judge, data: Dataset) -> RealFeatures:
        return cls(*(apply(judge.features, split.images) for split in (data.train, data.val, data.test)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], device: torch.device) -> RealFeatures:
        """From what `to_arrays` gave."""
        return cls(*(torch.from_numpy(arrays[each.name]).to(device) for each in fields(cls)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """By the names of the fields."""
        return {each.name: getattr(self, each.name).cpu().numpy() for each in fields(self)}


class Evaluator:
    """Measures generated images with a judge, against validation images (to select) and test images (to report).

    What it needs of the real images is computed when it is first needed, once. No gradients.

    Args:
        judge: Trained, in evaluation mode.
        real: Gives the judge's features of the real images, where they may be known already; None: computes them.
    """

    def __init__(self, judge: Judge, data: Dataset, real: Callable[[], RealFeatures] | None = None) -> None:
        self.judge, self.data = judge, data
        self.classes = len(data.classes)
        self._real = real or (lambda: RealFeatures.of(judge, data))

    @cached_property
    def real(self) -> RealFeatures:
        return self._real()

    @cached_property
    def val_moments(self) -> Moments:
        return Moments.of(self.real.val)

    @cached_property
    def test_moments(self) -> Moments:
        return Moments.of(self.real.test)

    @cached_property
    def test_radius(self) -> Tensor:
        """The distance of each test image to its fifth neighbour, [N]."""
        return fidelity.kth_neighbour(self.real.test, NEAREST)

    @cached_property
    def test_nearest(self) -> float:
        """The mean distance of test images to the nearest training image."""
        return fidelity.nearest_distance(self.real.test[:MEMORY_SAMPLES], self.real.train)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features [N, D] of images [N, C, H, W], uint8 or float in [0, 1]."""
        return apply(self.judge.features, images)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The judge's probability of each class [N, classes]."""
        return apply(self.judge, images).softmax(1)

    def _shares(self, labels: Tensor) -> Tensor:
        """The share of each class among labels [N], [classes]."""
        return torch.bincount(labels, minlength=self.classes).double() / len(labels)

    @torch.no_grad()
    def val_measures(self, images: Tensor) -> dict[str, float]:
        """`val/fd`, the Frechet distance to the validation images, and `val/modes`."""
        features = self.features(images)
        return {
            "val/fd": fidelity.frechet_distance(Moments.of(features), self.val_moments),
            "val/modes": fidelity.class_measures(self.judge.head(features), self._shares(self.data.val.labels))[
                "sample/modes"
            ],
        }

    @torch.no_grad()
    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """All `sample/` measures of generated images [N, C, H, W] against the test images.

        Args:
            labels: The classes [N] that a conditional generator was asked for, for `sample/label_accuracy` too; None:
                the judge's own labels stand in.
        """
        features = self.features(images)
        logits = self.judge.head(features)
        guesses = logits.argmax(1)
        classes = guesses if labels is None else labels
        real, real_labels = self.real.test, self.data.test.labels
        shares = self._shares(real_labels if labels is None else labels)
        few = min(DIVERSITY_SAMPLES, len(features), len(real))
        nearest = fidelity.nearest_distance(features[:MEMORY_SAMPLES], self.real.train)
        found = {
            "sample/fd": fidelity.frechet_distance(Moments.of(features), self.test_moments),
            **fidelity.neighbourhood_measures(real, features, NEAREST, self.test_radius),
            **fidelity.class_measures(logits, shares),
            "sample/diversity": fidelity.diversity(
                features[:few], classes[:few], real[:few], real_labels[:few], self.classes
            ),
            "sample/intra_fd": fidelity.intra_class_distance(features, classes, real, real_labels, self.classes),
            "sample/nearest": nearest / self.test_nearest if self.test_nearest else float("nan"),
        }
        if labels is not None:
            found["sample/label_accuracy"] = float((guesses == labels).float().mean())
        return found


class TwoJudges(Evaluator):
    """An evaluator by a first judge, with a second one beside it: a generator selected by the first may suit its
    features only, and the second shows it.
    """

    def __init__(
        self,
        first: Judge,
        second: Judge,
        data: Dataset,
        *,
        real: Sequence[Callable[[], RealFeatures] | None] = (None, None),
    ) -> None:
        super().__init__(first, data, real[0])
        self.second = Evaluator(second, data, real[1])

    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The `sample/` measures by the first judge, and the second's by the same names under `second/`."""
        others = self.second.measures(images, labels)
        return super().measures(images, labels) | {
            name.replace("sample/", "second/"): value for name, value in others.items()
        }
