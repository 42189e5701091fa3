import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest
from conftest import Command
from pictures import arrays_of_letters

from study.engine.runner import Progress, log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


@contextmanager
def shown_on(terminal: io.StringIO, level: int) -> Iterator[io.StringIO]:
    before = log.level
    log.setLevel(level)
    with redirect_stderr(terminal):
        yield terminal
    log.setLevel(before)


def test_a_terminal_shows_the_stage_and_its_trial() -> None:
    with shown_on(Terminal(), logging.INFO) as terminal, Progress("latent-gan", total=4, done=1) as progress:
        progress.set_postfix_str("trial 1 epoch 3")
        assert "trial 1 epoch 3" in terminal.getvalue()
        progress.finished(2, "trial 1 complete val/fd=12.35 (lr=0.1), 3 s", "(best val/fd=12.35)")
    shown = terminal.getvalue()
    assert "latent-gan: trial 1 complete val/fd=12.35 (lr=0.1), 3 s\n" in shown
    assert "latent-gan (best val/fd=12.35):  50%" in shown
    assert "2/4 [" in shown


@pytest.mark.parametrize(
    ("terminal", "level", "lines"),
    [
        (io.StringIO(), logging.INFO, "judge: trial 0 complete\n"),
        (Terminal(), logging.WARNING, ""),
        (Closed(), logging.INFO, ""),  # by `2>&1 | head`
    ],
)
def test_a_log_gets_lines_only_and_quiet_shows_nothing(terminal: io.StringIO, level: int, lines: str) -> None:
    with shown_on(terminal, level), Progress("judge", total=2, done=0) as progress:
        progress.set_postfix_str("trial 0 epoch 1")
        progress.finished(1, "trial 0 complete", "")
    assert terminal.getvalue() == lines


def test_a_quiet_command_prints_its_table_alone(command: Command, tmp_path: Path) -> None:
    letters = arrays_of_letters(tmp_path / "abcd.npz", 300, 10, "ABCD")
    flags = ["--stages", "judge", "--judge.epochs", 1, "--store", tmp_path / "store", "--log-level", "warning"]
    done = command("study.run", "smoke", "--data", letters, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "abcd-judge v1" in done.stdout
    assert "\nfigure " not in done.stdout, "the table is asked for by --table"
    assert len(done.stdout.splitlines()) <= 30
