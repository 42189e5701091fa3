"""Workers on Slurm: an array of jobs, each of which keeps a worker alive, or several that share a GPU.

`sbatch`, `squeue`, `scancel` and `scontrol` are all that is used of it; accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from study.checks import UsageError
from study.engine.launcher import Launcher, Workload
from study.engine.order import Order, travelling
from study.engine.workers import STOPPING

NEEDED = ("sbatch", "squeue", "scancel", "sinfo")
PATIENCE = 10.0  # seconds that Slurm's controller has to answer
LOOK_EVERY = 3.0  # seconds between two questions to it
WARNED = 60  # seconds before the time limit at which a worker goes back into the queue
ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)  # what our commands write of their end

log = logging.getLogger("study")


def check_engine(launcher: Launcher) -> None:
    """Check that Slurm is here, answers, and has the partition.

    Raises:
        UsageError: It is not, does not, or has not.
    """
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise UsageError(f"--launcher slurm needs Slurm's commands on this machine, but there is no {missing[0]}")
    found = _call("sinfo", "--noheader", "--format=%R")
    if found is None or found.returncode:
        raise UsageError(f"Slurm's controller does not answer: {_reason(found)}")
    partitions = sorted(set(found.stdout.split()))
    if launcher.partition is not None and not set(launcher.partition.split(",")) <= set(partitions):
        raise UsageError(f"--launcher.partition must be one of {', '.join(partitions)}, but got {launcher.partition!r}")


@dataclass(frozen=True)
class _Task:
    """A task of an array, as `squeue` shows it."""

    job: str
    state: str
    reason: str


class SlurmTeam:
    """A study's workers on Slurm, known by the job's name."""

    def __init__(self, launcher: Launcher, workload: Workload) -> None:
        self._launcher, self._name = launcher, workload.name
        self._folder = workload.folder / "slurm" / workload.name  # for script, order and logs
        self._started: list[str] = []  # numbers of the jobs that this object has submitted
        self._jobs: set[str] = set()  # of those that it has seen
        self._looked, self._shown, self._missing = 0.0, "", 0

    @property
    def title(self) -> str:
        jobs = sorted(self._jobs, key=int)
        return f"Slurm job{'s' if len(jobs) > 1 else ''} {' '.join(jobs)}, logs in {self._folder}"

    @property
    def stop_command(self) -> str:
        return f"scancel {' '.join(sorted(self._jobs, key=int))}"

    def there(self) -> int:
        tasks = self._tasks()
        if tasks is None:
            raise UsageError("Slurm's controller does not answer: squeue has failed")
        there = [task for task in tasks if task.state != "COMPLETING"]  # which have ended
        self._jobs = {task.job for task in there}
        return len(there) * self._launcher.sharing

    def start(self, count: int, order: Order) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            order.write(self._folder / "order.json")
            script = self._folder / "job.sh"
            script.write_text(self._script(count // self._launcher.sharing), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--store must be a folder that the nodes see too: {error}") from error
        secret = travelling(os.environ)  # in the order; Slurm would keep a job's environment in files of its own
        environment = {name: value for name, value in os.environ.items() if name not in secret}
        done = _call("sbatch", "--parsable", str(script), environment=environment)
        if done is None or done.returncode:
            if not self._jobs:
                (self._folder / "order.json").unlink()  # it holds passwords
            raise UsageError(f"Slurm refuses the workers: {_reason(done)}")
        job = done.stdout.strip().partition(";")[0]  # then follows the cluster's name, where there are several
        self._started.append(job)
        self._jobs.add(job)

    def look(self) -> str:
        refusal = next((each for each in self._errors() if " refuses: " in each), None)
        if refusal is not None:
            raise UsageError(refusal)
        if time.monotonic() - self._looked < LOOK_EVERY:
            return self._shown
        tasks = self._tasks()
        self._looked = time.monotonic()
        if tasks is None:
            return self._show("Slurm's controller does not answer; the workers go on")
        self._jobs |= {task.job for task in tasks}
        # The study may have come to its end since the caller has looked at it: it looks again before the second time.
        self._missing = 0 if tasks else self._missing + 1
        if self._missing > 2:
            why = (self._errors() or [self._last_words()])[-1]
            raise UsageError(f"all workers have ended before the study was done: {why}; the same command goes on")
        waiting = [task.reason for task in tasks if task.state == "PENDING"]
        why = f", {len(waiting)} waiting ({', '.join(sorted(set(waiting)))})" if waiting else ""
        return self._show(f"Slurm: {sum(task.state == 'RUNNING' for task in tasks)} running{why}")

    def end(self) -> None:
        tasks = self._tasks() or []
        self._jobs |= {task.job for task in tasks}
        _call("scancel", "--state=PENDING", *self._jobs)
        self._wait(2 * STOPPING)
        self._cancel(self._jobs)

    def stop(self) -> None:
        if self._started:
            self._cancel(self._started)

    def _cancel(self, jobs: set[str] | list[str]) -> None:
        _call("scancel", *jobs)
        if self._wait(2 * STOPPING):
            (self._folder / "order.json").unlink(missing_ok=True)  # it holds passwords, and nobody needs it any more

    def _wait(self, seconds: float) -> bool:
        """Whether all tasks are gone within so long."""
        deadline = time.monotonic() + seconds
        while (tasks := self._tasks()) != [] and time.monotonic() < deadline:
            time.sleep(0.5)
        return tasks == []

    def _show(self, what: str) -> str:
        """The state in words; as it changes it is a line of the log too."""
        if what != self._shown:
            log.info("%s", what)
        self._shown = what
        return what

    def _script(self, tasks: int) -> str:
        wanted = self._launcher
        options = {
            "job-name": self._name,
            "array": f"1-{tasks}",
            "requeue": None,
            "open-mode": "append",
            "output": f"{str(self._folder).replace('%', '%%')}/%A_%a.log",
            "chdir": os.getcwd(),
            "signal": f"B:USR1@{WARNED}",
            "cpus-per-task": wanted.cpus * wanted.sharing,
            "gpus": 1 if wanted.gpus else False,
            "mem": False if wanted.memory is None else f"{int(1024 * wanted.memory * wanted.sharing)}M",
            "time": wanted.time or False,
            "partition": wanted.partition or False,
        }
        ours = [name if value is None else f"{name}={value}" for name, value in options.items() if value is not False]
        theirs = [option.strip("- ") for option in wanted.extra]
        lines = [f"#SBATCH {shlex.quote(f'--{option}')}" for option in (*ours, *theirs)]
        command = shlex.join([sys.executable, "-m", "study.worker", str(self._folder / "order.json")])
        return "\n".join(["#!/bin/bash", *lines, f"exec {command}", ""])

    def _tasks(self) -> list[_Task] | None:
        """The study's tasks in the queue; None: the controller does not answer."""
        shown = ["--noheader", "--array", "--format=%F|%T|%r"]
        found = _call("squeue", *shown, "--me", f"--name={self._name}")
        if found is None or found.returncode:
            return None
        return [_Task(*line.split("|")) for line in found.stdout.splitlines()]

    def _errors(self) -> list[str]:
        """What workers have written of why they ended, in one sentence each."""
        found = []
        for job in sorted(self._jobs):
            for file in sorted(self._folder.glob(f"{job}_*.log")):
                found += ERROR.findall(file.read_text(encoding="utf-8", errors="replace"))
        return found

    def _last_words(self) -> str:
        """What the workers' logs end with."""
        files = [file for job in self._jobs for file in self._folder.glob(f"{job}_*.log")]
        lines = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        return lines[-1] if lines else f"they have left no log in {self._folder}, which the nodes must see too"


def go_back_in_time() -> None:
    """In a task of Slurm's: as its time is nearly up it goes back into the queue, and goes on from there."""
    job, number = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    if job is not None:
        # Not by SLURM_JOB_ID: that of one of the tasks is the whole array's.
        signal.signal(signal.SIGUSR1, lambda *_: subprocess.Popen(["scontrol", "requeue", f"{job}_{number}"]))


def _call(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str] | None:
    """What a command of Slurm's says; None: nothing in time."""
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except (subprocess.TimeoutExpired, OSError):
        return None


def _reason(done: subprocess.CompletedProcess[str] | None) -> str:
    """Why a command of Slurm's has failed."""
    if done is None:
        return f"no answer in {PATIENCE:.0f} s"
    lines = [line for line in done.stderr.splitlines() if line.startswith(("sbatch: ", "sinfo: ", "slurm_"))]
    return (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
