"""From noise to images, and from images to measures in the judge's features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.classifier import CLASSES, Judge
from models.gan import with_labels
from study import metrics
from study.data import Dataset
from study.metrics import Moments
from study.training import apply

SAMPLES, VALIDATION_SAMPLES = 10_000, 5_000
NEAREST = 5  # k of precision, recall, density, coverage
MEMORY_SAMPLES = 2_000  # images whose nearest training image is looked up


def noise(count: int, noise_dim: int, seed: int, device: torch.device) -> Tensor:
    """Noise [count, noise_dim] from N(0, 1), the same for the same seed, whatever the device.

    A larger noise_dim adds coordinates and keeps those that a smaller one has.
    """
    drawn = np.random.default_rng(seed).standard_normal((noise_dim, count), dtype=np.float32)
    return torch.from_numpy(drawn).T.contiguous().to(device)


def balanced_labels(count: int, device: torch.device) -> Tensor:
    """Labels [count]: 0..9 in turn."""
    return torch.arange(count, device=device) % CLASSES


def generator_inputs(count: int, noise_dim: int, conditional: bool, seed: int, device: torch.device) -> Tensor:
    """Inputs [count, noise_dim (+ 10)] of a generator; those of a conditional one are balanced over the digits."""
    vectors = noise(count, noise_dim, seed, device)
    return with_labels(vectors, balanced_labels(count, device)) if conditional else vectors


class Examiner:
    """Measures generated images with the judge, against validation images (to select) and test images (to report).

    The real images' features are computed once. No gradients.
    """

    def __init__(self, judge: Judge, data: Dataset) -> None:
        self.judge, self.data = judge, data
        self.val_moments = Moments.of(self.features(data.val.images))
        self.train_features = self.features(data.train.images)
        self.test_features = self.features(data.test.images)
        self.test_moments = Moments.of(self.test_features)
        self.test_radius = metrics.kth_neighbour(self.test_features, NEAREST)
        self.test_nearest = metrics.nearest_distance(self.test_features[:MEMORY_SAMPLES], self.train_features)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features [N, D] of images [N, 1, 28, 28], uint8 or float in [0, 1]."""
        return apply(self.judge.features, images)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The judge's probability of each digit [N, 10]."""
        return apply(self.judge, images).softmax(1)

    @torch.no_grad()
    def val_measures(self, images: Tensor) -> dict[str, float]:
        """`val/fd`, the Frechet distance to the validation images, and `val/modes`."""
        features = self.features(images)
        return {
            "val/fd": metrics.frechet_distance(Moments.of(features), self.val_moments),
            "val/modes": metrics.class_measures(self.judge.head(features))["sample/modes"],
        }

    @torch.no_grad()
    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """All `sample/` measures of generated images against the test images.

        Args:
            labels: The digits [N] that a conditional generator was told; None: the judge's own labels stand in.
        """
        features = self.features(images)
        logits = self.judge.head(features)
        guesses = logits.argmax(1)
        told = guesses if labels is None else labels
        few = min(2_000, len(features), len(self.test_features))
        real_labels = self.data.test.labels
        found = {
            "sample/fd": metrics.frechet_distance(Moments.of(features), self.test_moments),
            **metrics.neighbourhood_measures(self.test_features, features, NEAREST, self.test_radius),
            **metrics.class_measures(logits),
            "sample/diversity": metrics.diversity(
                features[:few], told[:few], self.test_features[:few], real_labels[:few]
            ),
            "sample/intra_fd": metrics.intra_class_distance(features, told, self.test_features, real_labels),
            "sample/nearest": metrics.nearest_distance(features[:MEMORY_SAMPLES], self.train_features)
            / self.test_nearest,
        }
        if labels is not None:
            found["sample/label_accuracy"] = float((guesses == labels).float().mean())
        return found


class Panel(Examiner):
    """An examiner with a second judge beside the first, so that nobody fits the one that measures."""

    def __init__(self, judge: Judge, second: Judge, data: Dataset) -> None:
        super().__init__(judge, data)
        self.second = Examiner(second, data)

    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """The `sample/` measures, and the second judge's by the same names under `second/`."""
        others = self.second.measures(images, labels)
        return super().measures(images, labels) | {
            name.replace("sample/", "second/"): value for name, value in others.items()
        }


def mixture_latents(latents: Tensor, components: int, count: int, seed: int) -> Tensor:
    """`count` samples of a Gaussian mixture fitted to latents [N, latent_dim]: the baseline of a latent GAN.

    One component is N(0, I) on whitened latents.
    """
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, random_state=seed, max_iter=50, tol=1e-2, reg_covar=1e-4)
    points, _ = mixture.fit(latents.double().cpu().numpy()).sample(count)  # in the components' order
    return torch.from_numpy(np.random.default_rng(seed).permutation(points)).to(latents)
