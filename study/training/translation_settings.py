"""What a translator is trained on and with: names and numbers. Light: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["outline", "thicken", "rotate"]
Pairing = Literal["paired", "loosely paired", "class", "unpaired", "shifted"]
Method = Literal["plain GAN", "CycleGAN", "conditional GAN", "L1 alone"]
TASKS: tuple[Task, ...] = get_args(Task)
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
METHODS: tuple[Method, ...] = get_args(Method)
GAN, CYCLE_GAN, CONDITIONAL_GAN, L1 = METHODS
MATRIX: tuple[Pairing, ...] = ("paired", "loosely paired", "unpaired")
"""The pairings that the reference compares."""
LEVELS = range(1, 6)
"""Of misalignment, RegGAN's (Kong et al. 2021, https://arxiv.org/abs/2110.06465)."""
MATRIX_LEVEL = 3  # of the loosely paired images in the matrix


def check_level(level: int) -> None:
    """Check a level of misalignment.

    Raises:
        ValueError: It is outside 1 to 5.
    """
    if level not in LEVELS:
        raise ValueError(f"`{LEVELS[0]} <= level <= {LEVELS[-1]}` must hold, but got {level}")


@dataclass(frozen=True)
class TranslationSettings:
    """How a translator is trained.

    Attributes:
        learning_rate: Adam's, of the translators; constant in the first half of the epochs, falling to zero then.
        discriminator_rate: The same of the discriminators; 0: there is none.
        weight: Of the L1 loss, or of CycleGAN's cycle loss, beside the adversarial loss, which has weight 1.
        identity: Weight of CycleGAN's identity loss, as a share of `weight`.
    """

    method: Method
    learning_rate: float
    discriminator_rate: float = 0.0
    weight: float = 0.0
    identity: float = 0.0


RATE = 2e-4
"""Adam's learning rate in pix2pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004, section 3.3) and in CycleGAN
(Zhu et al. 2017, https://arxiv.org/abs/1703.10593, section 4), for batches of one image."""
PUBLISHED: Mapping[Method, TranslationSettings] = {
    GAN: TranslationSettings(GAN, RATE, RATE),
    CYCLE_GAN: TranslationSettings(CYCLE_GAN, RATE, RATE, weight=10, identity=0.5),
    CONDITIONAL_GAN: TranslationSettings(CONDITIONAL_GAN, RATE, RATE, weight=100),
    L1: TranslationSettings(L1, RATE, weight=1),
}
"""The weights of pix2pix (lambda = 100; "GAN alone" is the first row of its table 1) and of CycleGAN (lambda = 10,
identity 0.5 lambda, section 5.2), for pixels from -1 to 1."""
