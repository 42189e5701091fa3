"""Classification from few labels: label spreading on the latents, self-training, and the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from models.autoencoder import Encoder
from models.classifier import Judge
from study.data.dataset import Dataset, to_float
from study.training.autoencoder import fit_pca, flat_pixels
from study.training.classifier import Augment, ClassifierSettings, jitter
from study.training.loops import EVAL_BATCH, Report, apply, autocast, batches, eval_mode, fit, steps_per_epoch

SVM_PENALTY = 10.0  # C of scikit-learn's support vector machines
SVM_IMAGES, SVM_LATENTS = 1600, 6400  # jittered copies of all labelled images together; they set the time
NEIGHBOURS, ALPHA, ITERATIONS = 10, 0.99, 100  # of label spreading
SHARPENING = 3  # power of the spread labels, which then sum to 1 again
CONFIDENCE = 0.6  # images with a less certain label are left out
MEMORY = 0.7  # weight of the old target when it moves towards the network's prediction
FIRST_MOVE = 3  # epoch in which targets begin to move
SPREAD_AGAIN = (2, 4)  # epochs after which labels are spread again, on the network's own features
AVERAGED = 1 / 8  # horizon of the weights' moving average, as a fraction of all steps
RENEWED = 50  # batches from which BatchNorm statistics are recomputed
CHUNK = 1000  # points at a time, which bounds the memory of their distances


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
    def graph(self) -> sparse.csr_matrix:
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


def neighbour_graph(latents: Tensor) -> sparse.csr_matrix:
    """Return symmetric, normalised weights [N, N] between each of the latents [N, D] and its 10 nearest (or all).

    A tie weighs exp(-4 d^2 / d_max^2), d_max to the farthest of them (`LabelSpreading` of scikit-learn weighs all
    neighbours alike).
    """
    distances, neighbours = _nearest(latents, min(NEIGHBOURS, len(latents) - 1))
    count, k = neighbours.shape
    ties = np.exp(-4 * distances / distances[:, -1:].clip(1e-12))
    places = (neighbours.ravel(), k * np.arange(count + 1))
    weights = sparse.csr_matrix((ties.ravel(), *places), shape=(count, count))
    weights = weights + weights.T
    degrees = np.asarray(weights.sum(1)).ravel().clip(1e-12)  # 0 if there is only one point
    scale = sparse.diags(1 / np.sqrt(degrees))
    return (scale @ weights @ scale).tocsr().astype(np.float32)


def spread_labels(graph: sparse.csr_matrix, known: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return class probabilities [N, classes] of all points from the labels [M] of the points `known` [M].

    Label spreading (Zhou et al. 2004, "Learning with local and global consistency"): F <- a S F + (1 - a) Y. The known
    labels are restored at the end.
    """
    start = np.zeros((graph.shape[0], classes), np.float32)
    start[known.cpu(), labels.cpu()] = 1
    scores = start
    for _ in range(ITERATIONS):
        scores = ALPHA * (graph @ scores) + (1 - ALPHA) * start
    found = torch.from_numpy(scores).to(known.device) + 1e-12  # a point that no label reaches: all alike
    found[known] = F.one_hot(labels, classes).float()
    return found / found.sum(1, keepdim=True)


class SpreadClassifier(nn.Module):
    """Images [N, C, H, W] to logits [N, classes]: the mean of the spread labels of the 10 nearest latents.

    Delalleau et al. 2005, "Efficient non-parametric function induction in semi-supervised learning", equal weights.

    Args:
        latents: Latents [M, D] of the graph's points.
        probabilities: Their spread labels [M, classes].
    """

    def __init__(self, encoder: nn.Module, latents: Tensor, probabilities: Tensor) -> None:
        super().__init__()
        self.encoder, self.latents, self.probabilities = encoder, latents, probabilities

    def forward(self, images: Tensor) -> Tensor:
        distances = torch.cdist(self.encoder(images), self.latents)
        nearest = distances.topk(min(NEIGHBOURS, len(self.latents)), largest=False).indices
        return self.probabilities[nearest].mean(1).log()


