"""Workers on a cluster: Slurm or Ray keeps them alive, the database keeps the queue, the command only looks on."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from study.checks import UsageError
from study.engine.workers import MOST_RESTARTS, STOPPING, THREADS, TRY_AGAIN

LOOK_EVERY = 3.0  # seconds between two questions to a cluster
PATIENCE = 10.0  # seconds that Slurm's controller has to answer
ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)  # what a worker writes as it ends

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
        done = False
        try:
            self.start_missing(count, environment)
            yield self._look
            self._wait()  # they find the study finished
            done = True
        finally:
            if done or self.own:
                with suppress(UsageError):  # the cluster does not answer
                    self.cancel(only_own=not done)  # those that wait for a place; after a stop, runs end as KILLED
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
    if launcher == "slurm":
        return Slurm(by_name)
    try:
        from study.engine.ray import Ray
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray, which is not installed: pip install -e '.[ray]'") from error
    return Ray(by_name)


SCRIPT = f"""\
#!/bin/bash
# Keep one worker of a study alive. Slurm sends USR1 before the time limit, and TERM to this shell and to the worker.
trap 'scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"' USR1
trap 'stopped=yes' TERM
for start in {{0..{MOST_RESTARTS}}}; do
    {shlex.quote(sys.executable)} -m study.run &
    while wait $!; code=$?; kill -0 $! 2>/dev/null; do :; done  # a signal ends `wait` early
    [[ -z $stopped && ($code -eq {TRY_AGAIN} || $code -gt 130) ]] || break  # above 130: killed by a signal
    sleep 2
done
exit $code
"""


class Slurm(Cluster):
    """An array of jobs, one worker each. Slurm keeps their environment, and with it passwords, to itself."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        _slurm(["squeue", "--me"])

    def start(self, count: int, environment: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        logs = str(self.folder).replace("%", "%%")
        flags = [f"--job-name={self.name}", f"--array=1-{count}", f"--output={logs}/%A_%a.log", "--open-mode=append"]
        flags += ["--requeue", "--signal=B:USR1@60", "--export=ALL"]  # USR1: 60 seconds before the time limit
        options = {"cpus-per-task" if name == "cpus" else name: value for name, value in self.options.items()}
        flags += [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
        given = {**os.environ, THREADS: self.options.get("cpus", "1"), **environment}
        job = _slurm(["sbatch", "--parsable", *flags], given, SCRIPT)
        self.own.append(job.strip().partition(";")[0])  # then follows the cluster's name, where there are several
        print(f"Slurm job {self.own[-1]}, logs in {self.folder}", file=sys.stderr)

    def state(self) -> State | None:
        try:
            found = _slurm(["squeue", "--me", f"--name={self.name}", "--noheader", "--array", "--format=%T|%r"])
        except UsageError:
            return None
        tasks = [line.split("|") for line in found.splitlines()]
        waiting = [reason for state, reason in tasks if state == "PENDING"]
        running = sum(state not in ("PENDING", "COMPLETING") for state, _ in tasks)
        logs = [file for job in self.own for file in self.folder.glob(f"{job}_*.log")]
        errors = [error for file in logs for error in ERROR.findall(file.read_text("utf-8", "replace"))]
        return State(running, len(waiting), ", ".join(sorted(set(waiting))), errors)

    def cancel(self, *, only_own: bool) -> None:
        _slurm(["scancel", *self.own] if only_own else self.stop_command().split())

    def stop_command(self) -> str:
        return f"scancel --me --name={self.name}"


def _slurm(command: list[str], environment: Mapping[str, str] | None = None, script: str = "") -> str:
    """Return what a command of Slurm's prints; raise a UsageError if it fails."""
    options: Any = {"capture_output": True, "text": True, "check": True, "timeout": PATIENCE}
    try:
        return subprocess.run(command, env=environment, input=script, **options).stdout
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if "--help" not in line]
        raise UsageError(f"Slurm refuses: {said[-1]}") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"Slurm does not answer within {PATIENCE:.0f} s") from error
    except OSError as error:
        raise UsageError(f"--launcher slurm needs Slurm on this machine, but {command[0]} cannot be run") from error
