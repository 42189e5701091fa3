"""The GAN settings that are tried by name, and those that the search starts from."""

from __future__ import annotations

from dataclasses import asdict, replace

from study.engine.identity import fingerprint
from study.engine.search import Params, Space, choice, integer, log_uniform
from study.training.gan import PAPER, REFERENCE, GanSettings

JUDGES = ("judge", "second-judge", "third-judge")  # the kinds of model that measure, in their order
START = GanSettings(
    batch_size=256,
    learning_rate=5e-4,
    clip_value=0.1,
    n_critic=1,
    width=256,
    noise_dim=32,
    depth=3,
    averaging=0.999,
    falling=True,
)
"""Where our own search starts; it varies all but the averaging and the falling rate."""
BY_NAME = {"paper": PAPER, "reference": REFERENCE, "start": START}
"""The fixed trials of the search."""
SPACE: Space = {
    "batch_size": choice(64, 128, 256, 512),
    "learning_rate": log_uniform(5e-5, 5e-3),
    "clip_value": log_uniform(0.01, 0.5),
    "n_critic": integer(1, 5),
    "width": choice(128, 256, 384, 512),
    "depth": integer(2, 5),
    "noise_dim": choice(10, 16, 32, 64),
}

REAL, TRAIN_RECONSTRUCTIONS, TEST_RECONSTRUCTIONS = (
    "real training images",
    "reconstructions, training",
    "reconstructions, test",
)
SMOTE, KERNEL_DENSITY = "SMOTE, 10 neighbours", "kernel density"
BEST, FEW_STEPS, REFERENCE_SETTINGS, PAPER_SETTINGS, VANILLA_GAN = (
    "WGAN, best settings",
    "WGAN, best, few steps",
    "WGAN, reference settings",
    "WGAN, paper settings",
    "vanilla GAN",
)


def params_of(settings: GanSettings) -> Params:
    """The parameters of a trial with these settings."""
    return {name: value for name, value in asdict(settings).items() if name in SPACE}


def settings_of(slot: str, params: Params) -> GanSettings:
    """The settings of a trial: the named ones', or the search's start with these parameters."""
    return BY_NAME[slot] if slot in BY_NAME else replace(START, **params)


def part_of(settings: GanSettings) -> str:
    """What the search over seeds with these settings is called."""
    return f"seeds of settings {fingerprint(asdict(settings))}"


def ablations(best: GanSettings) -> dict[str, GanSettings]:
    """The best settings less what they have beyond the WGAN paper, piece by piece."""
    return {
        "constant rate": replace(best, falling=False),
        "not averaged": replace(best, averaging=0.0),
        "constant rate, not averaged": replace(best, averaging=0.0, falling=False),
        "generator of depth 2": replace(best, depth=2),
        "five critic steps": replace(best, n_critic=5),
    }
