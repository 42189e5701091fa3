"""The search for WGAN settings: its space, and a trial that costs little."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from study.engine.search import Pruned, Space, choice, integer, log_uniform
from study.engine.trial import Trial
from study.measures.judges import HOPELESS_FRACTION
from study.stages.generators import SETTLED, WATCH_SEED, GanInputs, GanTraining, correlation
from study.training.gan import GanSettings, generator_steps
from study.training.sampling import noise

OBJECTIVE = "search/fd"
SPACE: Space = {
    "batch_size": choice(64, 128, 256, 512),
    "learning_rate": log_uniform(5e-5, 5e-3),
    "clip_value": log_uniform(0.01, 0.5),
    "n_critic": integer(1, 5),
    "width": choice(128, 256, 384, 512),
    "depth": integer(2, 5),
    "noise_dim": choice(10, 16, 32, 64),
    "ema_decay": choice(0.0, 0.99, 0.999),
}
"""The learning rate falls in every trial (`lr_decay`)."""
RUNGS = (2, 5, 10, 20, 50)  # epochs after which a trial is measured, and can be pruned
SAMPLES = 2_500  # images that are measured


def settings_of(params: Mapping[str, Any]) -> GanSettings:
    """Return the settings of a WGAN with the proposed parameters."""
    return GanSettings(lr_decay=True, **{name: params[name] for name in SPACE})


@dataclass
class SearchTraining(GanTraining):
    """A GAN of a search: fewer epochs, measured by the first judge alone on a few samples."""

    def report(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Report the losses of an epoch, and if it is evaluated `search/fd`.

        Raises:
            Pruned: Optuna gives the trial up, or its generator draws too few of the classes.
        """
        measures: dict[str, float] = {}
        if epoch in (*RUNGS, self.epochs):
            self.show(epoch)
            vectors = noise(SAMPLES, self.settings.noise_dim, WATCH_SEED, self.model.mean.device)
            latents = self.latents(self.model.generator, vectors)
            measures = self.inputs.judges.search_measures(self.inputs.decode(latents)) | correlation(latents)
        # At its last epoch a trial has cost all that it can: to stop it would save nothing.
        with suppress(Pruned) if epoch == self.epochs else nullcontext():
            self.trial.report(epoch, {**losses, **measures})
        modes, classes = measures.get("val/modes", math.inf), len(self.inputs.data.classes)
        if modes < HOPELESS_FRACTION * classes and self.epochs > epoch >= self.epochs / SETTLED:
            raise Pruned(f"collapsed to {modes:.0f} of {classes} classes at epoch {epoch}")


def epochs_for(steps: int, params: Mapping[str, Any], count: int) -> int:
    """Return the epochs in which a WGAN with these parameters takes about so many generator steps."""
    return max(1, round(steps / generator_steps(settings_of(params), count, epochs=1000) * 1000))


def train(trial: Trial, inputs: GanInputs, epochs: int) -> tuple[float]:
    """Train the WGAN of a trial. Return `search/fd`, the first judge's Frechet distance to the validation images."""
    SearchTraining(trial, inputs, settings_of(trial.params), epochs, epochs, inputs.encoded).run()
    return (trial.history[OBJECTIVE][1][-1],)
