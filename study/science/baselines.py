"""What the studies are compared with: Gaussian mixtures on latents, and scikit-learn's classifiers on few labels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.autoencoder import Encoder
from study.data.dataset import Dataset
from study.science.autoencoders import fit_pca, flat_pixels
from study.science.loops import apply, eval_mode
from study.science.self_training import NeighbourGraph

SVM_PENALTY = 10.0  # C of scikit-learn's support vector machines


def mixture_latents(latents: Tensor, components: int, count: int, seed: int) -> Tensor:
    """`count` samples of a Gaussian mixture fitted to latents [N, latent_dim]: the baseline of a latent GAN.

    One component is N(0, I) on whitened latents. There are as many components as latents at most.
    """
    from sklearn.mixture import GaussianMixture

    wanted = min(components, len(latents))
    mixture = GaussianMixture(wanted, random_state=seed, max_iter=50, tol=1e-2, reg_covar=1e-4)
    points, _ = mixture.fit(latents.double().cpu().numpy()).sample(count)  # in the components' order
    return torch.from_numpy(np.random.default_rng(seed).permutation(points)).to(latents)


@dataclass(frozen=True)
class EncodedDataset:
    """A data set and a trained encoder, and what is computed from both once, for many trials."""

    data: Dataset
    encoder: Encoder

    @cached_property
    def latents(self) -> tuple[Tensor, Tensor]:
        """[N, latent_dim], of the training and the test images."""
        with eval_mode(self.encoder):
            return apply(self.encoder, self.data.train.images), apply(self.encoder, self.data.test.images)

    @cached_property
    def graph(self) -> NeighbourGraph:
        """Of the training images' latents; no label is used."""
        return NeighbourGraph.of(self.latents[0])

    @cached_property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """[N, C * H * W] in [0, 1], of the training and the test images."""
        return flat_pixels(self.data.train.images), flat_pixels(self.data.test.images)

    @cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """As many principal components as there are latents, of the training and the test images."""
        train, test = self.pixels
        pca = fit_pca(train, self.latents[0].shape[1])
        return pca.transform(train), pca.transform(test)


def baselines(encoded: EncodedDataset, known: Tensor) -> dict[str, float]:
    """Test accuracy of scikit-learn's classifiers on the training images of these indices [M] and their labels.

    The support vector machines have an RBF kernel. That on the pixels sees the labelled images only; principal
    components and latents were fitted to all the training images, without labels.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    labels = encoded.data.train.labels[known].cpu().numpy()
    test_labels = encoded.data.test.labels.cpu().numpy()

    def accuracy(classifier: Any, train: np.ndarray, test: np.ndarray) -> float:
        with warnings.catch_warnings():
            # One label a class is what was asked for, and no regression problem.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            return float(classifier.fit(train[known.cpu()], labels).score(test, test_labels))

    train, test = (part.cpu().numpy() for part in encoded.latents)
    return {
        "baseline/raw_pixels_svm": accuracy(SVC(C=SVM_PENALTY), *encoded.pixels),
        "baseline/pca_svm": accuracy(SVC(C=SVM_PENALTY), *encoded.components),
        "baseline/latents_1nn": accuracy(KNeighborsClassifier(1), train, test),
    }