def train_on_spread_labels(
    model: Judge,
    images: Tensor,
    probabilities: Tensor,
    known: Tensor,
    *,
    settings: ClassifierSettings,
    report: Report,
    augment: Augment = jitter,
) -> None:
    """Train on spread labels, which then follow the network's own predictions (self-training), on augmented images.

    An image's target starts from its spread label, moves slowly towards the network's prediction (temporal ensembling,
    Laine & Aila 2017, https://arxiv.org/abs/1610.02242), and counts as a pseudo-label (Lee 2013) where it is certain
    enough. After some epochs the known labels are spread again, over the neighbour graph of the network's features
    (Iscen et al. 2019, https://arxiv.org/abs/1904.04717). The final weights are their exponential moving average over
    the steps, with BatchNorm statistics of images without augmentation.

    Reports `train/loss` and `train/used`, the fraction of the images with a certain enough label. Raises
    `FloatingPointError` when the loss is not finite.

    Args:
        images: uint8 [N, C, H, W].
        probabilities: From `spread_labels`, [N, classes].
        known: Indices of the labelled images, whose targets never move.
    """
    targets = _sharpened(probabilities)
    truth = targets[known].clone()
    moving = False
    steps = settings.epochs * steps_per_epoch(len(images), settings.batch_size)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(1.0, AVERAGED * steps)))

    def losses_of(index: Tensor) -> list[Tensor]:
        sure, labels = targets[index].max(1)
        sure = (sure >= CONFIDENCE).float()
        with autocast(images.device):
            logits = model(augment(to_float(images[index])))
        logits = logits.float()
        loss = (F.cross_entropy(logits, labels, reduction="none") * sure).sum() / sure.sum().clamp(min=1)
        if moving:
            targets[index] = targets[index].lerp(logits.detach().softmax(1), 1 - MEMORY)
            targets[known] = truth
        return [loss, sure.mean()]

    def after_epoch(epoch: int) -> dict[str, float]:
        nonlocal targets, moving
        moving = epoch + 1 >= FIRST_MOVE
        if epoch in SPREAD_AGAIN and epoch < settings.epochs:
            renew_statistics(model.features, images)
            with eval_mode(model.features):
                found = apply(model.features, images)
            graph = neighbour_graph(F.normalize(found - found.mean(0), dim=1))  # it compares directions
            targets = _sharpened(spread_labels(graph, known, truth.argmax(1), truth.shape[1]))
        if epoch == settings.epochs:
            model.load_state_dict(averaged.module.state_dict())
            renew_statistics(model, images)
        return {}

    names, after_step = ["train/loss", "train/used"], partial(averaged.update_parameters, model)
    fit(model.train(), losses_of, names, images, settings, report, after_step=after_step, after_epoch=after_epoch)


def renew_statistics(model: nn.Module, images: Tensor) -> None:
    """Recompute BatchNorm's statistics from up to 10,000 of these uint8 images, drawn at random."""
    drawn = islice(batches(len(images), EVAL_BATCH, images.device), RENEWED)
    update_bn((to_float(images[index]) for index in drawn), model)


def _sharpened(probabilities: Tensor) -> Tensor:
    """Return probabilities [N, classes] raised to a power and normalised."""
    powers = probabilities**SHARPENING
    return powers / powers.sum(1, keepdim=True)


def _nearest(points: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distances [N, k], ascending, and indices [N, k] of the nearest others of each point."""
    squares = points.square().sum(1)
    distances, indices = [], []
    for start in range(0, len(points), CHUNK):
        part = points[start : start + CHUNK]
        found = torch.addmm(squares[None], part, points.T, alpha=-2)  # but for its own square
        found[torch.arange(len(part)), start + torch.arange(len(part))] = torch.inf  # not itself
        values, places = found.topk(k, largest=False)
        distances.append((values + squares[start : start + CHUNK, None]).clamp(min=0).cpu().numpy())
        indices.append(places.cpu().numpy())
    return np.concatenate(distances), np.concatenate(indices)
