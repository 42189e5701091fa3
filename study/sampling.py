"""From noise to images, and from images to measures in the judge's features."""

from __future__ import annotations

from collections.abc import Callable

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


def noise(count: int, noise_dim: int, seed: int, device: torch.device) -> Tensor:
    """Noise [count, noise_dim] from N(0, 1), the same for the same seed, whatever the device."""
    return torch.randn(count, noise_dim, generator=torch.Generator().manual_seed(seed)).to(device)


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
        self.test_features = self.features(data.test.images)
        self.test_moments = Moments.of(self.test_features)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features [N, D] of images [N, 1, 28, 28], uint8 or float in [0, 1]."""
        return apply(self.judge.features, images)

    def val_distance(self, images: Tensor) -> float:
        """Frechet distance to the validation images."""
        return metrics.frechet_distance(Moments.of(self.features(images)), self.val_moments)

    def test_distance(self, images: Tensor) -> float:
        """Frechet distance to the test images."""
        return metrics.frechet_distance(Moments.of(self.features(images)), self.test_moments)

    @torch.no_grad()
    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """All `sample/` measures of generated images against the test images.

        Args:
            labels: The digits [N] that a conditional generator was told; None: the judge's own labels stand in.
        """
        features = self.features(images)
        logits = self.judge.head(features)
        guesses = logits.argmax(1)
        labels_of = guesses if labels is None else labels
        few = min(2_000, len(features), len(self.test_features))
        real_labels = self.data.test.labels[:few]
        found = {
            "sample/fd": metrics.frechet_distance(Moments.of(features), self.test_moments),
            **metrics.neighbourhood_measures(self.test_features, features, NEAREST),
            **metrics.class_measures(logits),
            "sample/diversity": metrics.diversity(
                features[:few], labels_of[:few], self.test_features[:few], real_labels
            ),
        }
        if labels is not None:
            found["sample/label_accuracy"] = float((guesses == labels).float().mean())
        return found


def mixture_images(
    latents: Tensor, components: int, count: int, decode: Callable[[Tensor], Tensor], seed: int
) -> Tensor:
    """Images decoded from `count` samples of a Gaussian mixture fitted to latents [N, latent_dim]: the baseline."""
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, random_state=seed, max_iter=50, tol=1e-2, reg_covar=1e-4)
    points, _ = mixture.fit(latents.double().cpu().numpy()).sample(count)
    return apply(decode, torch.from_numpy(points).to(latents))
