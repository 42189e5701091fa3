"""Workers on a cluster: Slurm or Ray keeps them alive, the database keeps the queue, the command only looks on."""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from study.checks import UsageError
from study.engine.workers import STOPPING

LOOK_EVERY = 3.0  # seconds between two questions to a cluster

log = logging.getLogger("study")

Watch = Callable[[], str]  # describes the workers; raises a UsageError if they cannot bring the study to its end


class State(NamedTuple):
    """What a cluster says of a study's workers; `errors` are the sentences with which workers have ended."""

    running: int
    waiting: int
    why_waiting: str
    errors: Sequence[str]


class Cluster(ABC):
    """A cluster, and the workers that it keeps for one study; it may refuse them by a UsageError."""

    name = ""  # of the study's workers: the same command finds them again by it
    folder = Path()  # for logs, where all nodes see it

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options  # the values of --launcher-options, by name
        self.own: list[str] = []  # what this object has started, as the cluster calls it
        self._looked, self._shown, self._missing = float("-inf"), "", 0

    @abstractmethod
    def start(self, count: int, environment: Mapping[str, str]) -> None:
        """Start this many workers with these variables."""

    @abstractmethod
    def state(self) -> State | None:
        """Return the state of all workers, whoever started them; None: the cluster does not answer for now."""

    @abstractmethod
    def cancel(self, *, only_own: bool) -> None:
        """Tell the workers to stop: all of them, or only those that this object started."""

    @abstractmethod
    def stop_command(self) -> str:
        """Return the shell command that stops all workers."""

    def start_missing(self, count: int, environment: Mapping[str, str]) -> None:
        """Start as many workers as are missing of `count`, and print what stops them."""
        state = self.state()
        there = state.running + state.waiting if state else count
        if there < count:
            self.start(count - there, environment)
        before = f"{there} of {count} workers were there before; " if there else ""
        print(f"{before}{self.stop_command()} stops the workers", file=sys.stderr, flush=True)

    @contextmanager
    def workers(self, count: int, environment: Mapping[str, str]) -> Iterator[Watch]:
        """Keep this many workers while the block looks on; if the block fails, stop those that were started here."""
        try:
            self.start_missing(count, environment)
            yield self._look
            self._wait()  # they find the study finished
        except BaseException:
            if self.own:
                self._stop(only_own=True)  # their runs end as KILLED
            raise
        self._stop(only_own=False)  # those that wait for a place

    def _stop(self, *, only_own: bool) -> None:
        with suppress(UsageError):  # the cluster does not answer
            self.cancel(only_own=only_own)
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 2 * STOPPING
        while ((state := self.state()) is None or state.running) and time.monotonic() < deadline:
            time.sleep(0.5)

    def _look(self) -> str:
        """See `Watch`."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            before, self._shown = self._shown, self._describe(self.state())
            self._looked = time.monotonic()
            if self._shown != before:
                log.info("%s", self._shown)
        return self._shown

    def _describe(self, state: State | None) -> str:
        if state is None:
            return f"{type(self).__name__} does not answer; the workers go on"
        error = max(state.errors, key=lambda error: " refuses: " in error, default=f"see {self.folder}")
        if " refuses: " in error:
            raise UsageError(error)
        # The study may be finished since the caller has looked at it: it looks again before the third time.
        self._missing = 0 if state.running + state.waiting else self._missing + 1
        if self._missing > 2:
            raise UsageError(f"all workers have ended before the study was done: {error}; the same command goes on")
        waiting = f", {state.waiting} waiting ({state.why_waiting})" if state.waiting else ""
        return f"{type(self).__name__}: {state.running} running{waiting}"


def connect(launcher: str, options: Sequence[str], tracking_uri: str | None, storage: str | None) -> Cluster | None:
    """Return the cluster slurm or ray, given options as `name=value` or `name`; None: the workers are local.

    Raises:
        UsageError: A store is in files of this machine, or the cluster does not answer or refuses the options.
    """
    if launcher == "local":
        if options:
            raise UsageError(f"--launcher-options need --launcher slurm or ray, but got {options[0]} and local")
        return None
    if not (str(tracking_uri).startswith("http") and str(storage).startswith("postgresql")):
        raise UsageError(f"--launcher {launcher} needs an http --tracking-uri and a postgresql --storage")
    by_name = dict(each.lstrip("-").partition("=")[::2] for each in options)
    try:
        if launcher == "slurm":
            from study.engine.launchers.slurm import Slurm

            return Slurm(by_name)
        from study.engine.launchers.ray import Ray

        return Ray(by_name)
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray, which is not installed: pip install -e '.[ray]'") from error
