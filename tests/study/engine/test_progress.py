import io
import logging
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from conftest import Command
from pictures import arrays_of_letters

from study.engine.runner import Progress, log

DISPLAYS = [
    ("terminal", logging.INFO, ["trial 1 epoch 3", "latent-gan: trial 1 complete\n", "(best 2):  50%", "2/4 ["]),
    ("file", logging.INFO, "latent-gan: trial 1 complete\n"),
    ("terminal", logging.WARNING, ""),
    ("closed", logging.INFO, ""),
]


class Output(io.StringIO):
    kind = ""  # a terminal, a file, or one that nobody reads any more

    def isatty(self) -> bool:
        return self.kind == "terminal"

    def write(self, text: str) -> int:
        if self.kind == "closed":  # by `2>&1 | head`
            raise BrokenPipeError
        return super().write(text)


@pytest.mark.parametrize(("kind", "level", "shown"), DISPLAYS)
def test_a_terminal_shows_a_bar_a_log_lines_and_quiet_nothing(kind: str, level: int, shown: list[str] | str) -> None:
    log.setLevel(level)
    output = Output()
    output.kind = kind
    with redirect_stderr(output), Progress("latent-gan", total=4, done=1) as progress:
        progress.set_postfix_str("trial 1 epoch 3")
        progress.finished(2, "trial 1 complete", "(best 2)")
    found = output.getvalue()
    assert all(each in found for each in shown) if isinstance(shown, list) else found == shown


def test_a_quiet_command_prints_its_table_alone(command: Command, tmp_path: Path) -> None:
    letters = arrays_of_letters(tmp_path / "abcd.npz", 300, 10, "ABCD")
    flags = ["--stages", "judge", "--judge.epochs", 1, "--store", tmp_path / "store", "--log-level", "warning"]
    done = command("study.run", "smoke", "--data", letters, *flags)
    assert (done.returncode, done.stderr, "abcd-judge v1" in done.stdout) == (0, "", True)
    assert ("\nfigure " not in done.stdout, len(done.stdout.splitlines()) <= 30) == (True, True), "no table: --table"
