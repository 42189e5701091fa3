"""Settings of the transfer stage."""

from __future__ import annotations

from dataclasses import dataclass

from study.harness.settings import at_least

LABELS_PER_CLASS = 10  # the reference's 100 labels of ten classes


@dataclass(frozen=True)
class TransferConfig:
    """What the trained encoder is worth with few labels."""

    labels_per_class: int = LABELS_PER_CLASS
    """Labelled training images of each class."""
    draws: int = 3
    """How often these images are drawn anew; the figures are means over the draws."""
    label_counts: tuple[int, ...] = ()
    """Other numbers of labelled images of each class, for the figure of accuracy against labels."""
    count_draws: int = 2
    """Draws of each of those."""
    epochs: int = 50
    """Epochs over the labelled images; one of the head on the frozen encoder takes each image ten times."""
    semi_epochs: int = 8
    """Passes over all the training images in self-training, which uses those without a label too."""
    hidden: int = 128
    """Neurons of the MLP's hidden layer."""

    def __post_init__(self) -> None:
        at_least(1, labels_per_class=self.labels_per_class, label_counts=min(self.label_counts, default=1))
        at_least(1, draws=self.draws, count_draws=self.count_draws, hidden=self.hidden)
        at_least(1, epochs=self.epochs, semi_epochs=self.semi_epochs)


EXTENT = ("draws", "labels_per_class", "label_counts", "count_draws")
PRESETS = {
    "smoke": TransferConfig(draws=1, epochs=10, semi_epochs=2),
    "demo": TransferConfig(draws=1, semi_epochs=2),
    "exercise": TransferConfig(draws=5, label_counts=(1, 5, 30), count_draws=1),
    "full": TransferConfig(draws=30, label_counts=(1, 2, 5, 30, 100), count_draws=10),
}
