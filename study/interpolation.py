"""Ways from one digit to another: through a generator's noise, and through the autoencoder's latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from study import metrics
from study.metrics import CLASSES, SURE
from study.sampling import Examiner
from study.training import apply

PATHS, STEPS = 100, 11
CANDIDATES = 5_000  # noise vectors and images among which the ends are looked for

Between = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Points [P, S, D] between starts and ends [P, 1, D], at shares [1, S, 1] of the way."""


@dataclass(frozen=True)
class Path:
    """Images on PATHS ways between the same pairs of digits."""

    images: Tensor  # [PATHS, STEPS, 1, 28, 28], in [0, 1]
    measures: Mapping[str, float]


def slerp(starts: Tensor, ends: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985; for noise: White 2016, https://arxiv.org/abs/1609.04468).

    On the way the length stays near that of a typical sample of N(0, I), which on the straight line it does not.
    """
    cosine = torch.nn.functional.cosine_similarity(starts, ends, dim=-1).unsqueeze(-1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()
    return (torch.sin((1 - share) * angle) * starts + torch.sin(share * angle) * ends) / angle.sin()


def pairs(count: int, seed: int) -> Tensor:
    """Pairs [count, 2] of different digits, the reference's 5 to 6 and 6 to 7 first."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, CLASSES, (count,), generator=generator)
    ends = (starts + torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
    found = torch.stack([starts, ends], 1)
    found[:2] = torch.tensor([[5, 6], [6, 7]])
    return found


def walk(
    points: Tensor, decode: Callable[[Tensor], Tensor], between: Between, wanted: Tensor, examiner: Examiner
) -> Path:
    """Walk between points that the judge takes for the wanted digits, surely so where there are enough.

    Args:
        points: Candidates [N, D].
        decode: From points [M, D] to images [M, 1, 28, 28].
        wanted: Pairs of digits [P, 2].
    """
    probabilities = examiner.probabilities(apply(decode, points))
    places = torch.empty_like(wanted)
    for digit in range(CLASSES):
        slots = (wanted == digit).nonzero(as_tuple=True)
        # The sure ones in their own order, not the surest first: typical ones are wanted.
        order = probabilities[:, digit].clamp(max=SURE).argsort(descending=True, stable=True).to(wanted.device)
        places[slots] = order[torch.arange(len(slots[0])) % len(order)]
    share = torch.linspace(0, 1, STEPS, device=points.device)[None, :, None]
    starts, ends = points[places[:, 0], None], points[places[:, 1], None]
    images = apply(decode, between(starts, ends, share).flatten(0, 1))
    confidence = examiner.probabilities(images).max(1).values
    features = examiner.features(images).unflatten(0, (len(wanted), STEPS))
    inner = confidence.unflatten(0, (len(wanted), STEPS))[:, 1:-1]  # the ends are sure by choice
    return Path(
        images.unflatten(0, (len(wanted), STEPS)),
        {
            "confidence": float(inner.mean()),
            "no_digit": float((inner < SURE).float().mean()),
            "smoothness": metrics.path_smoothness(features),
        },
    )
