"""Generated images measured by the judges, and the rules by which a generator counts as collapsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.classifier import Judge
from study.data.dataset import Dataset
from study.measures import fidelity
from study.measures.fidelity import Moments
from study.training.loops import apply

NEAREST = 5  # k of precision, recall, density, coverage
MEMORY_SAMPLES = 2_000  # images whose nearest training image is looked up
DIVERSITY_SAMPLES = 2_000  # images whose distances to all others of their class are taken

COLLAPSED_SHARE = 0.8
"""A generator counts as collapsed if fewer than this share of the classes are modes, ..."""
COLLAPSED_KL = 0.5
"""... or if its class histogram's KL to that of the real images is above this (nats), ..."""
COLLAPSED_REACH = 0.1
"""... or if its recall or its coverage is below this: all classes, but of each the same few images."""
HOPELESS_SHARE = 0.5
"""A training may be given up if fewer than this share of the classes are modes."""
WEAK_ACCURACY = 0.95
"""A judge of less accuracy than this on validation images says little about generated ones."""


def weakness(accuracy: float) -> str | None:
    """What a table says of a judge of this accuracy on validation images; None: nothing."""
    if accuracy >= WEAK_ACCURACY:
        return None
    return f"{accuracy:.1%} on validation, under {WEAK_ACCURACY:.0%}: its measures are weak"


def collapse(measures: Mapping[str, float], classes: int, part: str = "val") -> str | None:
    """In which way the generator with these measures has collapsed; None: it has not.

    Args:
        part: Where the measures' names begin: `val` for validation images.
    """
    modes, kl = measures[f"{part}/modes"], measures[f"{part}/class_kl"]
    if modes < COLLAPSED_SHARE * classes:
        return f"{modes:.0f} of {classes} classes"
    if kl > COLLAPSED_KL:
        return f"class KL {kl:.2f}"
    for reach in ("recall", "coverage"):
        if measures[f"{part}/{reach}"] < COLLAPSED_REACH:
            return f"{reach} {measures[f'{part}/{reach}']:.3f}"
    return None


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
    def val_radius(self) -> Tensor:
        """The distance of each validation image to its fifth neighbour, [N]."""
        return fidelity.kth_neighbour(self.real.val, NEAREST)

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
        """Measures against the validation images, for every choice: `val/fd`, classes, recall and coverage."""
        features, real = self.features(images), self.real.val
        reach = fidelity.neighbourhood_measures(real, features, NEAREST, self.val_radius)
        classes = fidelity.class_measures(self.judge.head(features), self._shares(self.data.val.labels))
        found = {"sample/fd": fidelity.frechet_distance(Moments.of(features), self.val_moments), **reach, **classes}
        return {name.replace("sample/", "val/"): value for name, value in found.items()}

    def val_distance(self, images: Tensor) -> float:
        """Frechet distance to the validation images."""
        return fidelity.frechet_distance(Moments.of(self.features(images)), self.val_moments)

    @torch.no_grad()
    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """All `sample/` measures of generated images [N, C, H, W] against the test images.

        Args:
            labels: The classes [N] that a conditional generator was asked for, for `sample/label_accuracy` and that of
                the worst class; None: the judge's own labels stand in.
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
            wanted, right = (
                torch.bincount(each, minlength=self.classes) for each in (labels, labels[guesses == labels])
            )
            found["sample/label_accuracy"] = float(right.sum() / len(labels))
            found["sample/label_accuracy_worst"] = float((right / wanted)[wanted > 0].min())  # of a class
        return found


PARTS = ("sample", "second", "third")
"""Where the names of the three judges' measures begin."""
SELECTING = 2
"""How many of the judges take part in choices. The rest only report: what they say of a generator that was chosen is
not flattered by the choice."""


class Judges:
    """Three judges of different make. The first two select, by the geometric mean of their Frechet distances: halving
    either counts the same, whatever the scale of its features. The third only reports.

    Args:
        judges: Trained, in evaluation mode; one for each of `PARTS`.
        real: Of each judge, what gives its features of the real images; None: computes them.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        data: Dataset,
        *,
        real: Sequence[Callable[[], RealFeatures] | None] = (None,) * len(PARTS),
    ) -> None:
        self.all = [Evaluator(judge, data, features) for judge, features in zip(judges, real, strict=True)]

    @property
    def first(self) -> Evaluator:
        """The one that looks at single images and classes."""
        return self.all[0]

    def val_measures(self, images: Tensor) -> dict[str, float]:
        """The first judge's measures against the validation images; `val/fd` is both selecting judges' mean."""
        found = self.first.val_measures(images)
        distances = [found["val/fd"], *(judge.val_distance(images) for judge in self.all[1:SELECTING])]
        apart = {f"val/fd_{number}": distance for number, distance in enumerate(distances, 1)}
        return found | apart | {"val/fd": math.prod(distances) ** (1 / len(distances))}

    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The measures against the test images by every judge: `sample/fd`, `second/fd`, `third/fd`, ..."""
        return {
            name.replace("sample/", f"{part}/"): value
            for part, judge in zip(PARTS, self.all, strict=True)
            for name, value in judge.measures(images, labels).items()
        }
