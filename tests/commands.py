"""Our commands, called in the test's own process."""

from __future__ import annotations

from collections.abc import Callable

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


def call(module: str, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, output and errors."""
    capsys.readouterr()
    code = MAINS[module]([str(each) for each in arguments])
    return code, *capsys.readouterr()
