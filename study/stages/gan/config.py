"""Settings of the GAN stages: the search without labels, and the WGAN with labels."""

from __future__ import annotations

from dataclasses import dataclass

from study.harness.settings import MOST_REPEATS, at_least, at_most

JUDGES = ("judge", "second-judge", "third-judge")  # the kinds of model that measure, in their order


@dataclass(frozen=True)
class LatentGanConfig:
    """The search for the settings of the WGAN on the latents: batch size, learning rate, weight clip, and more."""

    free_trials: int = 4
    """Trials that Optuna picks, after the paper's, the reference's and our own settings."""
    repeats: int = 1
    """Trainings with the best and with the reference's settings, each with its own seed; the figures are means. With
    more than one, those of the best are new ones: the trial that was picked as the best is not among them."""
    final_epochs: int = 20
    """Passes in those trainings with the best settings; the reference's keep `epochs`."""
    vanilla_seeds: int = 1
    """Vanilla GANs trained beside them for comparison, each with its own seed."""
    recipes: int = 0
    """Random recipes of a vanilla GAN (latents, loss, BatchNorm, rate, steps, depth), each trained as a WGAN too: which
    of them collapse?"""
    recipe_epochs: int = 20
    """Passes in each of those trainings."""
    ablations: bool = False
    """Whether to train with the best settings less what they have beyond the WGAN paper, piece by piece."""
    epochs: int = 20
    """Passes over the training latents, in every trial."""
    evaluate_every: int = 5
    """Epochs between two measurements on the validation images, at which a searched trial can be pruned."""
    mixture_components: tuple[int, ...] = (1, 50)
    """Components of the Gaussian mixtures that are among the baselines; 1: N(0, I) on whitened latents."""

    def __post_init__(self) -> None:
        at_least(0, free_trials=self.free_trials, vanilla_seeds=self.vanilla_seeds, recipes=self.recipes)
        at_least(1, repeats=self.repeats, epochs=self.epochs, evaluate_every=self.evaluate_every)
        at_most(MOST_REPEATS, repeats=self.repeats, vanilla_seeds=self.vanilla_seeds, recipes=self.recipes)
        at_least(1, final_epochs=self.final_epochs, recipe_epochs=self.recipe_epochs)
        at_least(1, mixture_components=min(self.mixture_components, default=1))


@dataclass(frozen=True)
class ConditionalGanConfig:
    """The WGAN that is given the label, with the settings of the best one without labels."""

    repeats: int = 1
    """Trainings, each with its own seed; the figures are means over them."""
    epochs: int = 20
    """Passes over the training latents."""
    evaluate_every: int = 5
    """Epochs between two measurements on the validation images."""
    score_epochs: int = 3
    """Passes of the classifier that is trained on samples, for the classification accuracy score."""

    def __post_init__(self) -> None:
        at_least(1, repeats=self.repeats, epochs=self.epochs, evaluate_every=self.evaluate_every)
        at_least(1, score_epochs=self.score_epochs)
        at_most(MOST_REPEATS, repeats=self.repeats)


LATENT_EXTENT = ("free_trials", "repeats", "vanilla_seeds", "recipes", "ablations", "mixture_components")
LATENT_PRESETS = {
    "smoke": LatentGanConfig(
        free_trials=1,
        epochs=2,
        final_epochs=2,
        vanilla_seeds=0,
        recipes=1,
        recipe_epochs=1,
        evaluate_every=2,
        mixture_components=(1, 2),
    ),
    "demo": LatentGanConfig(
        free_trials=1,
        epochs=4,
        final_epochs=8,
        evaluate_every=4,
        mixture_components=(50,),
    ),
    "exercise": LatentGanConfig(
        free_trials=2,
        repeats=3,
        vanilla_seeds=1,
        recipes=4,
        epochs=70,
        final_epochs=150,
        evaluate_every=10,
        mixture_components=(1, 50, 200, 500),
    ),
    "full": LatentGanConfig(
        free_trials=100,
        repeats=5,
        vanilla_seeds=10,
        recipes=40,
        ablations=True,
        epochs=70,
        final_epochs=150,
        evaluate_every=10,
        mixture_components=(1, 10, 50, 200, 500, 1000),
    ),
}
CONDITIONAL_EXTENT = ("repeats",)
CONDITIONAL_PRESETS = {
    "smoke": ConditionalGanConfig(epochs=4, evaluate_every=4, score_epochs=1),
    "demo": ConditionalGanConfig(epochs=8, score_epochs=1),
    "exercise": ConditionalGanConfig(repeats=3, epochs=70),
    "full": ConditionalGanConfig(repeats=5, epochs=150),
}
