"""Further processes that work on the same study: the store is all that they share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from study.harness.capacity import THREADS

START = "spawn"  # nothing inherited: no open connection, no thread's lock
STOPPING = 10.0  # seconds that a worker has to end its runs

Work = Callable[[Sequence[str]], int]
"""What a worker does with the command line that it was started with; gives its exit code."""


def divide_cores(workers: int, cores: int) -> None:
    """Give each worker its share of the threads, unless the user has set it; comes before packages read it."""
    os.environ.setdefault(THREADS, str(max(1, cores // workers)))


@contextmanager
def workers(count: int, work: Work, arguments: Sequence[str]) -> Iterator[None]:
    """So many processes work beside what is run inside; none outlives it."""
    spawn: Any = multiprocessing.get_context(START)
    started: list[Any] = []
    try:
        for _ in range(count):
            process = spawn.Process(target=_work, args=(work, list(arguments)))
            process.start()
            started.append(process)
        yield
        for process in started:
            process.join()  # It finds the study finished.
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(STOPPING)
            process.kill()
            process.join()
    died = [process.exitcode for process in started if process.exitcode]
    if died:
        print(f"workers that did not reach the end: {len(died)}, exit codes {died}", file=sys.stderr)


def _work(work: Work, arguments: Sequence[str]) -> None:
    """A worker's process: the launcher shows what it does, and stops it."""
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    sys.exit(work(arguments))


def _stop_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    wait([launcher.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
