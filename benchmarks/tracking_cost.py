"""What tracking costs: the same trial with everything logged and with nothing logged, in turn, in one run.

    STUDY_DATA_DIR=... python benchmarks/tracking_cost.py [REPEATS]

Prints, for the autoencoder's and the latent GAN's trial on MNIST, the seconds of each and the share that is tracking:
metrics, pictures, figures, tags, parameters and the model. Each is the median of REPEATS (3). Needs the real MNIST.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import MagicMock, patch

from study.config import PRESETS, AutoencoderConfig, JudgeConfig
from study.run import prepare, run_stage
from study.search import Objective, Search, Trial
from study.stage import Context
from tracking.runs import Run, trial_run


class Measured(Exception):
    """Leaves the stage as soon as its first trial is timed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def timed_trial(tracked: bool) -> Callable[..., Any]:
    """In place of `run_search`: run the search's last fixed trial once and leave the stage with its time."""

    def run(_name: str, search: Search, objective: Objective, _store: object, parent: Run, *_: object) -> None:
        params = search.fixed[-1]
        began = time.perf_counter()
        if tracked:
            with trial_run(parent, "trial", params, {}) as real:
                objective(Trial(0, params, real, MagicMock(), None, MagicMock()))
        else:
            with patch("tracking.registry.log_model"):
                objective(Trial(0, params, MagicMock(spec=Run), MagicMock(), None, MagicMock()))
        raise Measured(time.perf_counter() - began)

    return run


def seconds(stage: str, context: Context, tracked: bool) -> float:
    """The time of one trial of a stage."""
    with patch("study.stage.run_search", timed_trial(tracked)):
        try:
            import_module(f"study.stages.{stage}").run(context)
        except Measured as done:
            return done.seconds
    raise AssertionError("the stage ran no trial")


def main(repeats: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            PRESETS["demo"],
            data="mnist",
            store=Path(folder),
            judge=JudgeConfig(epochs=1),
            autoencoder=AutoencoderConfig(latent_dims=(15,), free_trials=0, epochs=4),
        )
        context = prepare("benchmark", config)
        for stage in ("judge", "autoencoder"):
            run_stage(stage, context)  # type: ignore[arg-type]
        print("trial          nothing logged   all logged   tracking")
        for stage in ("autoencoder", "latent_gan"):
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(repeats):
                for tracked in times:
                    times[tracked].append(seconds(stage, context, tracked))
            bare, full = median(times[False]), median(times[True])
            print(f"{stage:13}  {bare:12.1f} s   {full:8.1f} s   {(full - bare) / full:7.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
