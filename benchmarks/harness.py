"""What the harness itself costs, beside Optuna's own ways, and how that grows: trials that do nothing.

    python benchmarks/harness.py [TRIALS [MOST]]

Prints trials a second of TRIALS (40) trials with 1 and 2 processes, each with a nested MLflow run: a list and a search
of ours, Optuna's `optimize` on SQLite, and a queue of Optuna's own (`enqueue_trial`, `ask` under a lock, journal file),
the way that was compared with our table of tasks. Then, for lists of 10, 100, ... up to MOST (1,000) trials, the
seconds of a trial, of finding the list complete, and of one trial more. All but ten of those trials are copies.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import optuna
from filelock import FileLock
from mlflow.entities import Param

from study.engine.queue import Queue, key_of
from study.engine.runner import Runner
from study.engine.search import Search, integer, log_uniform
from study.engine.trial import Trial
from tracking.runs import study_run
from tracking.store import Store, open_store

SPACE = {"x": log_uniform(0.01, 100), "n": integer(1, 9)}
NAME = "bench/nothing"


def nothing(trial: Trial) -> tuple[float, ...]:
    """Report once, as the shortest real trial does."""
    trial.report(1, {"val/loss": trial.params["x"]})
    return (trial.params["x"],)


def listed(count: int) -> list[dict[str, Any]]:
    return [{"x": 1.0 + number, "n": 1} for number in range(count)]


def run(store: Store, trials: Sequence[dict[str, Any]] | Search) -> None:
    with study_run(store, store.experiment(NAME), NAME) as parent:
        runner = Runner(queue=Queue(store), parent=parent, name=NAME, label="bench", seed_for=lambda number: number)
        runner.enqueue(trials, nothing, objectives={"val/loss": "minimize"})()
        runner.leave()


def our_list(folder: Path, count: int, barrier: Any) -> None:
    store = open_store(folder)
    barrier.wait()
    run(store, listed(count))


def our_search(folder: Path, count: int, barrier: Any) -> None:
    store = open_store(folder)
    barrier.wait()
    run(store, Search({"val/loss": "minimize"}, SPACE, count))


def _nested(parent: str, params: dict[str, Any]) -> float:
    with mlflow.start_run(parent_run_id=parent, nested=True):
        mlflow.log_params(params)
        mlflow.log_metric("val/loss", params["x"], step=1)
    return float(params["x"])


def optuna_optimize(folder: Path, count: int, barrier: Any) -> None:
    """What Optuna's pages show: `optimize` on SQLite, a nested MLflow run a trial."""
    parent, storage = _peers(folder), f"sqlite:///{folder}/peers.db"

    def objective(trial: optuna.Trial) -> float:
        params = {"x": trial.suggest_float("x", 0.01, 100, log=True), "n": trial.suggest_int("n", 1, 9)}
        return _nested(parent, params)

    with FileLock(folder / "tables.lock"):
        found = optuna.create_study(study_name=NAME, storage=storage, load_if_exists=True)
    barrier.wait()
    enough = optuna.study.MaxTrialsCallback(count)
    found.optimize(objective, callbacks=[enough])


def optuna_queue(folder: Path, count: int, barrier: Any) -> None:
    """A queue of Optuna's own: a waiting trial each, popped under a lock, in a journal file."""
    parent = _peers(folder)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal")))
    lock = FileLock(folder / "ask.lock")
    with lock:
        found = optuna.create_study(study_name=NAME, storage=storage, load_if_exists=True)
        if not found.trials:
            for number in range(count):
                found.enqueue_trial({"x": 1.0 + number, "n": 1}, user_attrs={"key": number})
    barrier.wait()
    while True:
        with lock:
            if not found.get_trials(deepcopy=False, states=[optuna.trial.TrialState.WAITING]):
                return
            trial = found.ask(SPACE)
        found.tell(trial, _nested(parent, trial.params))


def _peers(folder: Path) -> str:
    """One MLflow run for all nested ones, in a store that is there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with FileLock(folder / "parent.lock"):
        mlflow.set_experiment("peers")
        known = mlflow.search_runs(filter_string="tags.parent = 'yes'", output_format="list")
        if known:
            return str(known[0].info.run_id)
        return str(mlflow.MlflowClient().create_run(_experiment(), tags={"parent": "yes"}).info.run_id)


def _experiment() -> str:
    found = mlflow.get_experiment_by_name("peers")
    assert found is not None
    return str(found.experiment_id)


WAYS = {
    "a list (table of tasks)": our_list,
    "a search (the same, Optuna proposes)": our_search,
    "Optuna's optimize, SQLite": optuna_optimize,
    "Optuna's queue, ask under a lock, journal": optuna_queue,
}


def speed(way: Callable[..., None], processes: int, count: int) -> float:
    """Trials a second; starting the processes does not count."""
    with tempfile.TemporaryDirectory() as folder:
        open_store(Path(folder))
        spawn = multiprocessing.get_context("spawn")
        barrier = spawn.Barrier(processes + 1)
        started = [spawn.Process(target=way, args=(Path(folder), count, barrier)) for _ in range(processes)]
        for process in started:
            process.start()
        barrier.wait()
        began = time.perf_counter()
        for process in started:
            process.join()
        elapsed = time.perf_counter() - began
        assert [process.exitcode for process in started] == [0] * processes
        return count / elapsed


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def growth(folder: Path, count: int) -> list[float]:
    """Seconds of a trial while there are few, of finding the list complete, and of one trial more."""
    store, real = open_store(folder), 10
    one = seconds(lambda: run(store, listed(real))) / real
    client, queue = mlflow.MlflowClient(), Queue(store)
    part = f"{NAME}/trials"
    queue.add(part, {key_of(params): params for params in listed(count)})
    pattern = client.get_run(queue.trials(part)[0].run_id or "")
    for trial in queue.trials(part)[real:]:
        tags = {**pattern.data.tags, "trial.number": str(trial.number)}
        made = client.create_run(pattern.info.experiment_id, tags=tags).info
        client.log_batch(made.run_id, params=[Param(name, str(value)) for name, value in trial.params.items()])
        client.set_terminated(made.run_id)
        assert queue.take(trial)
        queue.note(trial, run_id=made.run_id)
        queue.note(trial, state="complete", values=[trial.params["x"]])
    queue.close()
    return [one, seconds(lambda: run(store, listed(count))), seconds(lambda: run(store, listed(count + 1)))]


def main(count: int = 40, most: int = 1000) -> None:
    """Print both tables."""
    print(f"{'trials a second':44}  1 process  2 processes")
    for name, way in WAYS.items():
        print(f"{name:44}  {speed(way, 1, count):9.1f}  {speed(way, 2, count):11.1f}", flush=True)
    print(f"\n{'trials':>7}  {'a trial':>8}  {'find all complete':>18}  {'one more':>9}   (seconds)")
    size = 10
    while size <= most:
        with tempfile.TemporaryDirectory() as folder:
            one, resume, more = growth(Path(folder), size)
        print(f"{size:7}  {one:8.3f}  {resume:18.2f}  {more:9.2f}", flush=True)
        size *= 10


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
