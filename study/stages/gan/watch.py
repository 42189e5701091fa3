"""A generator in training, looked at from outside: measures on validation images, sheets of samples."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.gan import Generator, LatentGenerator, with_labels
from study import plots
from study.data.dataset import Split, to_pixels
from study.engine.search import Trial
from study.measures.judges import collapse
from study.measures.latents import max_abs_pcc
from study.stages.gan.inputs import GanInputs
from study.training.gan import GanSettings
from study.training.loops import Diverged, eval_mode
from study.training.sampling import labels_like, noise, sample_count

WATCH_SEED = 0  # the same noise at each evaluation of each trial, so that pictures can be compared
SAMPLES_IN_ROW = 10  # samples in a row of the sheets, and rows of those without labels
SHOWN_CLASSES = 20  # rows of the sheets with labels
SETTLED = 4  # collapse is looked for after the first 1 / SETTLED of the epochs: at first every generator has collapsed


@dataclass
class Watch:
    """A generator in training, looked at from outside: measures on validation images, sheets of samples."""

    inputs: GanInputs
    model: LatentGenerator
    settings: GanSettings
    classes: int  # 0: the generator takes no labels
    epochs: int
    collapses: dict[int, str | None] = field(default_factory=dict)  # by epoch; None: it has not collapsed
    _over_training: dict[int, np.ndarray] = field(default_factory=dict)

    def drawn(self, count: int, seed: int, like: Split) -> tuple[Tensor, Tensor | None]:
        """Inputs [count, noise_dim (+ classes)], and the labels [count] asked for, in the shares of a split."""
        vectors = noise(count, self.settings.noise_dim, seed, self.inputs.device)
        if not self.classes:
            return vectors, None
        labels = labels_like(like.labels, count)
        return with_labels(vectors, labels, self.classes), labels

    def measures(self, network: Generator, seed: int = WATCH_SEED) -> dict[str, float]:
        """`val/` measures of as many samples as there are validation images, and their largest correlation if any."""
        val = self.inputs.data.val
        vectors, _ = self.drawn(sample_count(len(val)), seed, val)
        with eval_mode(network):
            latents = self.inputs.standardised(network(vectors) * self.model.std + self.model.mean)
        if not bool(torch.isfinite(latents).all()):
            raise Diverged("the generated latents are not finite")
        found = self.inputs.judges.val_measures(self.inputs.decode(latents))
        with suppress(FloatingPointError):  # a generator whose output is constant: collapse, not an error
            found["latent/max_abs_pcc"] = max_abs_pcc(latents)
        return found

    def has_collapsed(self, epoch: int, measures: Mapping[str, float]) -> None:
        """Note whether it has, at this epoch."""
        self.collapses[epoch] = collapse(measures, len(self.inputs.data.classes))

    def collapse_measures(self) -> dict[str, float]:
        """Whether it has collapsed at the end, and at which share of the epochs that were looked at."""
        looked_at = [epoch for epoch in self.collapses if epoch * SETTLED >= self.epochs]
        found = [self.collapses[epoch] is not None for epoch in looked_at]
        return {"collapse/last": float(found[-1]), "collapse/epochs": sum(found) / len(found)} if found else {}

    def sheet(self) -> np.ndarray:
        """The samples [M, H, W (, 3)] that every trial shows, in rows of SAMPLES_IN_ROW."""
        with eval_mode(self.model):
            return to_pixels(self.model(shown_inputs(self.settings.noise_dim, self.classes, self.inputs.device)))

    def show(self, trial: Trial, epoch: int) -> None:
        """Log the sheet, for the step slider."""
        images = self.sheet()
        trial.run.log_image("samples", plots.grid(images, SAMPLES_IN_ROW), step=epoch)
        rows = range(len(images) // SAMPLES_IN_ROW)
        diagonal = [row * SAMPLES_IN_ROW + row % SAMPLES_IN_ROW for row in rows]  # of each class another noise
        self._over_training[epoch] = images[diagonal] if self.classes else images[:SAMPLES_IN_ROW]

    def log_figures(self, trial: Trial, what: str) -> None:
        """Losses, distance, and samples: at the end, and as training went on."""
        losses = {name: trial.history[name] for name in ("critic/loss", "generator/loss") if name in trial.history}
        trial.run.log_figure("loss", plots.curves(losses, "epoch", "loss", what))
        judges = {"both (chosen by)": "val/fd", "first judge": "val/fd_1", "second judge": "val/fd_2"}
        distances = {name: trial.history[metric] for name, metric in judges.items()}
        figure = plots.curves(distances, "epoch", "Frechet distance, validation", what, log_y=True, markers=True)
        trial.run.log_figure("fd", figure)
        classes = self.inputs.data.classes if self.classes else ()
        rows = list(classes[:SHOWN_CLASSES]) if classes else [""] * SAMPLES_IN_ROW
        more = f"; the first {SHOWN_CLASSES} of {len(classes)} classes" if len(classes) > SHOWN_CLASSES else ""
        trial.run.log_figure("samples", plots.labelled_grid(self.sheet(), rows, what + more))
        epochs = [f"epoch {epoch}" for epoch in self._over_training]
        images = np.concatenate(list(self._over_training.values()))
        trial.run.log_figure("samples_over_training", plots.labelled_grid(images, epochs, what))


def shown_inputs(noise_dim: int, classes: int, device: torch.device) -> Tensor:
    """The inputs [M, noise_dim (+ classes)] of every trial's sample sheet; with labels: a row a class, ten noises."""
    vectors = noise(SAMPLES_IN_ROW * SAMPLES_IN_ROW, noise_dim, WATCH_SEED, device)
    if not classes:
        return vectors
    rows = min(classes, SHOWN_CLASSES)
    labels = torch.arange(rows, device=device).repeat_interleave(SAMPLES_IN_ROW)
    return with_labels(vectors[:SAMPLES_IN_ROW].repeat(rows, 1), labels, classes)
