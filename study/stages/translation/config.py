"""Settings of the translation stage."""

from __future__ import annotations

from dataclasses import dataclass

from study.harness.settings import MOST_REPEATS, at_least, at_most
from study.science.translation_settings import LEVELS, MATRIX, MATRIX_LEVEL, PAIRINGS, TASKS, Pairing, Task, check_level

JUDGES = ("judge", "second-judge")  # the kinds of model that measure, in their order


@dataclass(frozen=True)
class TranslationConfig:
    """Plain GAN, CycleGAN, conditional GAN and the L1 loss alone, on images that are paired more or less exactly."""

    tasks: tuple[Task, ...] = ("outline",)
    """From A to B: outline (from outlines to images), thicken, rotate (by 90 degrees). The translator that is
    registered is of the first."""
    repeats: int = 1
    """Trainings of each model on images that are paired, loosely paired (level 3) and unpaired, each with its own
    seed."""
    levels: tuple[int, ...] = ()
    """Other levels of misalignment, 1 to 5, for the figure of error against level."""
    level_repeats: int = 1
    """Trainings of each model at each of those, and with each of the other pairings."""
    pairings: tuple[Pairing, ...] = ()
    """Other pairings: class (with another image of the same class), shifted (unpaired, other shares of the classes)."""
    free_trials: int = 0
    """Trials by which Optuna searches learning rates and loss weights, the same number for each model and pairing."""
    epochs: int = 5
    """Epochs, in every trial; the learning rate falls in the second half."""
    images: int = 10_000
    """Pairs an epoch, at most half of the training images: so many steps for each model and pairing."""
    batch_size: int = 32
    """Pairs a step."""

    def __post_init__(self) -> None:
        at_least(1, tasks=len(self.tasks), repeats=self.repeats, level_repeats=self.level_repeats, epochs=self.epochs)
        at_least(1, images=self.images, batch_size=self.batch_size)
        at_least(0, free_trials=self.free_trials)
        at_most(MOST_REPEATS, repeats=self.repeats, level_repeats=self.level_repeats)
        for level in self.levels:
            check_level(level)
        for name, values, there in (
            ("tasks", self.tasks, ()),
            ("levels", self.levels, (MATRIX_LEVEL,)),
            ("pairings", self.pairings, MATRIX),
        ):
            if len({*values, *there}) < len(values) + len(there):
                beside = f" and none of {', '.join(map(str, there))}, which are there anyhow" if there else ""
                raise ValueError(f"`{name}` must have each once{beside}, but got {', '.join(map(str, values))}")


EXTENT = ("tasks", "repeats", "levels", "level_repeats", "pairings", "free_trials")
PRESETS = {
    "smoke": TranslationConfig(epochs=1, images=128),
    "demo": TranslationConfig(epochs=1, images=1_000),
    "exercise": TranslationConfig(levels=(1, 5)),
    "full": TranslationConfig(
        tasks=TASKS,
        repeats=3,
        levels=tuple(level for level in LEVELS if level != MATRIX_LEVEL),
        level_repeats=3,
        pairings=tuple(pairing for pairing in PAIRINGS if pairing not in MATRIX),
        free_trials=12,
        epochs=30,
    ),
}
