"""A classifier from a few labels and many unlabelled images: label spreading on the latents, then self-training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from study.data.dataset import to_float
from study.science.classifiers import ClassifierSettings, jitter
from study.science.loops import Report, autocast, batches, check_finite, one_cycle, steps_per_epoch

NEIGHBOURS, ALPHA, ITERATIONS = 10, 0.99, 100  # of label spreading
SHARPENING = 3  # power of the spread labels, which then sum to 1 again
CONFIDENCE = 0.6  # images whose label is less sure are left out
MEMORY = 0.7  # of a target, when it is moved towards the network's own prediction
FIRST_MOVE = 3  # the epoch in which targets begin to move
CHUNK = 1000  # points at a time, for the memory that their distances take


@dataclass(frozen=True)
class NeighbourGraph:
    """Nearest neighbours among latents [N, D]: symmetric weights, normalised, as a sparse matrix [N, N]."""

    weights: sparse.csr_matrix

    @classmethod
    def of(cls, latents: Tensor) -> NeighbourGraph:
        """Each point is tied to its 10 nearest; a tie weighs exp(-4 d^2 / d_10^2), d_10 being the farthest of them.

        Where there are fewer others, to all of them.
        """
        distances, neighbours = _nearest(latents, min(NEIGHBOURS, len(latents) - 1))
        count, k = neighbours.shape
        ties = np.exp(-4 * distances / distances[:, -1:].clip(1e-12))
        places = (neighbours.ravel(), k * np.arange(count + 1))
        weights = sparse.csr_matrix((ties.ravel(), *places), shape=(count, count))
        weights = weights + weights.T
        degrees = np.asarray(weights.sum(1)).ravel().clip(1e-12)  # 0 of a point that is the only one
        scale = sparse.diags(1 / np.sqrt(degrees))
        return cls((scale @ weights @ scale).tocsr().astype(np.float32))

    def spread(self, known: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Probabilities [N, classes] of each point's class, from those of a few points.

        Label spreading (Zhou et al. 2004, "Learning with local and global consistency"), F <- a S F + (1 - a) Y; the
        known labels are then put back.

        Args:
            known: Indices [M] of the labelled points.
            labels: Their labels [M].
        """
        start = np.zeros((self.weights.shape[0], classes), np.float32)
        start[known.cpu(), labels.cpu()] = 1
        scores = start
        for _ in range(ITERATIONS):
            scores = ALPHA * (self.weights @ scores) + (1 - ALPHA) * start
        found = torch.from_numpy(scores).to(known.device) + 1e-12  # a point that no label reaches: all alike
        found[known] = F.one_hot(labels, classes).float()
        return found / found.sum(1, keepdim=True)


def train_on_spread_labels(
    model: nn.Module,
    images: Tensor,
    probabilities: Tensor,
    known: Tensor,
    *,
    settings: ClassifierSettings,
    report: Report,
) -> None:
    """Self-training on jittered images: each image's target starts from its spread label and follows, slowly, what the
    network says of it (temporal ensembling, Laine & Aila 2017, https://arxiv.org/abs/1610.02242), as a pseudo-label
    (Lee 2013) where it is sure enough.

    Reports `train/loss`, and `train/used`, the share of the images whose label is sure enough.

    Args:
        model: Images to logits [N, classes].
        images: uint8 [N, C, H, W].
        probabilities: From `NeighbourGraph.spread`, [N, classes].
        known: Indices of the labelled images, whose targets never move.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    targets = probabilities**SHARPENING
    targets /= targets.sum(1, keepdim=True)
    truth = targets[known].clone()
    steps = settings.epochs * steps_per_epoch(len(images), settings.batch_size)
    optimizer, step = one_cycle(model, settings.learning_rate, steps)
    model.train()
    for epoch in range(1, settings.epochs + 1):
        losses, used = [], []
        for index in batches(len(images), settings.batch_size, images.device):
            sure, labels = targets[index].max(1)
            sure = (sure >= CONFIDENCE).float()
            with autocast(images.device):
                logits = model(jitter(to_float(images[index])))
            logits = logits.float()
            loss = (F.cross_entropy(logits, labels, reduction="none") * sure).sum() / sure.sum().clamp(min=1)
            optimizer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
            used.append(sure.mean())
            if epoch >= FIRST_MOVE:
                targets[index] = targets[index].lerp(logits.detach().softmax(1), 1 - MEMORY)
                targets[known] = truth
        metrics = {
            "train/loss": float(torch.stack(losses).mean()),
            "train/used": float(torch.stack(used).mean()),
        }
        check_finite(epoch, metrics)
        report(epoch, metrics)


def _nearest(points: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [N, k], ascending, and indices [N, k] of each point's nearest others."""
    squares = points.square().sum(1)
    distances, indices = [], []
    for start in range(0, len(points), CHUNK):
        part = points[start : start + CHUNK]
        found = squares[start : start + CHUNK, None] + squares - 2 * part @ points.T
        found[torch.arange(len(part)), start + torch.arange(len(part))] = torch.inf  # not itself
        values, places = found.topk(k, largest=False)
        distances.append(values.clamp(min=0).cpu().numpy())
        indices.append(places.cpu().numpy())
    return np.concatenate(distances), np.concatenate(indices)
