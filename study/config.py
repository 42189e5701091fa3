"""What a study does: frozen dataclasses, read from presets, TOML files and flags alike (see cli.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

StageName = Literal["judge", "autoencoder", "transfer", "latent-gan", "conditional-gan"]
STAGES: tuple[StageName, ...] = get_args(StageName)
QUESTIONS: dict[StageName, str] = {
    "judge": "Which digit is it? A classifier of real images, by which generated ones are measured.",
    "autoencoder": "How many numbers does a digit need? The more of them, the better the reconstruction, "
    "and the more they correlate.",
    "transfer": "What is the trained encoder worth when only a few labels are known? "
    "(*) marks what uses the unlabelled training images too.",
    "latent-gan": "Can a GAN learn the autoencoder's latents so well that they decode to new digits, "
    "and which settings does it take?",
    "conditional-gan": "Can the generator be told which digit to draw?",
}
"""What each stage is to find out."""
DataName = Literal["auto", "mnist", "fashion-mnist", "kmnist", "digits"]

LATENT_DIM_RANGE = (3, 100)


class UsageError(Exception):
    """The user asked for something impossible; the message is one sentence."""


def _at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"`{low} <= {name}` must hold, but got {value}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"`0 < {name} < inf` must hold, but got {value}")


@dataclass(frozen=True)
class JudgeConfig:
    """The classifier that measures generated images."""

    epochs: int = 5
    """Passes over the training images."""
    batch_size: int = 256
    """Images per step."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule."""

    def __post_init__(self) -> None:
        _at_least(1, epochs=self.epochs)
        _at_least(2, batch_size=self.batch_size)
        _positive(learning_rate=self.learning_rate)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The search for the latent size and the architecture of the autoencoder."""

    latent_dims: tuple[int, ...] = (3, 10, 15, 20, 100)
    """Latent sizes tried first, each without and with FC layers (the reference's five)."""
    repeats: int = 1
    """Trainings of each of them, each with its own seed; the figures are means over them."""
    free_trials: int = 2
    """Trials after those, of a size and an architecture that Optuna picks."""
    latent_dim: int | None = None
    """Latent size of the champion; None: the knee of the Pareto front decides."""
    epochs: int = 20
    """Passes over the training images, in every trial."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule."""
    covariance_weight: float = 0.0
    """Weight of a penalty on the covariance of the latents (VICReg's); 0: none."""
    compared_weights: tuple[float, ...] = ()
    """Such weights tried for comparison, with FC layers and the size `latent_dim` (None: 15); none is a champion."""

    def __post_init__(self) -> None:
        low, high = LATENT_DIM_RANGE
        for size in (*self.latent_dims, *([] if self.latent_dim is None else [self.latent_dim])):
            if not low <= size <= high:
                raise ValueError(f"`{low} <= latent_dim <= {high}` must hold, but got {size}")
        _at_least(0, free_trials=self.free_trials)
        _at_least(1, repeats=self.repeats, epochs=self.epochs, latent_dims=len(self.latent_dims) + self.free_trials)
        _at_least(2, batch_size=self.batch_size)
        _positive(learning_rate=self.learning_rate)
        if not 0 <= self.covariance_weight < float("inf"):
            raise ValueError(f"`0 <= covariance_weight < inf` must hold, but got {self.covariance_weight}")
        for weight in self.compared_weights:
            _positive(compared_weights=weight)


@dataclass(frozen=True)
class TransferConfig:
    """What the trained encoder is worth with few labels."""

    labels_per_class: int = 10
    """Labelled training images of each class."""
    draws: int = 3
    """How often these images are drawn anew; the figures are means over the draws."""
    label_counts: tuple[int, ...] = ()
    """Other numbers of labelled images of each class, for the figure of accuracy against labels."""
    count_draws: int = 2
    """Draws of each of those."""
    epochs: int = 50
    """Epochs over the labelled images; one of the head on the frozen encoder takes each image ten times."""
    semi_epochs: int = 10
    """Passes over all the training images in self-training, which uses those without a label too."""
    hidden: int = 128
    """Neurons of the MLP's hidden layer."""

    def __post_init__(self) -> None:
        _at_least(1, labels_per_class=self.labels_per_class, label_counts=min(self.label_counts, default=1))
        _at_least(1, draws=self.draws, count_draws=self.count_draws, hidden=self.hidden)
        _at_least(1, epochs=self.epochs, semi_epochs=self.semi_epochs)


@dataclass(frozen=True)
class LatentGanConfig:
    """The search for the settings of the WGAN on the latents: batch size, learning rate, weight clip, and more."""

    free_trials: int = 4
    """Trials that Optuna picks, after the paper's, the reference's and our own settings."""
    repeats: int = 1
    """Trainings with the best and with the reference's settings, each with its own seed; the figures are means. With
    more than one, those of the best are new ones: the trial that was picked as the best is not among them."""
    vanilla_seeds: int = 1
    """Vanilla GANs trained beside them for comparison, each with its own seed: how many of them collapse?"""
    ablations: bool = False
    """Whether to train with the best settings less what they have beyond the WGAN paper, piece by piece."""
    epochs: int = 20
    """Passes over the training latents, in every trial."""
    evaluate_every: int = 5
    """Epochs between two measurements on the validation images, at which a trial can be pruned."""
    mixture_components: tuple[int, ...] = (1, 10)
    """Components of the Gaussian mixtures that are the baseline; 1: N(0, I) on whitened latents."""

    def __post_init__(self) -> None:
        _at_least(0, free_trials=self.free_trials, vanilla_seeds=self.vanilla_seeds)
        _at_least(1, repeats=self.repeats, epochs=self.epochs, evaluate_every=self.evaluate_every)
        _at_least(1, mixture_components=min(self.mixture_components, default=1))


@dataclass(frozen=True)
class ConditionalGanConfig:
    """The WGAN that is told the digit, with the settings of the best unconditional one."""

    repeats: int = 1
    """Trainings, each with its own seed; the figures are means over them."""
    epochs: int = 20
    """Passes over the training latents."""
    evaluate_every: int = 5
    """Epochs between two measurements on the validation images."""

    def __post_init__(self) -> None:
        _at_least(1, repeats=self.repeats, epochs=self.epochs, evaluate_every=self.evaluate_every)


@dataclass(frozen=True)
class StudyConfig:
    """A study harness for small generative models on handwritten digits.

    Before the flags comes a preset, or a TOML file that builds on one: smoke (does everything run?), demo (every stage
    in minutes, the default), exercise (the reference's protocol, about an hour), full (a wide search, hours).
    """

    data: DataName = "auto"
    """Data set; auto: MNIST from --data-dir, else downloaded, else scikit-learn's 8x8 digits."""
    data_dir: Path | None = None
    """Folder of torchvision's data sets; None: $STUDY_DATA_DIR, else ./data."""
    store: Path = Path("mlruns")
    """Folder of the results: mlflow.db, optuna.db, artifacts/."""
    tracking_uri: str | None = None
    """MLflow server in place of the store's mlflow.db, http(s)://host:port."""
    storage: str | None = None
    """Database of Optuna in place of the store's optuna.db, as an SQLAlchemy URL."""
    stages: tuple[StageName, ...] = STAGES
    """Stages to run, always in the order of this default."""
    seed: int = 0
    """What all randomness follows from; the same seed gives the same trial on the same machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: a GPU if PyTorch sees one."""
    workers: int = 1
    """Processes that share the trials, and the processor's cores; other machines may join with the same command."""
    quiet: bool = False
    """No progress, only the table at the end, warnings and errors."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What to tell on the way: info is a line a trial, debug what Optuna, MLflow and SQLAlchemy say too."""
    dry_run: bool = False
    """Print the plan and stop."""
    judge: JudgeConfig = JudgeConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    transfer: TransferConfig = TransferConfig()
    latent_gan: LatentGanConfig = LatentGanConfig()
    conditional_gan: ConditionalGanConfig = ConditionalGanConfig()

    def seed_for(self, number: int) -> int:
        """Seed of a repeat or a draw; those of a study of another seed are others."""
        return (100_000 * self.seed + number) % 2**31

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        _at_least(1, stages=len(self.stages), workers=self.workers)


_DEMO = StudyConfig(autoencoder=AutoencoderConfig(epochs=3), transfer=TransferConfig(draws=2, semi_epochs=4))

PRESETS: dict[str, StudyConfig] = {
    # A test: does everything run?
    "smoke": replace(
        _DEMO,
        judge=JudgeConfig(epochs=2),
        autoencoder=AutoencoderConfig(latent_dims=(3, 15), free_trials=1, epochs=1),
        transfer=TransferConfig(draws=1, epochs=10, semi_epochs=2),
        latent_gan=LatentGanConfig(free_trials=1, epochs=2, evaluate_every=2, mixture_components=(1, 2)),
        conditional_gan=ConditionalGanConfig(epochs=4, evaluate_every=4),
    ),
    # The default: every stage, in minutes on 2 cores.
    "demo": _DEMO,
    # The reference's protocol: its sizes, epochs and settings, its latent size 15 for the stages that follow.
    "exercise": replace(
        _DEMO,
        autoencoder=AutoencoderConfig(latent_dim=15, free_trials=1, compared_weights=(1e-2,)),
        transfer=TransferConfig(draws=10, label_counts=(1, 2, 5, 30, 100)),
        latent_gan=LatentGanConfig(
            free_trials=6,
            repeats=3,
            vanilla_seeds=5,
            epochs=70,
            evaluate_every=10,
            mixture_components=(1, 10, 50, 200),
        ),
        conditional_gan=ConditionalGanConfig(repeats=3, epochs=70, evaluate_every=5),
    ),
    # A wide search, hours on 2 cores.
    "full": replace(
        _DEMO,
        autoencoder=AutoencoderConfig(repeats=3, free_trials=30, compared_weights=(1e-4, 1e-3, 1e-2, 1e-1)),
        transfer=TransferConfig(draws=30, label_counts=(1, 2, 5, 30, 100), count_draws=10),
        latent_gan=LatentGanConfig(
            free_trials=100,
            repeats=5,
            vanilla_seeds=10,
            ablations=True,
            epochs=70,
            evaluate_every=10,
            mixture_components=(1, 10, 50, 200),
        ),
        conditional_gan=ConditionalGanConfig(repeats=5, epochs=70, evaluate_every=5),
    ),
}
