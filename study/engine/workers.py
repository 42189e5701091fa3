"""Worker processes: how many fit on this machine, what a worker is given, and what keeps it alive.

A worker is the command `python -m study.run` with a job spec in the environment variable STUDY_WORKER. The store is all
that workers share with the command and with each other.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from study.checks import UsageError
from study.engine.identity import code_digest, versions

JOB, COUNT, THREADS = "STUDY_WORKER", "STUDY_WORKERS", "OMP_NUM_THREADS"  # variables of the environment
COMMAND = ["-m", "study.run"]
MEMORY = 2.5 * 2**30  # bytes of a worker: two workers of `demo` on MNIST peaked at 2.1 and 2.2 GiB
MOST_WORKERS = 16  # a stage has few more trials than that, and Optuna learns nothing from trials under way
MOST_RESTARTS = 20  # of a worker
PAUSE = 5.0  # seconds before a worker is started again
STOPPING = 10.0  # seconds that a stopped worker has to end its runs
TRY_AGAIN = 75  # exit code of a worker that lost its servers (EX_TEMPFAIL of sysexits.h)


def wanted(asked: int | Literal["auto"], device: str, launcher: str) -> int:
    """Return how many workers there are to be; auto: $STUDY_WORKERS, else as many as this machine carries.

    Raises:
        UsageError: $STUDY_WORKERS is no number from 1, or the number of workers of a cluster is not given.
    """
    given = os.environ.get(COUNT)
    if asked != "auto":
        return asked
    if given:
        if not (given.isascii() and given.isdecimal() and int(given)):
            raise UsageError(f"{COUNT} must be a number from 1, but got {given!r}")
        return int(given)
    if launcher != "local":
        raise UsageError(f"--workers must be a number with --launcher {launcher}, but got auto")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    on_gpu = device == "cuda" or (device == "auto" and not hidden and any(Path("/dev").glob("nvidia[0-9]*")))
    threads = os.environ.get(THREADS, "")
    cores = cpu_count() // (int(threads) if threads.isdecimal() and int(threads) else 1)
    return 1 if on_gpu else max(1, int(min(cores, free_memory() / MEMORY, MOST_WORKERS)))


def cpu_count() -> int:
    """Return the cores that this process may use, within its affinity and the quota of its container."""
    import joblib  # late: it takes a while

    return int(joblib.cpu_count())


def free_memory(system: Path = Path("/")) -> float:
    """Return the bytes that are free on the machine, at most the limit of the container; inf where neither is known."""
    found = [float("inf")]
    with suppress(OSError):
        lines = (system / "proc/meminfo").read_text().splitlines()
        found += [1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, version 2 and version 1
        with suppress(OSError, ValueError):  # "max": no limit
            found.append(float((system / "sys/fs/cgroup" / name).read_text()))
    return min(found)


def divide_cores(workers: int) -> None:
    """Set the threads of this process and its workers, unless the user has; PyTorch reads it as it is imported."""
    os.environ.setdefault(THREADS, str(max(1, cpu_count() // workers)))


def node() -> str:
    """Return what Slurm or the system calls this machine."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class JobSpec:
    """What a worker is given. It may hold passwords, so it travels in the environment, never on a command line.

    Attributes:
        preset: The name of the preset or of the TOML file.
        arguments: The command line of `study.run` that gives the command's exact config without a file.
        data: The digest of the command's data.
        code: What `code` returns where the command runs.
    """

    preset: str
    arguments: list[str]
    data: str
    code: str

    @property
    def environment(self) -> dict[str, str]:
        """The variable that makes a process of `study.run` this worker."""
        return {JOB: json.dumps(asdict(self))}

    def check(self, name: Literal["data", "code"], here: str) -> None:
        """Raise a UsageError unless this process has the command's data or code."""
        there = getattr(self, name)
        if here != there:
            raise UsageError(f"its {name} is {here}, the command's is {there}: install the same on every node")


def code() -> str:
    """Return the digest of the code that runs here, and the versions of its packages."""
    return f"{code_digest()}, {versions()}"


def job_spec() -> JobSpec | None:
    """Return the spec of the worker that this process is to be, or None: it is a user's command."""
    given = os.environ.pop(JOB, None)  # not for the processes that this one starts
    return None if given is None else JobSpec(**json.loads(given))


def end_with_parent() -> None:
    """Stop this process as its parent dies, by kill -9 too: a pool holds the other end of its standard input."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class WorkerPool:
    """Worker processes on this machine; one that is killed or loses its servers is started again.

    Workers are sessions of their own, so that a terminal's Ctrl-C reaches them once: through the pool.

    Args:
        environment: Variables of the workers, beside this process's own.
        errors: A file for their error output; None: that of this process.

    Attributes:
        codes: The exit codes of the workers that are not started again.
    """

    def __init__(self, count: int, environment: Mapping[str, str], errors: Path | None = None) -> None:
        self.codes: list[int] = []
        self._environment, self._errors = {**os.environ, **environment}, errors
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = [threading.Thread(target=self._keep_alive, daemon=True) for _ in range(count)]

    def start(self) -> None:
        """Start the workers; whatever happens meanwhile, `stop` ends them."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all workers have come to their end."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def stop(self) -> None:
        """Stop all workers; those that do not end their runs in time are killed."""
        with self._lock:
            self._stopped.set()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING)
            process.kill()
        self.join()

    def _keep_alive(self) -> None:
        code = 0
        for _ in range(1 + MOST_RESTARTS):
            with self._lock:
                if self._stopped.is_set():
                    break
                process = self._start()
                self._processes.append(process)
            with process:  # which closes the pipe
                code = process.wait()
            if 0 <= code != TRY_AGAIN:
                break
            self._stopped.wait(PAUSE)
        self.codes.append(code)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), *COMMAND]
        with self._errors.open("ab") if self._errors else nullcontext() as errors:
            return subprocess.Popen(
                command, env=self._environment, stdin=subprocess.PIPE, stderr=errors, start_new_session=True
            )


@contextmanager
def local_workers(count: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Run this many worker processes beside the block; none outlives it."""
    pool = WorkerPool(count, environment)
    try:
        pool.start()
        yield
        pool.join()  # They find the study finished.
    finally:
        pool.stop()
    failed = [code for code in pool.codes if code]
    if failed:
        print(f"workers that did not reach the end: {len(failed)}, exit codes {failed}", file=sys.stderr)
