"""What a study does: the study's own settings, each stage's settings, and their values in the presets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from study.checks import MOST_REPEATS, at_least, at_most
from study.engine.stage import KeptModels

PRESETS = ("smoke", "demo", "exercise", "full")
DEFAULT = "demo"
MOST_SEEDS = 2**31


@dataclass(frozen=True)
class StudyConfig:
    """A study harness for small generative models on small images; handwritten digits are the built-in case.

    Before the flags comes a preset, or a TOML file that builds on one: smoke (does everything run?), demo (every stage
    in minutes, the default), exercise (the reference's protocol with its search), full (a wide search, hours).
    """

    data: str = "auto"
    """mnist, fashion-mnist, kmnist, digits, or a path: a folder of class folders, or an array file (.npz).
    auto: MNIST from --data-dir, else downloaded, else scikit-learn's 8x8 digits."""
    data_dir: Path | None = None
    """Folder of MNIST and its like; None: $STUDY_DATA_DIR, else ./data."""
    image_size: int = 28
    """Height and width that images are resized to, in pixels: a multiple of 4 from 16 to 64."""
    colour: bool = False
    """Keep the images' colours; else they are turned to grey."""
    store: Path = Path("mlruns")
    """Folder of the results: mlflow.db, optuna.db, artifacts/."""
    tracking_uri: str | None = None
    """MLflow server in place of the store's mlflow.db, http(s)://host:port."""
    storage: str | None = None
    """Database of the queue and of Optuna in place of the store's optuna.db, as a postgresql:// or sqlite:/// URL."""
    seed: int = 0
    """What all randomness follows from. The same seed gives the same trial on the same machine with the same number of
    threads (OMP_NUM_THREADS, which --workers sets): sums in another order differ in their last digits."""
    repeats: int = 1
    """Seeds or draws of all that is compared, ours and its rivals alike; the figures are means over them. There are no
    claims with fewer than three. More repeats go on from a study with fewer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: a GPU if PyTorch sees one."""
    workers: int | Literal["auto"] = "auto"
    """Processes that share the trials, and the processor's cores; other machines may join with the same command.
    auto: $STUDY_WORKERS, else one a core ($OMP_NUM_THREADS cores, if that is set), at most 16, as far as the free
    memory goes (2.5 GiB each); on a GPU, one. On a cluster: a number."""
    launcher: Literal["local", "slurm", "ray"] = "local"
    """Where the workers run (docs/cluster.md). slurm and ray need --tracking-uri and --storage."""
    launcher_options: tuple[str, ...] = ()
    """What each worker on a cluster gets. slurm: cpus=4 and any option of sbatch, gpus=1 time=12:00:00 partition=gpu;
    ray: cpus=4 gpus=0.25 address=HOST:PORT."""
    detach: bool = False
    """Start the workers on the cluster and leave. The same command without it looks on, and prints the table."""
    time_limit: str | None = None
    """90s, 30m or 2h, after which no trial begins: the results are made from what is there, and the same command goes
    on."""
    keep_models: KeptModels = "all"
    """champions: a stage that is done deletes the models that it has not registered; measures and pictures stay.
    Figures that need them are not made again. A trial that is to become a champion later has lost its model: delete
    its run in MLflow, and it runs again."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What to report on the way: info is a line a trial, debug what Optuna, MLflow and SQLAlchemy say too, warning no
    progress but what was found at the end."""
    table: bool = False
    """Print every figure beside its rival at the end, not only what was found; the report has them too."""
    dry_run: bool = False
    """Print the settings of each stage and stop."""
    inputs: tuple[str, ...] = ()
    """Registered versions to build on, as KIND=NUMBER: autoencoder=3 judge=1. Of other kinds, what the stages of the
    same command make, else the champion."""
    stages: tuple[str, ...] = ()
    """Stages to run, always in the order of this default."""

    def __post_init__(self) -> None:
        at_least(0, seed=self.seed)
        if self.seed >= MOST_SEEDS:
            raise ValueError(f"`seed < {MOST_SEEDS}` must hold, but got {self.seed}")
        at_least(
            1, repeats=self.repeats, stages=len(self.stages), workers=1 if self.workers == "auto" else self.workers
        )
        at_most(MOST_REPEATS, repeats=self.repeats)
        if not 16 <= self.image_size <= 64 or self.image_size % 4:
            raise ValueError(f"`image_size` must be a multiple of 4 from 16 to 64, but got {self.image_size}")
        if self.time_limit is not None and not re.fullmatch(r"[1-9][0-9]{0,5}[smh]", self.time_limit):
            raise ValueError(f"`time_limit` must be a number of s, m or h, 30m say, but got {self.time_limit!r}")
        for each in self.inputs:
            if not re.fullmatch(r"[a-z0-9-]+=[1-9][0-9]{0,9}", each):
                raise ValueError(f"`inputs` must be KIND=NUMBER, autoencoder=3 say, but got {each!r}")


STUDY_PRESETS: dict[str, dict[str, Any]] = {"full": {"repeats": 10}}
"""The study's own settings in the presets, where they are not the defaults."""
INCIDENTAL = (
    *("store", "tracking_uri", "storage", "device", "workers", "launcher", "launcher_options", "detach"),
    *("time_limit", "keep_models", "log_level", "table", "dry_run"),
)
"""Settings that have no part in what a study computes."""


@dataclass(frozen=True)
class JudgeConfig:
    """The classifiers that measure generated images."""

    epochs: int = 5
    """Passes over the training images."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs)


JUDGE_PRESETS = {"smoke": JudgeConfig(epochs=2), "demo": JudgeConfig(epochs=2)}


LATENT_DIM_RANGE = (3, 100)
REFERENCE_SIZE = 15  # the reference's choice


@dataclass(frozen=True)
class AutoencoderConfig:
    """The search for the latent size and the architecture of the autoencoder."""

    latent_dims: tuple[int, ...] = (3, 10, 15, 20, 100)
    """Latent sizes, each tried with FC layers (the reference's five), and the one that it chose without them too."""
    free_trials: int = 2
    """Trials with a size and an architecture that Optuna proposes; the best of them is trained as the others are."""
    search_epochs: int = 4
    """Passes in these trials."""
    latent_dim: int | None = None
    """Latent size of the champion, which has the least validation loss; None: the knee of the Pareto front of
    validation loss and largest correlation is the champion."""
    epochs: int = 20
    """Passes over the training images, in every trial."""

    def __post_init__(self) -> None:
        low, high = LATENT_DIM_RANGE
        for size in self.sizes:
            if not low <= size <= high:
                raise ValueError(f"`{low} <= latent_dim <= {high}` must hold, but got {size}")
        at_least(0, free_trials=self.free_trials)
        at_least(
            1,
            epochs=self.epochs,
            search_epochs=self.search_epochs,
            latent_dims=len(self.latent_dims) + self.free_trials,
        )
        at_most(MOST_REPEATS, free_trials=self.free_trials)

    @property
    def sizes(self) -> list[int]:
        """The latent sizes of the grid."""
        return sorted({*self.latent_dims, *([] if self.latent_dim is None else [self.latent_dim])})

    @property
    def compared(self) -> int:
        """The size at which the architectures are compared: the reference's, or the one nearest to it."""
        return min(self.sizes, key=lambda size: abs(size - REFERENCE_SIZE), default=REFERENCE_SIZE)

    @property
    def repeated(self) -> list[int]:
        """The sizes that claims compare, which have all repeats: this one, the smallest and the largest."""
        return sorted({*self.sizes[:1], self.compared, *self.sizes[-1:]})


AUTOENCODER_PRESETS = {
    "smoke": AutoencoderConfig(latent_dims=(3, 15), free_trials=1, search_epochs=1, epochs=1),
    "demo": AutoencoderConfig(latent_dims=(3, 15), latent_dim=15, search_epochs=1, epochs=2),
    "exercise": AutoencoderConfig(latent_dim=15, free_trials=8, epochs=12),
    "full": AutoencoderConfig(free_trials=30, search_epochs=10),
}


LABELS_PER_CLASS = 10  # the reference's 100 labels of ten classes


@dataclass(frozen=True)
class TransferConfig:
    """What the trained encoder is worth with few labels."""

    labels_per_class: int = LABELS_PER_CLASS
    """Labelled training images of each class."""
    label_counts: tuple[int, ...] = ()
    """Other numbers of labelled images of each class, for the figure of accuracy against labels; a third of the
    repeats, at least one."""
    epochs: int = 50
    """Epochs over the labelled images; one of the head on the frozen encoder takes each image ten times."""
    semi_epochs: int = 8
    """Passes over all training images in self-training, which uses those without a label too."""

    def __post_init__(self) -> None:
        at_least(1, labels_per_class=self.labels_per_class, label_counts=min(self.label_counts, default=1))
        at_least(1, epochs=self.epochs, semi_epochs=self.semi_epochs)


TRANSFER_PRESETS = {
    "smoke": TransferConfig(epochs=10, semi_epochs=2),
    "demo": TransferConfig(semi_epochs=2),
    "exercise": TransferConfig(label_counts=(1, 5, 30)),
    "full": TransferConfig(label_counts=(1, 2, 5, 30, 100)),
}


MOST_COMPONENTS = 1000
Sampler = Literal["tpe", "random"]


@dataclass(frozen=True)
class LatentGanConfig:
    """The search for the settings of the WGAN on the latents: batch size, learning rate, weight clip, and more."""

    free_trials: int = 8
    """Trials with settings that Optuna proposes."""
    search_epochs: int = 10
    """Passes in these trials, which are pruned after 2, 5, 10, 20 or 50."""
    sampler: Sampler = "tpe"
    """What proposes: a model of what the trials before have shown (TPE), or chance, for a comparison."""
    final_epochs: int = 20
    """Passes in the trainings with the best settings, which get new seeds: the trial that was picked as the best is not
    among them. All other trainings have `epochs`."""
    recipes: int = 0
    """Random recipes of a vanilla GAN (latents, loss, BatchNorm, rate, steps, depth), each trained as a WGAN too: which
    of them collapse?"""
    epochs: int = 20
    """Passes over the training latents, in every other training."""
    evaluate_every: int = 5
    """Epochs between two measurements on the validation images, except in the search."""
    mixture_components: tuple[int, ...] = (1, 50)
    """Components of the Gaussian mixtures that are among the baselines; 1: N(0, I) on whitened latents."""

    def __post_init__(self) -> None:
        at_least(0, recipes=self.recipes)
        at_least(
            1,
            free_trials=self.free_trials,
            search_epochs=self.search_epochs,
            evaluate_every=self.evaluate_every,
            epochs=self.epochs,
            final_epochs=self.final_epochs,
        )
        at_most(MOST_REPEATS, free_trials=self.free_trials, recipes=self.recipes)
        for count in self.mixture_components:
            at_least(1, mixture_components=count)
            at_most(MOST_COMPONENTS, mixture_components=count)


LATENT_GAN_PRESETS = {
    "smoke": LatentGanConfig(
        free_trials=2,
        search_epochs=1,
        final_epochs=2,
        recipes=1,
        epochs=2,
        evaluate_every=2,
        mixture_components=(1, 2),
    ),
    "demo": LatentGanConfig(
        free_trials=6, search_epochs=2, final_epochs=8, epochs=3, evaluate_every=3, mixture_components=(50,)
    ),
    "exercise": LatentGanConfig(
        free_trials=30,
        final_epochs=60,
        recipes=4,
        epochs=70,
        evaluate_every=10,
        mixture_components=(1, 50, 200),
    ),
    "full": LatentGanConfig(
        free_trials=100,
        final_epochs=150,
        recipes=40,
        epochs=70,
        evaluate_every=10,
        mixture_components=(1, 10, 50, 200, 500, 1000),
    ),
}


@dataclass(frozen=True)
class ConditionalGanConfig:
    """The WGAN that is given the label, with the settings of the best one without labels."""

    epochs: int = 20
    """Passes over the training latents."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs)


CONDITIONAL_GAN_PRESETS = {
    "smoke": ConditionalGanConfig(epochs=4),
    "demo": ConditionalGanConfig(epochs=8),
    "exercise": ConditionalGanConfig(),
    "full": ConditionalGanConfig(epochs=150),
}


@dataclass(frozen=True)
class AttentionConfig:
    """Self-attention as convolutions and fully connected layers: a copy of the encoder, and layers that learn."""

    epochs: int = 3
    """Passes over the images, in every training."""
    images: int = 6_400
    """Training images of a pass."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, images=self.images)


ATTENTION_PRESETS = {
    "smoke": AttentionConfig(epochs=1, images=320),
    "demo": AttentionConfig(epochs=2, images=3_200),
    "exercise": AttentionConfig(epochs=4),
    "full": AttentionConfig(epochs=30),
}


Task = Literal["outline", "thicken", "rotate"]


@dataclass(frozen=True)
class TranslationConfig:
    """Plain GAN, CycleGAN, conditional GAN and the L1 loss alone, on images that are paired more or less exactly."""

    task: Task = "outline"
    """What is translated back to the images: their outlines, thickened images, or images rotated by 90 degrees."""
    epochs: int = 5
    """Epochs of every training; the learning rate decays in the second half."""
    images: int = 10_000
    """Pairs an epoch, at most half of the training images: so many steps for each model and pairing."""

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, images=self.images)


TRANSLATION_PRESETS = {
    "smoke": TranslationConfig(epochs=1, images=128),
    "demo": TranslationConfig(epochs=1, images=1_000),
    "exercise": TranslationConfig(),
    "full": TranslationConfig(epochs=30),
}
