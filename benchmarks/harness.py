"""What the harness itself costs, and how that grows: trials that do nothing, real processes, real databases.

    python benchmarks/harness.py [TRIALS [MOST]]

Prints trials per second of TRIALS (60) trials with 1, 2 and 4 workers, on SQLite and, where PostgreSQL's binaries are
installed, on PostgreSQL and MLflow's server; then, for studies of 10, 100, ... up to MOST (1,000) trials, the seconds
to open the store, to find the study complete, to run one trial more, to read what the table at the end and what the
report is made of, and to list the newest 100 runs as MLflow's page does; of SQLite, kilobytes of the databases a trial.
All but ten of those trials are copies of a real one, written into both databases: running 10,000 would take an hour.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import math
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from study.cli import COLLECT_AFTER
from study.engine.search import Search, Trial, integer, log_uniform
from study.engine.slots import RUN_ID, SLOT, load_study
from study.engine.trials import run_search
from tracking.reading import parents
from tracking.reading import trials as trials_of
from tracking.runs import TRIAL, Run, study_run, trial_metrics
from tracking.store import Store, open_store

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]  # in this order: tests has a folder `study` too
SPACE = {"x": log_uniform(0.01, 100), "n": integer(1, 9)}
Servers = tuple[str | None, str | None]
"""Tracking server and database; None: the folder's own."""


def nothing(trial: Trial) -> tuple[float, ...]:
    """Report once, as the shortest real trial does."""
    trial.report(1, {"val/loss": trial.params["x"]})
    return (trial.params["x"],)


def run(store: Store, name: str, trials: int) -> None:
    with study_of(store, name) as parent:
        run_search(Search({"loss": "minimize"}, SPACE, free=trials), nothing, store, parent, name=name)


def study_of(store: Store, name: str) -> AbstractContextManager[Run]:
    """The parent run of the study of this name."""
    experiment = store.experiment("bench/nothing")
    return study_run(store, experiment, name, title=name, description="", tags={})


def work(folder: Path, servers: Servers, name: str, trials: int, start: object) -> None:
    """One worker: it waits for the others to be ready."""
    store = open_store(folder, *servers)
    start.wait()  # type: ignore[attr-defined]
    run(store, name, trials)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def speed(folder: Path, servers: Servers, workers: int, trials: int) -> float:
    """Trials per second."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(workers + 1)
    name = f"bench/nothing/{workers}"
    started = [spawn.Process(target=work, args=(folder, servers, name, trials, start)) for _ in range(workers)]
    for process in started:
        process.start()
    start.wait()
    elapsed = seconds(lambda: [process.join() for process in started])
    assert [process.exitcode for process in started] == [0] * workers
    return trials / elapsed


def fill(store: Store, name: str, trials: int) -> float:
    """A study of so many complete trials. Returns the seconds that one takes, of those that were run."""
    real = min(trials, 10)
    elapsed = seconds(lambda: run(store, name, real)) / real
    search = load_study(name, store)
    pattern = search.get_trials(deepcopy=False)[0]
    client = MlflowClient()
    copied = client.get_run(pattern.user_attrs[RUN_ID])
    generator = random.Random(0)
    attempts = []
    for number in range(real, trials):
        params = {"x": math.exp(generator.uniform(math.log(0.01), math.log(100))), "n": generator.randint(1, 9)}
        tags = {**copied.data.tags, TRIAL: str(number), "mlflow.runName": f"trial {number}"}
        made = client.create_run(copied.info.experiment_id, tags=tags).info
        metrics = [Metric("val/loss", params["x"], made.start_time, 1)]
        client.log_batch(made.run_id, metrics, [Param(key, str(value)) for key, value in params.items()])
        client.set_terminated(made.run_id)
        attributes = {**pattern.user_attrs, SLOT: f"free {number}", RUN_ID: made.run_id}
        attempts.append(
            optuna.create_trial(value=params["x"], params=params, distributions=SPACE, user_attrs=attributes)
        )
    search.add_trials(attempts)
    return elapsed


def growth(folder: Path, urls: Servers, trials: int) -> list[float]:
    """Seconds of: running a trial, while there are few; opening; resuming; one more trial; reading for the table and
    for the report; MLflow's list of runs.
    """
    store, name = open_store(folder, *urls), f"bench/growth/{trials}"
    filling = fill(store, name, trials)
    opening = seconds(lambda: open_store(folder, *urls))
    resuming = seconds(lambda: run(store, name, trials))
    one_more = seconds(lambda: run(store, name, trials + 1))
    with study_of(store, name) as parent:
        table = seconds(lambda: trial_metrics(parent))
    record = next(each for each in parents("bench/nothing") if each.study == name)
    report = seconds(lambda: trials_of(record))
    newest = {"max_results": 100, "order_by": ["attributes.start_time DESC"]}
    listing = seconds(lambda: MlflowClient().search_runs([record.experiment_id], **newest))
    return [filling, opening, resuming, one_more, table, report, listing]


def database_size(folder: Path) -> int:
    """Bytes."""
    return sum((folder / name).stat().st_size for name in ("mlflow.db", "optuna.db"))


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, Servers]]:
    """The set-ups that this machine can measure."""
    from servers import MlflowServer, Postgres

    setups: dict[str, Servers] = {"SQLite": (None, None)}
    try:
        postgres = Postgres()
    except BaseException as reason:  # pytest's skip
        print(f"without PostgreSQL: {reason}")
        yield setups
        return
    tracking = MlflowServer(folder)
    tracking.start()
    try:
        yield setups | {"PostgreSQL and MLflow's server": (tracking.url, postgres.url)}
    finally:
        tracking.stop()
        postgres.remove()


def main(trials: int, most: int) -> None:
    """Print all tables."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with servers(folder) as setups:
            print(f"{'trials per second with':32}  1 worker  2 workers  4 workers")
            for number, (setup, urls) in enumerate(setups.items()):
                found = [speed(folder / str(number), urls, workers, trials) for workers in (1, 2, 4)]
                print(f"{setup:32}  {found[0]:8.1f}  {found[1]:9.1f}  {found[2]:9.1f}")
            for number, (setup, urls) in enumerate(setups.items()):
                print(f"\n{setup}: seconds")
                print(" trials  a trial   open  resume  one more  table  report  MLflow's list  kB a trial")
                for count in (10**power for power in range(1, 1 + round(math.log10(most)))):
                    place = folder / f"growth-{number}-{count}"
                    filling, opening, resuming, one_more, table, report, listing = growth(place, urls, count)
                    print(f"{count:7}  {filling:7.3f}  {opening:5.2f}  {resuming:6.2f}  {one_more:8.2f}", end="")
                    size = f"{database_size(place) / 1000 / count:10.1f}" if urls == (None, None) else ""
                    print(f"  {table:5.2f}  {report:6.2f}  {listing:13.2f}  {size}".rstrip(), flush=True)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    gc.set_threshold(COLLECT_AFTER)  # as commands do
    main(*given, *(60, 1000)[len(given) :])
