"""Our commands, called in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

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


def call(module: str, capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Run a command in this process; return its exit code, output and errors."""
    capsys.readouterr()
    code = MAINS[module]([str(each) for each in arguments])
    return Done(code, *capsys.readouterr())
