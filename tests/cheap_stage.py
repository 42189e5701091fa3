"""Stages of cheap trials, for clusters (on_cluster.py) and kills (engine/kills.py); a run's imports are inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study.engine.stage import Context, Outcome, Stage

PARTS = {"given": [{"x": 0.5}, {"x": 3.0}], "side": [{"x": 1.0}]}


@dataclass(frozen=True)
class CheapConfig:
    """Trials that go on for as long as a test wants them to."""

    trials: int = 5
    """How many; those that are not in `PARTS` are a search's."""
    pause: float = 0.1
    """Seconds between two reports."""
    hold: str = ""
    """A file: while it is there, no trial comes to its end."""


def cheap(name: str, inputs: tuple[str, ...], output: str) -> Stage:
    """A stage whose trials take a fraction of a second."""

    def run(context: Context) -> Outcome:
        import os
        import time

        import torch

        from study import plots
        from study.engine import queue
        from study.engine.search import Search, log_uniform
        from study.engine.stage import Candidate
        from study.engine.trial import Trial
        from study.engine.workers import node
        from study.results import Row

        queue.HEARTBEAT, queue.GRACE, queue.TRIES = 1, 4, 1000  # deaths show soon, and however many are survived
        settings: CheapConfig = context.settings

        def objective(trial: Trial) -> tuple[float]:
            trial.set_tags({"node": node()})
            epoch = 1
            while epoch < 3 or os.path.exists(settings.hold):
                trial.report(epoch, {"val/loss": trial.params["x"] / epoch})
                time.sleep(settings.pause)
                epoch += 1
            # Later studies have better champions.
            loss = (1 + abs(trial.params["x"] - 1)) / (1 + context.session.seed)
            trial.log({"loss": loss})
            trial.log_model(torch.nn.Linear(4, 2), torch.zeros(2, 4), {"module": {}})
            return (loss,)

        def finish(made: Mapping[str, Any]) -> list[Row]:
            study.parent.log_figure("cheap", plots.curves({"y": {"x": ([1, 2], [1, 2])}}, "x", "cheap"))
            return [Row("loss", f"{made[output].metrics['loss']:.3f}")]

        free = settings.trials - sum(map(len, PARTS.values()))
        search = Search({"loss": "minimize"}, {"x": log_uniform(0.01, 100)}, free)
        with context.open("A study of cheap trials.") as study:
            searched = study.enqueue(search, objective, "search")
            for part, given in PARTS.items():
                study.run(given, objective, part, objectives={"loss": "minimize"})
            searched()
            best = min(study.results, key=lambda result: result.values)
            return study.close({output: Candidate(best, "loss")}, finish)

    return Stage(name, "Does it hold?", CheapConfig, run, inputs=inputs, outputs=(output,))


STAGE = cheap("cheap", (), "cheap")
