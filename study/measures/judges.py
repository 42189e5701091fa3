"""Generated images measured by the judges, and the rules by which a generator counts as collapsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.classifier import Judge
from study.data.dataset import Dataset
from study.measures import fidelity
from study.training.loops import apply

NEAREST = 5  # k of precision, recall, density, coverage
MEMORY_SAMPLES = 2_000  # images whose nearest training image is looked up
DIVERSITY_SAMPLES = 2_000  # images whose distances to all others of their class are taken
WEAK_ACCURACY = 0.95  # a judge below it on validation images says little about generated ones
HOPELESS_FRACTION = 0.5  # a training may be given up if fewer of the classes are modes
COLLAPSED_FRACTION, COLLAPSED_KL, COLLAPSED_REACH = 0.8, 0.5, 0.1
"""A generator counts as collapsed if fewer than this fraction of the classes are modes, if its class histogram's KL to
that of the real images is above this (nats), or if its recall or coverage is below this: all classes, but the same few
images of each."""
PREFIXES = ("judge1", "judge2", "judge3")  # of the three judges' measures: `judge3/fd`
SELECTING, REPORTING = 2, PREFIXES[-1]
"""The first two judges take part in choices. The third only reports: its measures of a generator that was chosen are
not flattered by the choice."""


def collapse(measures: Mapping[str, float], classes: int) -> str | None:
    """Return in which way the generator with these `val/` measures has collapsed; None: it has not."""
    modes, kl = measures["val/modes"], measures["val/class_kl"]
    if modes < COLLAPSED_FRACTION * classes:
        return f"{modes:.0f} of {classes} classes"
    if kl > COLLAPSED_KL:
        return f"class KL {kl:.2f}"
    for reach in ("recall", "coverage"):
        if measures[f"val/{reach}"] < COLLAPSED_REACH:
            return f"{reach} {measures[f'val/{reach}']:.3f}"
    return None


def real_features(judge: Judge, data: Dataset) -> dict[str, np.ndarray]:
    """Return the judge's features [N, D] of the real images, by split."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {name: apply(judge.features, split.images).cpu().numpy() for name, split in splits.items()}


class Evaluator:
    """Measures generated images with one judge, against validation images (to select) and test images (to report).

    Args:
        judge: Trained, in evaluation mode.
        real: Returns `real_features(judge, data)`, from a cache say, when they are first needed; None: computes them.
    """

    def __init__(self, judge: Judge, data: Dataset, real: Callable[[], Mapping[str, np.ndarray]] | None = None) -> None:
        self.judge, self.data = judge, data
        self.classes = len(data.classes)
        self._real = real or (lambda: real_features(judge, data))

    @cached_property
    def real(self) -> dict[str, Tensor]:
        """Features [N, D] of the real images, by split."""
        device = self.data.train.images.device
        return {name: torch.from_numpy(features).to(device) for name, features in self._real().items()}

    @cached_property
    def radius(self) -> dict[str, Tensor]:
        """The distance of each validation or test image to its fifth neighbour, [N]."""
        return {name: fidelity.kth_neighbour(self.real[name], NEAREST) for name in ("val", "test")}

    @cached_property
    def test_nearest(self) -> float:
        """The mean distance of test images to the nearest training image."""
        return fidelity.nearest_distance(self.real["test"][:MEMORY_SAMPLES], self.real["train"])

    def features(self, images: Tensor) -> Tensor:
        """Return features [N, D] of images [N, C, H, W], uint8 or float in [0, 1]."""
        return apply(self.judge.features, images)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the judge's probability of each class, [N, classes]."""
        return apply(self.judge, images).softmax(1)

    def fractions(self, labels: Tensor) -> Tensor:
        """Return the fraction of each class among labels [N], in double precision."""
        return torch.bincount(labels, minlength=self.classes).double() / len(labels)

    def distance(self, images: Tensor, split: str) -> float:
        """Return the Frechet distance to the images of a split, "val" or "test"."""
        return fidelity.frechet_distance(self.features(images), self.real[split])

    @torch.no_grad()
    def val_measures(self, images: Tensor) -> dict[str, float]:
        """Return `fd`, classes, recall and coverage against the validation images: for every choice."""
        features = self.features(images)
        return self._measures(features, self.judge.head(features), "val", self.data.val.labels)

    @torch.no_grad()
    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Return all measures of generated images [N, C, H, W] against the test images.

        Args:
            labels: The classes [N] that a conditional generator was asked for, for `label_accuracy` and the
                `label_accuracy_worst` of a class; None: the judge's own labels stand in.
        """
        features, real, real_labels = self.features(images), self.real["test"], self.data.test.labels
        logits = self.judge.head(features)
        guesses = logits.argmax(1)
        classes = guesses if labels is None else labels
        few = min(DIVERSITY_SAMPLES, len(features), len(real))
        points = (features, classes, real, real_labels)
        nearest = fidelity.nearest_distance(features[:MEMORY_SAMPLES], self.real["train"])
        found = self._measures(features, logits, "test", real_labels if labels is None else labels) | {
            "diversity": fidelity.within_classes(fidelity.diversity, *(each[:few] for each in points)),
            "intra_fd": fidelity.within_classes(fidelity.frechet_distance, *points),
            "nearest": fidelity.ratio(nearest, self.test_nearest),
        }
        if labels is not None:
            right = guesses == labels
            found["label_accuracy"] = float(right.sum() / len(labels))
            found["label_accuracy_worst"] = min(float(right[labels == each].float().mean()) for each in labels.unique())
        return found

    def _measures(self, features: Tensor, logits: Tensor, split: str, expected: Tensor) -> dict[str, float]:
        """Return the measures against one split that need no class within it; `expected` are labels [N]."""
        return {
            "fd": fidelity.frechet_distance(features, self.real[split]),
            **fidelity.neighbourhood_measures(self.real[split], features, NEAREST, self.radius[split]),
            **fidelity.class_measures(logits, self.fractions(expected)),
        }


class Judges:
    """Three judges of different make. The first two select, by the geometric mean of their Frechet distances: halving
    either counts the same, whatever the scale of its features. The third only reports.

    Args:
        evaluators: One for each of `PREFIXES`.
    """

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self.all = evaluators
        self.first = evaluators[0]  # it looks at single images and classes too

    def search_measures(self, images: Tensor) -> dict[str, float]:
        """Return what a search goes by, of few images: the first judge's distance, and the classes that it sees."""
        features = self.first.features(images)
        expected = self.first.fractions(self.first.data.val.labels)
        modes = fidelity.class_measures(self.first.judge.head(features), expected)["modes"]
        return {"search/fd": fidelity.frechet_distance(features, self.first.real["val"]), "val/modes": modes}

    def val_measures(self, images: Tensor) -> dict[str, float]:
        """Return the first judge's `val/` measures; `val/fd` is the geometric mean of both selecting judges'."""
        found = {f"val/{name}": value for name, value in self.first.val_measures(images).items()}
        distances = [found["val/fd"], *(judge.distance(images, "val") for judge in self.all[1:SELECTING])]
        found |= {f"val/fd_{number}": distance for number, distance in enumerate(distances, 1)}
        return found | {"val/fd": math.prod(distances) ** (1 / len(distances))}

    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Return the measures against the test images: `judge1/fd`, `judge2/fd`, and all of the third's."""
        selecting = zip(PREFIXES, self.all[:SELECTING], strict=False)
        found = {f"{prefix}/fd": judge.distance(images, "test") for prefix, judge in selecting}
        return found | {f"{REPORTING}/{name}": value for name, value in self.all[-1].measures(images, labels).items()}
