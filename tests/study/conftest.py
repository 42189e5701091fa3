"""A study of seconds on four letters, for tests of what is trained anew after something has happened to its store."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command
from pictures import arrays_of_letters
from studies import ALL, FAST, Studies, copied


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four letters, an .npz file in a folder whose name has a space."""
    return arrays_of_letters(tmp_path_factory.mktemp("some data") / "abcd.npz", 30, 10, "ABCD")


@pytest.fixture(scope="session")
def finished(letters: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store in which the fast study has run with one thread, and the table that it printed; to be read only."""
    store = tmp_path_factory.mktemp("finished") / "store"
    done = command("study.run", *FAST, "--data", letters, *ALL, "--store", store, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return store, done.stdout.strip().partition("\n\n")[0]


@pytest.fixture
def studies(finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the finished store."""
    return Studies(copied(finished[0], tmp_path / "store"), capsys)
