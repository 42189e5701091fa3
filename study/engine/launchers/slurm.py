"""Workers on Slurm: an array of jobs, one worker each. Slurm keeps their environment, and passwords, to itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from study.checks import UsageError
from study.engine.launchers import Cluster, State
from study.engine.workers import MOST_RESTARTS, THREADS, TRY_AGAIN

PATIENCE = 10.0  # seconds that Slurm's controller has to answer
ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)  # what a worker writes as it ends

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
    """A study's jobs on Slurm: those of its name."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        _call(["squeue", "--me"])

    def start(self, count: int, environment: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        logs = str(self.folder).replace("%", "%%")
        flags = [f"--job-name={self.name}", f"--array=1-{count}", f"--output={logs}/%A_%a.log", "--open-mode=append"]
        flags += ["--requeue", "--signal=B:USR1@60", "--export=ALL"]  # USR1: 60 seconds before the time limit
        options = {"cpus-per-task" if name == "cpus" else name: value for name, value in self.options.items()}
        flags += [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
        given = {**os.environ, THREADS: self.options.get("cpus", "1"), **environment}
        job = _call(["sbatch", "--parsable", *flags], given, SCRIPT)
        self.own.append(job.strip().partition(";")[0])  # then follows the cluster's name, where there are several
        print(f"Slurm job {self.own[-1]}, logs in {self.folder}", file=sys.stderr)

    def state(self) -> State | None:
        try:
            found = _call(["squeue", "--me", f"--name={self.name}", "--noheader", "--array", "--format=%T|%r"])
        except UsageError:
            return None
        tasks = [line.split("|") for line in found.splitlines()]
        waiting = [reason for state, reason in tasks if state == "PENDING"]
        running = sum(state not in ("PENDING", "COMPLETING") for state, _ in tasks)
        logs = [file for job in self.own for file in self.folder.glob(f"{job}_*.log")]
        errors = [error for file in logs for error in ERROR.findall(file.read_text("utf-8", "replace"))]
        return State(running, len(waiting), ", ".join(sorted(set(waiting))), errors)

    def cancel(self, *, only_own: bool) -> None:
        _call(["scancel", *self.own] if only_own else self.stop_command().split())

    def stop_command(self) -> str:
        return f"scancel --me --name={self.name}"


def _call(command: list[str], environment: Mapping[str, str] | None = None, script: str = "") -> str:
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
