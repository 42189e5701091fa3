"""A stage of cheap trials for studies on clusters: workers find it as a package's entry point (see on_cluster.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study.engine.stage import Context, Outcome, Row, Stage


@dataclass(frozen=True)
class CheapConfig:
    """Trials that go on for as long as a test wants them to."""

    trials: int = 4
    """How many."""
    pause: float = 0.2
    """Seconds between two reports."""
    hold: str = ""
    """A file: while it is there, no trial comes to its end."""


def run(context: Context) -> Outcome:
    import os
    import time

    import torch

    from study.engine import slots
    from study.engine.order import node
    from study.engine.search import Search, Trial, log_uniform, named
    from study.engine.study import Candidate, open_study

    slots.HEARTBEAT, slots.GRACE, slots.RETRIES = 1, 4, 100  # deaths show soon, and however many are survived
    config: CheapConfig = context.config
    fixed = named([{"x": 0.5}, {"x": 3.0}])

    def objective(trial: Trial) -> tuple[float]:
        trial.run.set_tags({"node": node()})
        module = torch.nn.Linear(4, 2)
        epoch = 1
        while epoch < 3 or os.path.exists(config.hold):
            trial.report(epoch, {"val/loss": trial.params["x"] / epoch})
            time.sleep(config.pause)
            epoch += 1
        loss = 1 + abs(trial.params["x"] - 1)
        trial.run.log({"loss": loss})
        trial.log_model(module, torch.zeros(2, 4), {"module": {}})
        return (loss,)

    def finish(made: Mapping[str, Any]) -> list[Row]:
        return [Row("loss", f"{made['cheap'].metrics['loss']:.3f}")]

    search = Search({"loss": "minimize"}, {"x": log_uniform(0.01, 100)}, fixed, config.trials - len(fixed))
    with open_study(context, "A study of cheap trials.") as study:
        best = min(study.search(search, objective), key=lambda result: result.values)
        return study.close({"cheap": Candidate(best, "loss")}, finish)


STAGE = Stage("cheap", "Does it hold?", CheapConfig, lambda _: "cheap trials", run, outputs=("cheap",))
