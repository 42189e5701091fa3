"""Our commands, called in the test's own process; `study.ui` in one of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, no_hang
from servers import free_port

from study import export, predict, run, sample, ui
from study.report import __main__ as report

MAINS: dict[str, Callable[..., int]] = {
    "run": run.main,
    "sample": sample.main,
    "predict": predict.main,
    "export": export.main,
    "report": report.main,
    "ui": ui.main,
}


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    errors: str

    @property
    def table(self) -> str:
        return self.out.strip().partition("\n\n")[0]

    @property
    def error(self) -> str:
        """The one sentence of a command that was refused, or tyro's box about a flag as one line."""
        assert self.code == 2, self.out + self.errors
        assert "Traceback" not in self.errors
        box = " ".join(self.errors.replace("│", " ").split())
        (sentence,) = [line for line in self.errors.splitlines() if line.startswith("error: ")] or [box]
        assert sentence
        return sentence


Call = Callable[..., Done]


def call(module: str, capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Run a command in this process; return its exit code, output and errors."""
    capsys.readouterr()
    code = MAINS[module]([str(each) for each in arguments])
    return Done(code, *capsys.readouterr())


def addresses(lines: str) -> dict[str, str]:
    """Where `study.ui` says that the trials of each stage are."""
    return dict(line.split() for line in lines.splitlines() if line.startswith("  "))


@contextmanager
def shown(store: Path, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`study.ui` under way, and what it has said up to the address of the models."""
    command = [sys.executable, "-u", "-m", "study.ui", "--store", str(store), "--port", str(free_port())]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, start_new_session=True, **pipes)
    said = ""
    try:
        assert process.stdout is not None
        with no_hang():
            while "  models" not in said:
                line = process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            yield process, said
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
