"""The trials of the latent GAN's study: given settings, searched settings, baselines and random recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from study.config import LatentGanConfig
from study.engine.search import Params, Result, Space, choice, integer, log_uniform
from study.engine.trial import Trial
from study.stages.generators import (
    MIXTURE,
    REAL,
    RECONSTRUCTIONS,
    TEST_RECONSTRUCTIONS,
    GanInputs,
    GanTraining,
    gan_trial,
)
from study.training.gan import PAPER, REFERENCE, VANILLA, GanSettings
from study.training.loops import Diverged

START = GanSettings(
    batch_size=256,
    learning_rate=5e-4,
    clip_value=0.1,
    n_critic=1,
    width=256,
    noise_dim=32,
    depth=3,
    ema_decay=0.999,
    lr_decay=True,
)
"""Found by hand; the search varies the parameters of SPACE, and keeps the two decays."""
NAMED = {"paper": PAPER, "reference": REFERENCE, "start": START, "vanilla": VANILLA}
SPACE: Space = {
    "batch_size": choice(64, 128, 256, 512),
    "learning_rate": log_uniform(5e-5, 5e-3),
    "clip_value": log_uniform(0.01, 0.5),
    "n_critic": integer(1, 5),
    "width": choice(128, 256, 384, 512),
    "depth": integer(2, 5),
    "noise_dim": choice(10, 16, 32, 64),
}

COLLAPSED = "collapse/last"  # 1 if a GAN has collapsed at the end, else 0
KINDS = ("vanilla GAN", "WGAN")  # of a random recipe
RECIPE_EPOCHS, RECIPE_CLIP = 20, 0.1
RATES, STEPS, DEPTHS = (5e-5, 5e-3), (1, 5), (1, 4)  # of random recipes


def settings_list(config: LatentGanConfig) -> list[Params]:
    """Return the trials with given settings; the reference's are repeated as often as the best."""
    repeats = {"paper": 1, "reference": config.repeats, "start": 1, "vanilla": config.vanilla_seeds}
    return [{"settings": name, "repeat": repeat} for name, count in repeats.items() for repeat in range(count)]


def settings_of(params: Mapping[str, Any]) -> GanSettings:
    """Return the settings of a trial: the named ones, else START with the proposed parameters."""
    named = NAMED.get(params.get("settings", "start"), START)
    return replace(named, **{name: value for name, value in params.items() if name in SPACE})


def competitors(given: Sequence[Result]) -> list[Result]:
    """Return the trials with given settings that compete with the searched ones: one of each kind of WGAN."""
    return [each for each in given if each.params["settings"] != "vanilla" and each.params["repeat"] == 0]


def in_space(results: Sequence[Result]) -> list[Result]:
    """Return the trials with the parameters of SPACE in place of the settings' names, for Optuna's sampler."""
    return [replace(each, params=asdict(settings_of(each.params))) for each in results]


def train(trial: Trial, inputs: GanInputs, epochs: int) -> tuple[float]:
    """Train, measure and log the GAN of a trial's parameters. Return `val/fd`."""
    every = inputs.context.settings.evaluate_every
    return gan_trial(trial, inputs, settings_of(trial.params), epochs=epochs, evaluate_every=every)


def baseline_list(config: LatentGanConfig, latents: int) -> list[Params]:
    """Return real images, reconstructions, and mixtures of at most as many components as there are latents; fits and
    draws of a mixture are repeated as often as trainings.
    """
    counts = [count for count in config.mixture_components if count <= latents]
    mixtures: list[Params] = [
        {"source": MIXTURE, "components": count, "repeat": repeat}
        for repeat in range(config.repeats)
        for count in counts
    ]
    return [{"source": source} for source in (REAL, RECONSTRUCTIONS, TEST_RECONSTRUCTIONS)] + mixtures


def recipe_list(count: int, seed: int) -> list[Params]:
    """Return random recipes, each as vanilla GAN and as WGAN; a longer list begins with the same recipes."""
    recipes: list[Params] = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        recipe = {
            "latents": str(random.choice(["standardised", "raw"])),
            "loss": str(random.choice(["saturating", "non-saturating"])),
            "critic_norm": bool(random.random() < 0.5),
            "learning_rate": float(np.exp(random.uniform(*np.log(RATES)))),
            "n_critic": int(random.integers(*STEPS, endpoint=True)),
            "depth": int(random.integers(*DEPTHS, endpoint=True)),
        }
        recipes += [{"kind": kind, "recipe": number, **recipe} for kind in KINDS]
    return recipes


def recipe_settings(params: Params) -> GanSettings:
    """Return the settings of a recipe; a WGAN has no saturating loss, and clips its critic's weights."""
    wgan = params["kind"] == "WGAN"
    return replace(
        VANILLA,
        clip_value=RECIPE_CLIP if wgan else None,
        saturating=params["loss"] == "saturating" and not wgan,
        **{name: params[name] for name in ("learning_rate", "n_critic", "depth", "critic_norm")},
    )


def train_recipe(trial: Trial, inputs: GanInputs) -> tuple[float]:
    """Train the GAN of a recipe. Return whether it has collapsed at the end; one that diverges counts as collapsed."""
    config, raw = inputs.context.settings, trial.params["latents"] == "raw"
    epochs = min(RECIPE_EPOCHS, config.epochs)
    encoded = inputs.encoded.raw(inputs.autoencoder) if raw else inputs.encoded
    training = GanTraining(trial, inputs, recipe_settings(trial.params), epochs, config.evaluate_every, encoded)
    try:
        training.run()
    except Diverged:
        training.collapses[epochs] = "diverged"
    trial.set_tags({"collapse": training.collapses[max(training.collapses)] or "none"})
    measures = training.collapse_measures()
    trial.log(measures)
    if "val/fd" in trial.history:  # else it diverged before it was evaluated
        training.log_figures()
    return (measures[COLLAPSED],)
