"""Measures of latents: correlation and effective rank, what follows from them, and how good generated ones are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import ToneCurve
from study.data.dataset import Dataset, Split
from study.measures.fidelity import frechet_distance, nearest_distance, ratio
from study.training.autoencoder import fit_tone_curve
from study.training.classifier import draw_labelled
from study.training.few_labels import svm_accuracy
from study.training.loops import Schedule, apply, eval_mode, fit, seeded
from study.training.sampling import draw_mixture

NAMED = 3  # coordinates that an error names
FLOOR_DRAWS = 5  # of independent N(0, 1) columns
EPOCHS, BATCH_SIZE, WIDTH, LEARNING_RATE = 30, 256, 128, 5e-3  # of the classifier
PROJECTIONS = 500
COMPARED = 2_000  # latents whose nearest training latent is looked up
COMPONENTS = 50  # of the mixture
FITTED, TONED = 20_000, 5_000  # training images that the mixture and the tone curve are fitted to
DRAWN, TIMES = 5_000, 10  # images drawn from the mixture: 5,000, but at most 10 times the validation images
LABELS_PER_CLASS, DRAWS = 10, 5
FD, TWO_SAMPLE, FEW_LABELS = "mixture/fd", "mixture/two_sample_accuracy", "few_labels/accuracy"

Distance = Callable[[Tensor], float]
"""Images [N, C, H, W] to their Frechet distance from the validation images."""


def pcc_matrix(latents: Tensor) -> Tensor:
    """Return the Pearson correlations [D, D] of the columns of latents [N, D].

    Raises:
        FloatingPointError: A column is constant or not finite, so that its correlation is undefined.
    """
    centred = (latents - latents.mean(0)).double()
    norms = centred.norm(dim=0)
    bad = (~(norms > 1e-9 * len(latents) ** 0.5)).nonzero().flatten().tolist()
    if bad:
        some = ", ".join(map(str, bad[:NAMED])) + ", ..." * (len(bad) > NAMED)
        raise FloatingPointError(f"PCC is undefined: {len(bad)} latent coordinates ({some}) are constant or not finite")
    unit = centred / norms
    return (unit.T @ unit).clamp(-1, 1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the entries [D * (D - 1)] of a square matrix [D, D] off its diagonal."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def principal_axes(latents: Tensor) -> Tensor:
    """Return the eigenvectors of the covariance of latents [N, D] as orthonormal columns [D, D]."""
    return torch.linalg.eigh(torch.atleast_2d(torch.cov(latents.double().T))).eigenvectors


def rotate_to_principal_axes(model: Autoencoder, images: Tensor) -> Autoencoder:
    """Return a copy of the model with the same reconstructions and uncorrelated latents of these images."""
    rotated = copy.deepcopy(model)
    with eval_mode(rotated):
        rotated.rotate_latents(principal_axes(apply(rotated.encoder, images)))
    return rotated


def effective_rank(latents: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of the centred latents [N, D]: 1 to D.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", eq. 4.
    """
    singular = torch.linalg.svdvals((latents - latents.mean(0)).double())
    fractions = singular / singular.sum()
    return float(torch.special.entr(fractions).sum().exp())


def max_abs_pcc(latents: Tensor) -> float:
    """Return the largest absolute correlation (`pcc_matrix`) of two columns of latents [N, D]; 0 for one column."""
    found = off_diagonal(pcc_matrix(latents)).abs()
    return float(found.max()) if len(found) else 0.0


def latent_measures(latents: Tensor, rotated: Tensor) -> dict[str, float]:
    """Return the correlation measures of held-out latents [N, D] by name; errors as in `pcc_matrix`.

    Args:
        rotated: The latents in the principal axes of the training latents.
    """
    generator = torch.Generator().manual_seed(0)
    floors = [max_abs_pcc(torch.randn(latents.shape, generator=generator)) for _ in range(FLOOR_DRAWS)]
    return {
        "latent/max_abs_pcc": max_abs_pcc(latents),
        "latent/max_abs_pcc_rotated": max_abs_pcc(rotated),
        "latent/mean_abs_pcc": float(off_diagonal(pcc_matrix(latents)).abs().mean()),
        "latent/pcc_noise_floor": sum(floors) / FLOOR_DRAWS,  # max |PCC| of as many samples of independent columns
        "latent/effective_rank": effective_rank(latents),
    }


