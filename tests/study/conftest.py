"""A study of seconds on four letters, for tests of what is trained anew after something has happened to its store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Done, call
from conftest import Command
from pictures import arrays_of_letters
from studies import ALL, FAST, Studies, copied


@pytest.fixture(scope="session")
def letters(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Four letters, an .npz file in a folder whose name has a space."""

    def make(folder: Path) -> None:
        folder.mkdir()
        arrays_of_letters(folder / "abcd.npz", 30, 10, "ABCD")

    return once("some data", make) / "abcd.npz"


@pytest.fixture(scope="session")
def finished(letters: Path, command: Command, once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[Path, str]:
    """A store in which the fast study has run with one thread, and the table that it printed; to be read only."""

    def make(folder: Path) -> None:
        given = [*FAST, "--data", letters, *ALL, "--store", folder / "store"]
        done = command("study.run", *given, "--table", env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        (folder / "store" / "table.txt").write_text(done.stdout.strip().partition("\n\n")[0])

    store = once("finished", make) / "store"
    return store, (store / "table.txt").read_text()


@pytest.fixture
def studies(finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the finished store."""
    return Studies(copied(finished[0], tmp_path / "store"), capsys)


@pytest.fixture
def fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """No store yet."""
    return Studies(tmp_path / "store", capsys)


@pytest.fixture
def smoke(smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the store in which `smoke` has run."""
    return Studies(copied(smoke_store, tmp_path / "store"), capsys)


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command in this process: `called("sample", "--count", 3)`."""
    return lambda module, *arguments: call(module, capsys, *arguments)
