"""Settings of the judges."""

from __future__ import annotations

from dataclasses import dataclass

from study.harness.settings import at_least, positive


@dataclass(frozen=True)
class JudgeConfig:
    """The classifiers that measure generated images."""

    epochs: int = 5
    """Passes over the training images."""
    batch_size: int = 256
    """Images per step."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs)
        at_least(2, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)


PRESETS = {"smoke": JudgeConfig(epochs=2), "demo": JudgeConfig(epochs=2)}
