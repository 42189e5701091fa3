"""How good translated images are: against the true translation, by judges of domain B, and what a cycle loss hides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.classifier import Judge
from study.data.dataset import to_float
from study.measures import fidelity
from study.measures.fidelity import Moments
from study.measures.judges import NEAREST, PARTS
from study.training.loops import EVAL_BATCH, apply, seeded

NOISE = 3 / 255  # standard deviation; Chu et al. 2017, https://arxiv.org/abs/1712.02950, add such noise


def error(images: Tensor, truth: Tensor) -> float:
    """Mean absolute error per pixel of floats [N, C, S, S] in [0, 1] against uint8 ones."""
    return _mean(images, truth, torch.abs)


def peak_signal_to_noise(images: Tensor, truth: Tensor) -> float:
    """PSNR in decibels, of the mean squared error over all images; infinite for equal ones."""
    squared = _mean(images, truth, torch.square)
    return -10 * math.log10(squared) if squared else math.inf


def _mean(images: Tensor, truth: Tensor, of: Callable[[Tensor], Tensor]) -> float:
    parts = zip(images.split(EVAL_BATCH), truth.split(EVAL_BATCH), strict=True)
    return math.fsum(float(of(ours - to_float(theirs)).sum()) for ours, theirs in parts) / images.numel()


def dependence(images: Tensor, truth: Tensor) -> float:
    """How much the images [N, C, S, S] depend on their inputs: their variance over the inputs, summed over the pixels,
    as a share of the true images'. 0: all the same, whatever the input. NaN if the true ones are all the same.
    """
    theirs = float(to_float(truth).var(0).sum())
    return float(images.var(0).sum()) / theirs if theirs else math.nan


def permuted_accuracy(guesses: Tensor, labels: Tensor, classes: int) -> tuple[float, Tensor]:
    """Share of guesses [N] that are right if classes were renamed in the best way, and the name [classes] that each
    class would get. Neither a discriminator nor a cycle loss sees that a translator swaps classes.

    The best way is a linear assignment (Kuhn 1955) on the confusion counts.
    """
    counts = torch.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes)
    rows, columns = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    names = torch.from_numpy(columns)
    return float(counts.cpu()[torch.from_numpy(rows), names].sum()) / len(labels), names


def rounded(images: Tensor) -> Tensor:
    """Images in [0, 1] as 8 bits a pixel keep them."""
    return (images * 255).round() / 255


def noisy(images: Tensor) -> Tensor:
    """Images in [0, 1] with a little noise, the same for the same seed."""
    return (images + NOISE * torch.randn_like(images)).clamp(0, 1)


@torch.no_grad()
def cycle_measures(
    inputs: Tensor, translated: Tensor, back: Callable[[Tensor], Tensor], seed: int = 0
) -> dict[str, float]:
    """`cycle/error`, the mean absolute error per pixel of inputs that were translated there and back, and the same
    after the translation was rounded to 8 bits, or given noise of 3/255. Information that is hidden in fine differences
    (Chu et al. 2017) does not survive these: the error then grows, though the translation looks the same.

    Args:
        inputs: uint8 [N, C, S, S].
        translated: Floats of the same shape.
        back: From domain B to A.
        seed: Of the noise; the caller's random state stays.
    """
    changes: Mapping[str, Callable[[Tensor], Tensor]] = {
        "cycle/error": lambda images: images,
        "cycle/error_rounded": rounded,
        "cycle/error_noisy": noisy,
    }
    with seeded(seed, translated.device):
        return {name: error(apply(back, change(translated)), inputs) for name, change in changes.items()}


@dataclass(frozen=True, eq=False)
class Truth:
    """Held-out images and the judges of domain B. No gradients.

    Attributes:
        a: Inputs, uint8 [N, C, S, S].
        b: Their true translations.
        labels: [N].
        judges: Trained on domain B, in evaluation mode; the names of their measures begin as those of `Judges`' first.
    """

    a: Tensor
    b: Tensor
    labels: Tensor
    judges: Sequence[Judge]
    classes: int

    @cached_property
    def features(self) -> list[Tensor]:
        """Of the true translations, by each judge, [N, D]."""
        with torch.no_grad():
            return [apply(judge.features, self.b) for judge in self.judges]

    @cached_property
    def moments(self) -> list[Moments]:
        return [Moments.of(features) for features in self.features]

    @cached_property
    def radius(self) -> Tensor:
        """The distance of each true image to its fifth neighbour, by the first judge, [N]."""
        return fidelity.kth_neighbour(self.features[0], NEAREST)

    @torch.no_grad()
    def measures(self, images: Tensor) -> dict[str, float]:
        """All measures of the translations [N, C, S, S] of `a`, floats in [0, 1]: `test/mae`, `test/psnr` (where it is
        finite), `dependence`, by each judge `kept` (share of the images of the input's class), `permuted` (the same
        under the best permutation of classes) and `fd`, and by the first one recall and coverage.
        """
        found = {"test/mae": error(images, self.b), "test/dependence": dependence(images, self.b)}
        signal = peak_signal_to_noise(images, self.b)
        if math.isfinite(signal):
            found["test/psnr"] = signal
        for number, (part, judge) in enumerate(zip(PARTS, self.judges, strict=False)):
            features = apply(judge.features, images)
            guesses = judge.head(features).argmax(1)
            found[f"{part}/kept"] = float((guesses == self.labels).float().mean())
            found[f"{part}/permuted"], _ = permuted_accuracy(guesses, self.labels, self.classes)
            found[f"{part}/fd"] = fidelity.frechet_distance(Moments.of(features), self.moments[number])
            if number == 0:
                reach = fidelity.neighbourhood_measures(self.features[0], features, NEAREST, self.radius)
                found |= {name: reach[name] for name in ("sample/recall", "sample/coverage")}
        return found
