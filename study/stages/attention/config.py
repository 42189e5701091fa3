"""Settings of the attention stage."""

from __future__ import annotations

from dataclasses import dataclass

from study.harness.settings import MOST_REPEATS, at_least, at_most


@dataclass(frozen=True)
class AttentionConfig:
    """Self-attention as convolutions and fully connected layers: a copy of the encoder, and layers that learn."""

    repeats: int = 1
    """Trainings of each main layer that learns, each with its own seed; the figures are means over them."""
    free_trials: int = 1
    """Layers that imitate the convolution, and as many that imitate the fully connected layer, that Optuna picks: their
    encoding of places, window, heads, and whether scores see the content."""
    epochs: int = 3
    """Passes over the images, in every training."""
    images: int = 6_400
    """Training images of a pass; an eighth of them where scores see the content, and differ from image to image."""
    draws: int = 5
    """Random layers that are turned into attention, for the errors of the exact forms."""

    def __post_init__(self) -> None:
        at_least(0, free_trials=self.free_trials)
        at_least(1, repeats=self.repeats, epochs=self.epochs, images=self.images)
        at_least(2, draws=self.draws)
        at_most(MOST_REPEATS, repeats=self.repeats)


EXTENT = ("repeats", "free_trials")
PRESETS = {
    "smoke": AttentionConfig(free_trials=0, epochs=1, images=320, draws=2),
    "demo": AttentionConfig(free_trials=0, epochs=2, images=3_200),
    "exercise": AttentionConfig(repeats=3, free_trials=2, epochs=4),
    "full": AttentionConfig(repeats=5, free_trials=40, epochs=30, draws=20),
}
