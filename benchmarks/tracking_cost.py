"""What tracking costs: the same trial with everything logged and with nothing logged, in turn, in one run.

    STUDY_DATA_DIR=... python benchmarks/tracking_cost.py [REPEATS]

Prints, for the autoencoder's and the latent GAN's trial on MNIST, the seconds of each and the share that is tracking:
metrics, pictures, figures, tags, parameters and the model. Each is the median of REPEATS (3). Needs the real MNIST.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import MagicMock, patch

from study.config import preset
from study.engine.search import Objective, Search, Trial
from study.engine.stage import run_stages
from study.run import Prepared, prepare
from tracking.runs import Run, trial_run

STAGES = ("autoencoder", "latent-gan")


class Measured(Exception):
    """Leaves the stage as soon as its first trial is timed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def timed_trial(tracked: bool) -> Callable[..., Any]:
    """In place of a search's `Trials`: run its last fixed trial once and leave the stage with its time."""

    def run(search: Search, objective: Objective, _store: object, parent: Run, **_: object) -> None:
        slot, params = list(search.fixed.items())[-1]
        rest = {"prunable": False, "_optuna": MagicMock(), "_prune_on": None, "_epoch": MagicMock()}
        began = time.perf_counter()
        if tracked:
            with trial_run(parent, "trial", params, {}) as real:
                objective(Trial(0, slot, params, real, **rest))  # type: ignore[arg-type]
        else:
            with patch("study.engine.search.log_model"):
                objective(Trial(0, slot, params, MagicMock(spec=Run), **rest))  # type: ignore[arg-type]
        raise Measured(time.perf_counter() - began)

    return run


def seconds(stage: str, prepared: Prepared, tracked: bool) -> float:
    """The time of one trial of a stage."""
    only = tuple(each for each in prepared.request.stages if each.name == stage)
    with patch("study.engine.study.Trials", timed_trial(tracked)):
        try:
            run_stages(replace(prepared.request, stages=only), prepared.session, prepared.inputs)
        except Measured as done:
            return done.seconds
    raise AssertionError("the stage ran no trial")


def main(repeats: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        demo: Any = preset("demo")
        config = replace(
            demo,
            data="mnist",
            store=Path(folder),
            judge=replace(demo.judge, epochs=1),
            autoencoder=replace(demo.autoencoder, latent_dims=(15,), free_trials=0, epochs=4),
            stages=("judge", "autoencoder"),
        )
        first = prepare("demo", config)
        run_stages(first.request, first.session, first.inputs)
        prepared = prepare("demo", replace(config, stages=STAGES[1:]))
        prepared = replace(prepared, request=replace(config, stages=STAGES).request())
        print("trial          nothing logged   all logged   tracking")
        for stage in STAGES:
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(repeats):
                for tracked in times:
                    times[tracked].append(seconds(stage, prepared, tracked))
            bare, full = median(times[False]), median(times[True])
            print(f"{stage:13}  {bare:12.1f} s   {full:8.1f} s   {(full - bare) / full:7.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
