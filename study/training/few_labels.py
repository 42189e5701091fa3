"""Classification from few labels: what trials share of a trained encoder, and the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from models.autoencoder import Encoder
from study.data.dataset import Dataset, to_float
from study.training.autoencoder import fit_pca, flat_pixels
from study.training.classifier import Augment
from study.training.loops import EVAL_BATCH, apply, eval_mode
from study.training.self_training import neighbour_graph

SVM_PENALTY = 10.0  # C of scikit-learn's support vector machines
SVM_IMAGES, SVM_LATENTS = 1600, 6400  # jittered copies of all labelled images together; they set the time


@dataclass(frozen=True)
class EncodedDataset:
    """A data set and a trained encoder, and what is computed once from both for many trials.

    Attributes:
        augment: The jitter of the copies whose latents are taken.
    """

    data: Dataset
    encoder: Encoder
    augment: Augment

    @cached_property
    def latents(self) -> tuple[Tensor, Tensor]:
        """Latents [N, latent_dim] of the training and the test images."""
        with eval_mode(self.encoder):
            return apply(self.encoder, self.data.train.images), apply(self.encoder, self.data.test.images)

    def copies(self, images: Tensor, count: int) -> Tensor:
        """Return latents [count, N, latent_dim] of jittered copies of uint8 images [N, C, H, W]."""
        with eval_mode(self.encoder):
            parts = [
                torch.stack([self.encoder(self.augment(to_float(part))) for _ in range(count)])
                for part in images.split(EVAL_BATCH)
            ]
        return torch.cat(parts, 1)

    @cached_property
    def graph(self) -> csr_matrix:
        """The neighbour graph of the training images' latents; uses no label."""
        return neighbour_graph(self.latents[0])

    @cached_property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, C * H * W] in [0, 1] of the training and the test images."""
        return flat_pixels(self.data.train.images), flat_pixels(self.data.test.images)

    @cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """As many principal components as latents, of the training and the test images."""
        train, test = self.pixels
        pca = fit_pca(train, self.latents[0].shape[1])
        return pca.transform(train), pca.transform(test)


def svm_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the test accuracy of a support vector machine (RBF kernel) fitted to rows [N, D] with labels [N]."""
    from sklearn.svm import SVC

    with warnings.catch_warnings():
        # With one label a class scikit-learn asks whether this is a regression problem.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return float(SVC(C=SVM_PENALTY).fit(train, labels).score(test, test_labels))


def baselines(encoded: EncodedDataset, known: Tensor) -> dict[str, float]:
    """Return test accuracies of support vector machines from the labels of the training images `known` [M].

    Those on pixels see the labelled images only; principal components and latents were fitted to all training images
    without labels. "jittered" adds jittered copies of each image: in all up to 1,600 images or 6,400 latents (16 and
    64 of each of 100 images), but at least one of each.
    """
    images, labels = encoded.data.train.images[known], encoded.data.train.labels[known].cpu().numpy()
    few, test_labels = known.cpu().numpy(), encoded.data.test.labels.cpu().numpy()

    def accuracy(parts: tuple[np.ndarray, np.ndarray], copies: Sequence[np.ndarray] = ()) -> float:
        train, test = parts
        return svm_accuracy(np.concatenate([train[few], *copies]), np.tile(labels, 1 + len(copies)), test, test_labels)

    count = max(1, SVM_IMAGES // len(known))
    moved = [encoded.augment(to_float(images)).flatten(1).cpu().numpy() for _ in range(count)]
    copies = list(encoded.copies(images, max(1, SVM_LATENTS // len(known))).cpu().numpy())
    train, test = (part.cpu().numpy() for part in encoded.latents)
    return {
        "baseline/raw_pixels_jittered_svm": accuracy(encoded.pixels, moved),
        "baseline/pca_svm": accuracy(encoded.components),
        "baseline/latents_jittered_svm": accuracy((train, test), copies),
    }
