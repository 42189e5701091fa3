"""TPE against random search for the WGAN's settings: best-so-far curves of the same number of trials.

    STUDY_DATA_DIR=... OMP_NUM_THREADS=1 python benchmarks/search.py STORE FILE.csv SAMPLER SEED [TRIALS]
    python benchmarks/search.py FILE.csv PICTURE.png

The first form runs one search (tpe or random, 30 trials) on the champions of a finished study's store, as the
latent-gan stage of `exercise` does, and appends a line a trial; calls with other samplers or seeds may run at the same
time. The store is only read. The second form draws the curves and prints the best values with the test's verdict.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import csv
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import optuna
import torch

from study import data, plots
from study.api import registered
from study.config import LATENT_GAN_PRESETS
from study.engine.search import STARTUP, Pruned
from study.engine.stage import seed_for
from study.results import claim, mean_std
from study.stages.generators import KINDS, GanInputs
from study.stages.latent_gan import search
from study.training.loops import Diverged

EPOCHS = LATENT_GAN_PRESETS["exercise"].search_epochs


class Trial:
    """What a stage's objective sees of a trial, without a run; it is pruned as the stage prunes."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.params, self.epoch = trial, trial.params, 0
        self.history: dict[str, tuple[list[int], list[float]]] = {search.OBJECTIVE: ([], [])}

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epoch = epoch
        if (value := metrics.get(search.OBJECTIVE)) is not None:
            self.history[search.OBJECTIVE][1].append(value)
            self.trial.report(value, epoch)
            if self.trial.should_prune():
                raise Pruned

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def log_image(self, *args: object, step: int) -> None: ...


def inputs_of(store: str, autoencoder: Any = None) -> GanInputs:
    """Return the inputs of a GAN's trial: the champions of the store, or another autoencoder."""
    versions = {kind: registered(f"mnist-{kind}", Path(store)) for kind in ("autoencoder", *KINDS)}
    stored: dict[str, Any] = versions if autoencoder is None else {**versions, "autoencoder": autoencoder}
    context: Any = SimpleNamespace(
        dataset=data.load("mnist"),
        device=torch.device("cpu"),
        inputs=versions,
        module=lambda kind, factory: stored[kind].rebuild(factory),
        cached_arrays=lambda kind, make, *others: make(),
        seed_for=lambda number: seed_for(0, number),
    )
    return GanInputs(context)


def run(store: str, file: str, sampler: str, seed: str, trials: str = "30") -> None:
    """Run one search, and append its trials to the file."""
    inputs, first = inputs_of(store), int(seed) * 1000
    startup = min(STARTUP, int(trials) // 3)
    found = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2))
    for number in range(int(trials)):
        learns = sampler == "tpe" and number >= startup
        found.sampler = (
            optuna.samplers.TPESampler(n_startup_trials=startup, seed=first + number)
            if learns
            else optuna.samplers.RandomSampler(first + number)
        )
        trial, began = found.ask(dict(search.SPACE)), time.perf_counter()
        watched: Any = Trial(trial)
        torch.manual_seed(first)
        value = None
        with suppress(Pruned, Diverged):
            (value,) = search.train(watched, inputs, EPOCHS)
        found.tell(trial, value, None if value is not None else optuna.trial.TrialState.PRUNED)
        with Path(file).open("a", newline="") as lines:
            seconds = round(time.perf_counter() - began, 1)
            csv.writer(lines).writerow([sampler, seed, number, value or "", watched.epoch, seconds])


def show(file: str, picture: str) -> None:
    """Draw the curves, and print the best value of each search, and which sampler finds better settings."""
    curves: dict[str, dict[str, list[float]]] = {"tpe": {}, "random": {}}
    epochs: dict[str, list[int]] = {"tpe": [], "random": []}
    with Path(file).open(newline="") as lines:
        for sampler, seed, _, value, epoch, _ in csv.reader(lines):
            curves[sampler].setdefault(seed, []).append(float(value or "inf"))
            epochs[sampler].append(int(epoch))
    best = {sampler: [list(accumulate(values, min)) for values in found.values()] for sampler, found in curves.items()}
    last = {sampler: [curve[-1] for curve in found] for sampler, found in best.items()}
    for sampler, values in last.items():
        print(f"{sampler}: {mean_std(values)} after {mean(epochs[sampler]):.1f} epochs a trial")
    decided = claim("TPE finds better settings than chance", last["tpe"], last["random"])
    print(decided and f"{decided.text}: {decided.verdict}, {decided.interval}")
    panel = {
        f"{sampler}, search {number}": ([at for at, value in enumerate(curve, 1) if value < float("inf")], curve)
        for sampler, found in best.items()
        for number, curve in enumerate(found)
    }
    shown = {name: (places, curve[-len(places) :]) for name, (places, curve) in panel.items()}
    title, y = "TPE against random search, WGAN on latents", "least Frechet distance so far (judge 1, validation)"
    plots.curves({y: shown}, "trial", title, log_y=True).savefig(picture)


if __name__ == "__main__":
    (show if len(sys.argv) == 3 else run)(*sys.argv[1:])