def consequences(autoencoder: Autoencoder, data: Dataset, distance: Distance | None) -> dict[str, float]:
    """Return what follows from the latents of an autoencoder, by name.

    - `mixture/two_sample_accuracy`: how often a classifier tells samples of a Gaussian mixture, fitted to the training
      latents, from validation latents; 0.5: it cannot. NaN with fewer than four validation images.
    - `mixture/fd`: the distance of such samples, decoded and sent through the tone curve, from the validation images.
    - `few_labels/accuracy`: the validation accuracy of support vector machines (RBF kernel) on the latents of 10 images
      a class, mean over five draws.

    Args:
        distance: See `judged_distance`; None without classes: only the first measure is computed.
    """
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:FITTED]
    fitted = data.train.images[order.to(data.train.images.device)]
    with eval_mode(autoencoder):
        train, val = (apply(autoencoder.encoder, images) for images in (fitted, data.val.images))
    drawn, _ = draw_mixture(train, val[:0], COMPONENTS, min(DRAWN, TIMES * len(val)), seed=0, quick=True)
    count = min(len(drawn), len(val))
    found = {TWO_SAMPLE: two_sample_accuracy(drawn[:count], val[:count]) if count > 3 else math.nan}
    if distance is None:
        return found
    tone = ToneCurve().to(drawn.device)
    tone.levels.copy_(fit_tone_curve(autoencoder, fitted[:TONED]))
    with eval_mode(autoencoder):
        found[FD] = distance(apply(lambda latents: tone(autoencoder.decoder(latents)), drawn))
    return found | {FEW_LABELS: few_label_accuracy(autoencoder, data, val)}


def few_label_accuracy(autoencoder: Autoencoder, data: Dataset, val: Tensor) -> float:
    """Return the mean accuracy on validation latents [N, D] of classifiers fitted to five draws of 10 images a class.

    With smaller classes each draw takes as many images a class as the smallest has.
    """
    counts, found = torch.bincount(data.train.labels), []
    for draw in range(DRAWS):
        most = min(LABELS_PER_CLASS, int(counts.min()))
        few = data.train.take(draw_labelled(data.train.labels, most, draw, classes=len(counts)))
        with eval_mode(autoencoder):
            points = apply(autoencoder.encoder, few.images)
        rows = (each.cpu().numpy() for each in (points, few.labels, val, data.val.labels))
        found.append(svm_accuracy(*rows))
    return sum(found) / len(found)


def judged_distance(judges: Sequence[Judge], images: Tensor) -> Distance:
    """Return the Frechet distance from these images [N, C, H, W], the geometric mean over the judges' features."""
    real = [apply(judge.features, images) for judge in judges]

    def distance(fake: Tensor) -> float:
        features = (apply(judge.features, fake) for judge in judges)
        return math.prod(map(frechet_distance, features, real)) ** (1 / len(real))

    return distance


@dataclass(frozen=True)
class EncodedImages:
    """The latents of a split, standardised for a GAN, and the numbers that restore them."""

    vectors: Tensor  # [N, latent_dim]; standardised: mean 0 and standard deviation 1 in each coordinate
    mean: Tensor  # [latent_dim]
    std: Tensor  # [latent_dim]
    labels: Tensor  # [N]

    @classmethod
    def encode(cls, autoencoder: Autoencoder, split: Split) -> EncodedImages:
        """Return the standardised latents of a split."""
        with eval_mode(autoencoder):
            latents = apply(autoencoder.encoder, split.images)
        mean, std = latents.mean(0), latents.std(0)
        return cls((latents - mean) / std, mean, std, split.labels)

    @property
    def latents(self) -> Tensor:
        """Latents [N, latent_dim] in the autoencoder's own scale."""
        return self.vectors * self.std + self.mean

    def raw(self, autoencoder: Autoencoder) -> EncodedImages:
        """Return the same latents in the scale before the encoder's last BatchNorm, not standardised."""
        norm: Any = autoencoder.encoder[-1]  # BatchNorm
        scale = (norm.running_var + norm.eps).sqrt()
        vectors = self.latents * scale + norm.running_mean
        return EncodedImages(vectors, -norm.running_mean / scale, 1 / scale, self.labels)


