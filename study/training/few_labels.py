"""Classification from few labels: what a trained encoder gives to many trials, and what their classifiers are held
against.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import Encoder
from study.data.dataset import Dataset, Split, to_float
from study.training.autoencoder import fit_pca, flat_pixels
from study.training.loops import EVAL_BATCH, apply, batches, eval_mode
from study.training.self_training import NeighbourGraph

SVM_PENALTY = 10.0  # C of scikit-learn's support vector machines
SVM_IMAGES, SVM_LATENTS = 1600, 6400  # jittered copies of all labelled images together, at most; they set the time
DEFAULT_RATE = 1e-3  # torch's, of AdamW

Augment = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] in [0, 1], to the same, each moved anew."""


@dataclass(frozen=True)
class EncodedDataset:
    """A data set and a trained encoder, and what is computed from both once, for many trials.

    Attributes:
        augment: The jitter of the copies whose latents are taken.
    """

    data: Dataset
    encoder: Encoder
    augment: Augment

    @cached_property
    def latents(self) -> tuple[Tensor, Tensor]:
        """[N, latent_dim], of the training and the test images."""
        with eval_mode(self.encoder):
            return apply(self.encoder, self.data.train.images), apply(self.encoder, self.data.test.images)

    @cached_property
    def moved_latents(self) -> Tensor:
        """[N, latent_dim], of one jittered copy of each training image; the same ones whichever trial comes first."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.copies(self.data.train.images, 1)[0]

    def copies(self, images: Tensor, count: int) -> Tensor:
        """Latents [count, N, latent_dim] of jittered copies of images, uint8 [N, C, H, W]."""
        with eval_mode(self.encoder):
            parts = [
                torch.stack([self.encoder(self.augment(to_float(part))) for _ in range(count)])
                for part in images.split(EVAL_BATCH)
            ]
        return torch.cat(parts, 1)

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

    The support vector machines have an RBF kernel. Those on the pixels see the labelled images only; principal
    components and latents were fitted to all the training images, without labels. "jittered": trained on the images
    as they are and on as many jittered copies of each as come to 1,600 images or 6,400 latents in all (16 and 64 of
    each of 100 images), but one at least.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    images, labels = encoded.data.train.images[known], encoded.data.train.labels[known].cpu().numpy()
    test_labels = encoded.data.test.labels.cpu().numpy()

    def accuracy(classifier: Any, train: np.ndarray, test: np.ndarray) -> float:
        with warnings.catch_warnings():
            # One label a class is what was asked for, and no regression problem.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            copies = len(train) // len(labels)
            return float(classifier.fit(train, np.tile(labels, copies)).score(test, test_labels))

    few, (pixels, test_pixels) = known.cpu().numpy(), encoded.pixels
    components, test_components = encoded.components
    train, test = (part.cpu().numpy() for part in encoded.latents)
    moved = [
        encoded.augment(to_float(images)).flatten(1).cpu().numpy() for _ in range(max(1, SVM_IMAGES // len(known)))
    ]
    copies = encoded.copies(images, max(1, SVM_LATENTS // len(known))).flatten(0, 1).cpu().numpy()
    return {
        "baseline/raw_pixels_svm": accuracy(SVC(C=SVM_PENALTY), pixels[few], test_pixels),
        "baseline/raw_pixels_jittered_svm": accuracy(
            SVC(C=SVM_PENALTY), np.concatenate([pixels[few], *moved]), test_pixels
        ),
        "baseline/pca_svm": accuracy(SVC(C=SVM_PENALTY), components[few], test_components),
        "baseline/latents_1nn": accuracy(KNeighborsClassifier(1), train[few], test),
        "baseline/latents_jittered_svm": accuracy(SVC(C=SVM_PENALTY), np.concatenate([train[few], copies]), test),
    }


def train_by_default(model: nn.Module, few: Split, *, epochs: int, batch_size: int) -> None:
    """Train on a few labelled images with nothing that was chosen by more labels: torch's AdamW as it comes (constant
    rate 1e-3), cross entropy, the images as they are, the last epoch's weights.

    Args:
        model: Images to logits [N, classes]; left in evaluation mode.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=DEFAULT_RATE)
    images = to_float(few.images)
    model.train()
    for _ in range(epochs):
        for index in batches(len(few), batch_size, images.device):
            loss = F.cross_entropy(model(images[index]), few.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
