"""Paths from one class to another: through a generator's noise, and through the autoencoder's latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from study.measures.fidelity import SURE
from study.measures.judges import Evaluator
from study.training.loops import apply

PATHS, STEPS = 100, 11
CANDIDATES = 5_000  # noise vectors and images among which the ends are looked for
REFERENCE_PAIRS = ((5, 6), (6, 7))  # that the reference shows

Between = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Points [P, S, D] between starts and ends [P, 1, D], at fractions [1, S, 1] of the path."""


@dataclass(frozen=True)
class Interpolation:
    """Images on P paths between pairs of classes.

    Attributes:
        images: [P, STEPS, C, H, W], in [0, 1], the ends included.
        measures: Of the steps between the ends, means over the paths: `no_class`, the fraction whose confidence is
            below SURE; `third_class`, the fraction of paths with a step of at least that confidence of neither of the
            two classes; `smoothness` of the paths that move, a path's length over its longest step times their number:
            1 for equal steps, 1 / (STEPS - 1) for a jump, which has the best `no_class` and `third_class`.
    """

    images: Tensor
    measures: Mapping[str, float]


def slerp(starts: Tensor, ends: Tensor, fraction: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985; for noise: White 2016, https://arxiv.org/abs/1609.04468).

    On the path the length stays near that of a typical sample of N(0, I), which on the straight line it does not.
    """
    cosine = torch.nn.functional.cosine_similarity(starts, ends, dim=-1).unsqueeze(-1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()
    return (torch.sin((1 - fraction) * angle) * starts + torch.sin(fraction * angle) * ends) / angle.sin()


def class_pairs(count: int, classes: int, seed: int) -> Tensor:
    """Return random pairs [count, 2] of different classes; with more than 7 classes, the reference's pairs first.

    Raises:
        ValueError: There are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"`2 <= classes` must hold, but got {classes}")
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, classes, (count,), generator=generator)
    ends = (starts + torch.randint(1, classes, (count,), generator=generator)) % classes
    found = torch.stack([starts, ends], 1)
    if classes > 7:
        found[:2] = torch.tensor(REFERENCE_PAIRS)[:count]
    return found


def interpolate(
    points: Tensor, decode: Callable[[Tensor], Tensor], between: Between, wanted: Tensor, evaluator: Evaluator
) -> Interpolation:
    """Decode paths between points that the judge takes for the wanted classes, with confidence if there are enough.

    Args:
        points: Candidates [N, D].
        decode: From points [M, D] to images [M, C, H, W].
        wanted: Pairs of classes [P, 2].
    """
    probabilities = evaluator.probabilities(apply(decode, points))
    places = torch.empty_like(wanted)
    for each in range(probabilities.shape[1]):
        asked = (wanted == each).nonzero(as_tuple=True)
        # The confident ones in their own order, not the most confident first: typical ones are wanted.
        order = probabilities[:, each].clamp(max=SURE).argsort(descending=True, stable=True).to(wanted.device)
        places[asked] = order[torch.arange(len(asked[0])) % len(order)]
    fraction = torch.linspace(0, 1, STEPS, device=points.device)[None, :, None]
    starts, ends = points[places[:, 0], None], points[places[:, 1], None]
    images = apply(decode, between(starts, ends, fraction).flatten(0, 1))
    paths = (len(wanted), STEPS)
    confidence, classes = evaluator.probabilities(images).max(1)
    inner = confidence.unflatten(0, paths)[:, 1:-1]  # the ends are confident by choice
    of_ends = (classes.unflatten(0, paths)[:, 1:-1, None] == wanted.to(classes.device)[:, None]).any(2)
    steps = evaluator.features(images).unflatten(0, paths).diff(dim=1).norm(dim=2)  # [P, STEPS - 1]
    measures = {
        "no_class": (inner < SURE).float().mean(1),
        "third_class": ((inner >= SURE) & ~of_ends).any(1).float(),
        "smoothness": steps.sum(1) / (steps.max(1).values * steps.shape[1]),
    }
    return Interpolation(images.unflatten(0, paths), {name: float(of.nanmean()) for name, of in measures.items()})
