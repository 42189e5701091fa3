"""What a launcher costs: the same cheap trials by local processes, on Slurm and on Ray.

    python benchmarks/cluster.py [TRIALS]

For 1, 2 and 4 workers of each launcher that this machine has the software of (real clusters of two nodes on loopback,
PostgreSQL, MLflow's server), prints the seconds from the command's start to the start of its first trial, and the
trials a second from there to the end of the last of TRIALS (24); a trial reports twice and logs a model of ten weights.
"""

from __future__ import annotations

import study  # noqa: F401 - first: it says how OpenMP's threads wait

# isort: split
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]  # in this order: tests has a folder `study` too
os.environ["OMP_NUM_THREADS"] = "1"
WORKERS = (1, 2, 4)

from clusters import Ray, Slurm  # noqa: E402
from on_cluster import OnCluster  # noqa: E402
from servers import MlflowServer, Postgres  # noqa: E402


@contextmanager
def cluster(engine: str, studies: OnCluster) -> Iterator[None]:
    """The engine is there while the block runs, and the studies' commands use it."""
    studies.engine = ["--launcher", engine]
    if engine == "local":
        yield
        return
    running = Slurm(cpus=2) if engine == "slurm" else Ray({"PYTHONPATH": studies.environment["PYTHONPATH"]}, cpus=2)
    try:
        studies.environment.update(running.environment)
        yield
    finally:
        running.remove()


def measured(studies: OnCluster, seed: int, workers: int, trials: int) -> tuple[float, float]:
    """Seconds from the command's start to the first trial's; trials a second from there on."""
    studies.workers = workers
    began = time.time()
    done = studies.run(seed, "--cheap.trials", trials, "--cheap.pause", 0)
    assert done.returncode == 0, done.stderr
    runs = studies.runs(seed)
    first, last = min(run.info.start_time for run in runs), max(run.info.end_time for run in runs)
    return first / 1000 - began, 1000 * trials / (last - first)


def main(trials: int) -> None:
    """Print the table."""
    print("seconds to the first trial, trials a second".ljust(12), *(f"{each} workers".rjust(16) for each in WORKERS))
    with tempfile.TemporaryDirectory() as temporary:
        tracking, postgres = MlflowServer(Path(temporary)), Postgres()
        tracking.start()
        try:
            studies = OnCluster(Path(temporary), tracking, postgres, [], {})
            for number, engine in enumerate(("local", "slurm", "ray")):
                try:
                    with cluster(engine, studies):
                        found = [measured(studies, 10 * number + each, each, trials) for each in WORKERS]
                except BaseException as reason:  # pytest's skip
                    if type(reason).__name__ != "Skipped":
                        raise
                    print(f"{engine}: {reason}")
                    continue
                cells = (f"{start:7.1f} {speed:7.2f}" for start, speed in found)
                print(engine.ljust(43), *(cell.rjust(16) for cell in cells), flush=True)
        finally:
            tracking.stop()
            postgres.remove()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
