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

from study.engine.capacity import THREADS

START = "spawn"  # nothing inherited: no open connection, no thread's lock
STOPPING = 10.0  # seconds that a worker has to end its runs
RESTARTS = 20  # of killed workers, by what keeps them alive on an engine

Work = Callable[[Sequence[str]], int]
"""What a worker does with the command line that it was started with; gives its exit code."""


def divide_cores(workers: int, cores: int) -> None:
    """Give each worker its share of the threads, unless the user has set it; comes before packages read it."""
    os.environ.setdefault(THREADS, str(max(1, cores // workers)))


@contextmanager
def workers(count: int, work: Work, arguments: Sequence[str]) -> Iterator[None]:
    """So many processes work beside what is run inside; none outlives it."""
    started: list[Any] = []
    try:
        for _ in range(count):
            started.append(_started(work, arguments))
        yield
        for process in started:
            process.join()  # It finds the study finished.
    finally:
        _end(started)
    died = [process.exitcode for process in started if process.exitcode]
    if died:
        print(f"workers that did not reach the end: {len(died)}, exit codes {died}", file=sys.stderr)


def keep_alive(count: int, work: Callable[[Any], int], argument: Any, stop: threading.Event, errors: str = "") -> int:
    """Keep so many processes at work until all have come to their end: one that is killed is started again.

    Args:
        argument: What each of them is given.
        stop: Set by another thread to stop them.
        errors: The file that their error output goes to; "": that of this process.

    Returns:
        The largest of their exit codes; those that were killed too often count as 1.
    """
    started: list[Any] = []
    codes: list[int] = []
    restarts = 0
    try:
        for _ in range(count):
            started.append(_started(work, argument, errors))
        while started and not stop.is_set():
            wait([process.sentinel for process in started], timeout=0.5)
            for process in [each for each in started if not each.is_alive()]:
                started.remove(process)
                if process.exitcode >= 0:
                    codes.append(process.exitcode)
                elif restarts < RESTARTS:
                    restarts += 1
                    started.append(_started(work, argument, errors))
                else:
                    print(f"error: a worker was killed {1 + restarts} times", file=sys.stderr, flush=True)
                    codes.append(1)
    finally:
        _end(started)
    return max(codes, default=0)


def _started(work: Callable[[Any], int], argument: Any, errors: str = "") -> Any:
    spawn: Any = multiprocessing.get_context(START)
    process = spawn.Process(target=_work, args=(work, argument, errors))
    with _without_interrupts():
        process.start()
    return process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that is started inside ignores a terminal's Ctrl-C until it handles it: its launcher stops it."""
    if threading.current_thread() is not threading.main_thread():  # an engine's: it has no terminal
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOPPING)
        process.kill()
        process.join()


def _work(work: Callable[[Any], int], argument: Any, errors: str) -> None:
    """A worker's process: the launcher shows what it does, and stops it."""
    if errors:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    sys.exit(work(argument))


def _stop_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    wait([launcher.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
