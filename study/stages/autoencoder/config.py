"""Settings of the autoencoder study."""

from __future__ import annotations

from dataclasses import dataclass

from study.harness.settings import at_least, positive

LATENT_DIM_RANGE = (3, 100)
REFERENCE_SIZE = 15  # the reference's choice
JUDGES = ("judge", "second-judge")  # the kinds of model that measure what follows, where the images have classes


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
    """Latent size of the champion; None: what follows from the latents decides (Frechet distance of a Gaussian mixture
    on them, accuracy with 10 labels a class); without classes, the knee of the Pareto front."""
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
        for size in self.sizes:
            if not low <= size <= high:
                raise ValueError(f"`{low} <= latent_dim <= {high}` must hold, but got {size}")
        at_least(0, free_trials=self.free_trials)
        at_least(1, repeats=self.repeats, epochs=self.epochs, latent_dims=len(self.latent_dims) + self.free_trials)
        at_least(2, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)
        if not 0 <= self.covariance_weight < float("inf"):
            raise ValueError(f"`0 <= covariance_weight < inf` must hold, but got {self.covariance_weight}")
        for weight in self.compared_weights:
            positive(compared_weights=weight)

    @property
    def sizes(self) -> list[int]:
        """The latent sizes of the grid."""
        return sorted({*self.latent_dims, *([] if self.latent_dim is None else [self.latent_dim])})


EXTENT = ("latent_dims", "repeats", "free_trials", "latent_dim", "compared_weights")
PRESETS = {
    "smoke": AutoencoderConfig(latent_dims=(3, 15), free_trials=1, epochs=1),
    "demo": AutoencoderConfig(latent_dims=(3, 15), epochs=2),
    "exercise": AutoencoderConfig(latent_dim=15, free_trials=1, compared_weights=(1e-2,)),
    "full": AutoencoderConfig(repeats=3, free_trials=30, compared_weights=(1e-4, 1e-3, 1e-2, 1e-1)),
}
