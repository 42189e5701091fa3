"""How much of the distance between WGAN and mixture is the autoencoder's: both on autoencoders of other seeds.

    STUDY_DATA_DIR=... OMP_NUM_THREADS=1 python benchmarks/autoencoder_seeds.py STORE [COMPONENTS]

STORE has finished `exercise --repeats 3` (or more) on MNIST with all models kept. Each autoencoder with the champion's
size and layers, one a seed, gets one WGAN with the champion's settings, one mixture of COMPONENTS (200) Gaussians, and
reconstructions of training images; prints the third judge's Frechet distance of each, a mean over five draws. The store
is only read.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import sys
from pathlib import Path
from typing import Any

import mlflow
import torch
from search import inputs_of

from study.api import registered
from study.config import LATENT_GAN_PRESETS
from study.stages.generators import MIXTURE, RECONSTRUCTIONS, baseline_trial, gan_trial
from study.training.gan import GanSettings
from tracking.models import kept_model

EXERCISE, MEASURE = LATENT_GAN_PRESETS["exercise"], "judge3/fd"


class Trial:
    """Keeps a trial's metrics, and lets the rest go."""

    def __init__(self, **params: Any) -> None:
        self.params, self.metrics, self.history = params, dict[str, float](), dict[str, Any]()

    def log(self, metrics: dict[str, float], step: int = 0) -> None:
        self.metrics |= metrics

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


def main(store: str, components: str = "200") -> None:
    """Print a line for each autoencoder."""
    champion = registered("mnist-autoencoder", Path(store))
    settings = GanSettings(**registered("mnist-latent-gan", Path(store)).config()["settings"])
    module, run = champion.config()["module"], mlflow.MlflowClient().get_run(champion.run_id)
    wanted = f"params.latent_dim = '{module['latent_dim']}' AND params.architecture = '{module['architecture']}'"
    runs = mlflow.MlflowClient().search_runs([run.info.experiment_id], f"{wanted} AND attributes.status = 'FINISHED'")
    seeds = {int(each.data.params["repeat"]): each.info.run_id for each in runs if "repeat" in each.data.params}
    for seed, run_id in sorted(seeds.items()):
        if (kept := kept_model(run_id)) is None:
            continue
        inputs, found = inputs_of(store, kept), {}
        trials = [{"source": RECONSTRUCTIONS}, {"source": MIXTURE, "components": int(components), "repeat": seed}]
        for params in trials:
            trial: Any = Trial(**params)
            baseline_trial(trial, inputs)
            found[params["source"]] = trial.metrics[MEASURE]
        torch.manual_seed(seed)
        trial = Trial(repeat=seed)
        gan_trial(trial, inputs, settings, epochs=EXERCISE.final_epochs, evaluate_every=EXERCISE.evaluate_every)
        found["WGAN"] = trial.metrics[MEASURE]
        print(
            f"autoencoder, seed {seed}: {', '.join(f'{name} {value:.3f}' for name, value in found.items())}", flush=True
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