class LatentFidelity:
    """Measures of generated latents against held-out ones; what concerns real latents alone is computed once.

    Args:
        train: Training latents [T, D], of variance 1 in every coordinate; all others are in the same coordinates.
        held_out: Held-out latents [N, D].
    """

    def __init__(self, train: Tensor, held_out: Tensor) -> None:
        self.train, self.held_out = train, held_out
        self._floor = cache(lambda count: sliced_wasserstein(train[:count], held_out[:count]))
        self._unseen = cache(lambda: nearest_distance(held_out[:COMPARED], train))

    def measures(self, generated: Tensor) -> dict[str, float]:
        """Return all measures of generated latents [M, D], by their names in MLflow; the first min(M, N) are compared.

        The units are the distance of training latents (`latent/sliced_wasserstein`) and the distance of held-out
        latents to the nearest training latent (`latent/nearest`).
        """
        count = min(len(generated), len(self.held_out))
        ours, theirs = generated[:count], self.held_out[:count]
        return {
            "latent/two_sample_accuracy": two_sample_accuracy(ours, theirs),
            "latent/sliced_wasserstein": ratio(sliced_wasserstein(ours, theirs), self._floor(count)),
            "latent/nearest": ratio(nearest_distance(ours[:COMPARED], self.train), self._unseen()),
        }


def two_sample_accuracy(generated: Tensor, real: Tensor, seed: int = 0) -> float:
    """Return how often a classifier tells held-out generated points [N, D] from real ones [N, D]; 0.5: it cannot.

    The classifier two-sample test (Lopez-Paz & Oquab 2017, https://arxiv.org/abs/1610.06545): a small network, trained
    on each half of the points, classifies the other half. With 10,000 points of both kinds the result has a standard
    deviation of 0.0035. NaN with fewer than four points in all.
    """
    points = torch.cat([generated, real])
    if len(points) < 4:
        return math.nan
    labels = torch.cat([torch.zeros(len(generated)), torch.ones(len(real))]).to(points)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed)).to(points.device)
    first, second = order.chunk(2)
    right = 0.0
    with seeded(seed, points.device):
        for fold, others in ((first, second), (second, first)):
            classifier = _train_classifier(points[others], labels[others])
            with torch.no_grad():
                right += float(((classifier(points[fold]).flatten() > 0) == (labels[fold] > 0.5)).sum())
    return right / len(points)


@torch.enable_grad()
def _train_classifier(points: Tensor, labels: Tensor) -> nn.Module:
    """Return a classifier of points [N, D] to logits [N, 1], in evaluation mode."""
    layers: list[nn.Module] = []
    for into in (points.shape[1], WIDTH):
        layers += [nn.Linear(into, WIDTH), nn.BatchNorm1d(WIDTH), nn.SiLU()]
    classifier = nn.Sequential(*layers, nn.Linear(WIDTH, 1)).to(points.device)

    def losses_of(index: Tensor) -> list[Tensor]:
        return [F.binary_cross_entropy_with_logits(classifier(points[index]).flatten(), labels[index])]

    fit(classifier, losses_of, [], points, Schedule(EPOCHS, BATCH_SIZE, LEARNING_RATE), graph=True)
    return classifier.eval()


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Return the 2-Wasserstein distance of points [N, D] to others [N, D], averaged over random lines.

    Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing": the root of the mean of the
    squared distances on the lines, where sorting solves the transport.
    """
    lines = torch.randn(a.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(seed)).to(a)
    lines = lines / lines.norm(dim=0)
    gaps = _sorted((a @ lines).T) - _sorted((b @ lines).T)
    return float(gaps.square().mean().sqrt())


def _sorted(rows: Tensor) -> Tensor:
    """Sort each row [L, N]; on a CPU NumPy sorts several times faster than PyTorch."""
    return rows.sort(1).values if rows.is_cuda else torch.from_numpy(np.sort(rows.numpy(), axis=1))
