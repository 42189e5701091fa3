"""The program that test_kills.py runs: a study of cheap but real trials, under a rain of kill -9.

    OMP_NUM_THREADS=1 python kills.py STORE KILLS SEED [FLAGS OF study.run]

Everything is imported once, and each launcher and worker is a fork: starting a process takes milliseconds, not seconds.
It kills a worker, the launcher or all of them, after random times and in the middle of chosen calls, and starts
the same command again, until it has killed KILLS times; then it lets that command end. Prints what it did as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import mlflow
import optuna
import torch

import study.stages
from study import plots, run
from study.cli import config_type
from study.engine import queue, workers
from study.engine.search import Search, integer, log_uniform
from study.engine.stage import Candidate, Context, Outcome, Stage
from study.engine.trial import Trial
from study.results import Row
from tracking.registry import Version

PARTS = {"given": [{"x": 0.5, "n": 2}, {"x": 3.0, "n": 1}], "side": [{"x": 1.0, "n": 3}]}
SPACE = {"x": log_uniform(0.01, 100), "n": integer(1, 9)}
COMMAND = "smoke --data digits"
FREE = 2
RISK = 0.01  # of dying as each of these calls begins, and as it ends
DEATHS = Path(sys.argv[1]).with_suffix(".deaths")  # where processes died by these
RISKY = [
    (mlflow.MlflowClient, "create_run"),
    (mlflow.MlflowClient, "log_batch"),
    (mlflow.MlflowClient, "log_dict"),
    (mlflow.MlflowClient, "create_model_version"),
    (mlflow.MlflowClient, "update_model_version"),
    (mlflow.MlflowClient, "set_model_version_tag"),
    (mlflow.MlflowClient, "set_registered_model_alias"),
    (mlflow.MlflowClient, "set_terminated"),
    (mlflow.pytorch, "log_model"),
    (mlflow.pytorch, "save_model"),
    (queue.Queue, "add"),
    (queue.Queue, "take"),
    (queue.Queue, "note"),
    (optuna.Study, "ask"),
    (optuna.Study, "tell"),
]


@dataclass(frozen=True)
class TinyConfig:
    """Nothing to set."""

    unused: int = 0
    """A number."""


def tiny(name: str, inputs: tuple[str, ...], output: str) -> Stage:
    """A stage of trials that take a fraction of a second."""

    def run_stage(context: Context) -> Outcome:
        def objective(trial: Trial) -> tuple[float, ...]:
            module = torch.nn.Linear(4, 2)
            with torch.no_grad():
                module.weight += trial.params["x"]
            for epoch in range(1, 4):
                time.sleep(0.05)
                trial.report(epoch, {"val/loss": trial.params["x"] / epoch})
            # Later studies have better champions.
            loss = (1 + abs(trial.params["x"] - 1)) / (1 + context.session.seed)
            trial.log({"loss": loss}, step=3)
            trial.log_model(module, torch.zeros(2, 4), {"module": {"x": trial.params["x"]}})
            return (loss,)

        def finish(made: Mapping[str, Version]) -> list[Row]:
            study.parent.log_figure("tiny", plots.curves({"x": ([1, 2], [1, 2])}, "x", "y", "tiny"))
            return [Row("loss", f"{made[output].metrics['loss']:.3f}")]

        with context.open("A tiny study.") as study:
            for part, given in PARTS.items():
                study.run(given, objective, part, objectives={"loss": "minimize"})
            study.search(Search({"loss": "minimize"}, SPACE, FREE, known=study.results[:2]), objective)
            best = min(study.results, key=lambda result: result.values[0])
            return study.close({output: Candidate(best, "loss")}, finish)

    return Stage(name, "Does it hold?", TinyConfig, run_stage, inputs=inputs, outputs=(output,))


def risky(owner: object, name: str) -> None:
    """Let the process die, now and then, as this call begins or ends."""
    call = getattr(owner, name)

    @wraps(call)
    def wrapped(*args: object, **kwargs: object) -> object:
        roll(f"before {name}")
        result = call(*args, **kwargs)
        roll(f"after {name}")
        return result

    setattr(owner, name, wrapped)


def roll(place: str) -> None:
    if random.random() < RISK:
        with DEATHS.open("a") as deaths:
            deaths.write(f"{place}\n")
        os.kill(os.getpid(), signal.SIGKILL)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def launch(arguments: list[str], log: Path, seed: int, risk: bool) -> int:
    """The command in a process group of its own."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    with log.open("a") as errors:
        os.dup2(errors.fileno(), 2)
        os.dup2(errors.fileno(), 1)
    random.seed(seed)
    if risk:
        for owner, name in RISKY:
            risky(owner, name)
    code = 1
    try:
        code = run.main(arguments)
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def main(folder: Path, wanted: int, seed: int, flags: list[str]) -> None:
    assert torch.get_num_threads() == 1, "set OMP_NUM_THREADS=1: threads do not survive a fork"
    dice = random.Random(seed)
    queue.HEARTBEAT, queue.GRACE, queue.TRIES = 1, 3, 1000
    workers.START = "fork"
    study.stages.OURS = (tiny("one", (), "first"), tiny("two", ("first",), "second"))
    study.stages.all_stages.cache_clear()
    config_type.cache_clear()
    # What is imported as it is needed comes with the first study.
    warm = run.main(f"{COMMAND} --stages one --log-level warning --store {folder.with_name('warm')}".split())
    assert warm == 0
    log = folder.with_suffix(".log")
    kills: Counter[str] = Counter()
    number = launches = 0
    DEATHS.touch()
    while True:
        launches += 1
        arguments = f"{COMMAND} --stages one two --workers 2 --seed {number} --store {folder}".split() + flags
        deaths = DEATHS.read_text().split("\n")[:-1]
        calm = sum(kills.values()) + len(deaths) >= wanted
        launcher = launch(arguments, log, seed + launches, risk=not calm)
        victim = dice.choice(["worker", "launcher", "all", "none"])
        deadline = time.monotonic() + (600 if calm or victim == "none" else dice.uniform(0.5, 6))
        status = None
        while time.monotonic() < deadline and status is None:
            ended, code = os.waitpid(launcher, os.WNOHANG)
            status = code if ended else None
            time.sleep(0.02)
        if status is None:
            found = children(launcher)
            if victim == "worker" and found:
                os.kill(dice.choice(found), signal.SIGKILL)
            elif victim == "all":
                os.killpg(launcher, signal.SIGKILL)
            else:
                victim = "launcher"
                os.kill(launcher, signal.SIGKILL)
            kills[victim] += 1
            status = os.waitpid(launcher, 0)[1]
        if status == 0:
            if calm:
                break
            number += 1
    print(json.dumps({"kills": kills, "died": deaths, "launches": launches, "studies": number + 1}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
