"""A stage of cheap trials for studies on clusters: workers find it as a package's entry point (see on_cluster.py)."""

from __future__ import annotations

from dataclasses import dataclass

from study.engine.stage import Context, Outcome, Stage


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

    from study.engine import queue
    from study.engine.search import Search, log_uniform
    from study.engine.study import Candidate
    from study.engine.trial import Trial
    from study.engine.workers import node
    from study.results import Row

    queue.HEARTBEAT, queue.GRACE, queue.TRIES = 1, 4, 100  # deaths show soon, and however many are survived
    settings: CheapConfig = context.settings

    def objective(trial: Trial) -> tuple[float]:
        trial.set_tags({"node": node()})
        epoch = 1
        while epoch < 3 or os.path.exists(settings.hold):
            trial.report(epoch, {"val/loss": trial.params["x"] / epoch})
            time.sleep(settings.pause)
            epoch += 1
        loss = 1 + abs(trial.params["x"] - 1)
        trial.log({"loss": loss})
        trial.log_model(torch.nn.Linear(4, 2), torch.zeros(2, 4), {"module": {}})
        return (loss,)

    search = Search({"loss": "minimize"}, {"x": log_uniform(0.01, 100)}, settings.trials - 2)
    with context.open("A study of cheap trials.") as study:
        searched = study.enqueue(search, objective, "search")
        given = study.run([{"x": 0.5}, {"x": 3.0}], objective, objectives={"loss": "minimize"})
        best = min([*given, *searched()], key=lambda result: result.values)
        return study.close(
            {"cheap": Candidate(best, "loss")}, lambda made: [Row("loss", f"{made['cheap'].metrics['loss']:.3f}")]
        )


STAGE = Stage("cheap", "Does it hold?", CheapConfig, run, outputs=("cheap",))
