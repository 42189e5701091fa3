"""A study of seconds on four letters, for tests of what is trained anew after something has happened to its store."""

from pathlib import Path

import pytest
from commands import Call, call
from conftest import Command, Once
from pictures import arrays_of_letters
from studies import ALL, FAST, Studies, copied


@pytest.fixture(scope="session")
def letters(once: Once) -> Path:
    """Four letters, an .npz file in a folder whose name has a space."""

    def make(folder: Path) -> None:
        folder.mkdir()
        arrays_of_letters(folder / "abcd.npz", 30, 10, "ABCD")

    return once("some data", make) / "abcd.npz"


@pytest.fixture(scope="session")
def finished(letters: Path, command: Command, once: Once) -> Path:
    """A store in which the fast study has run with one thread; to be read only."""

    def make(folder: Path) -> None:
        given = [*FAST, "--data", letters, *ALL, "--store", folder / "store"]
        done = command("study.run", *given, "--table", env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        (folder / "store" / "table.txt").write_text(done.stdout.strip().partition("\n\n")[0])

    return once("finished", make) / "store"


@pytest.fixture
def table(finished: Path) -> str:
    """What the finished study printed."""
    return (finished / "table.txt").read_text()


@pytest.fixture
def studies(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the finished store."""
    return Studies(copied(finished, tmp_path / "store"), capsys)


@pytest.fixture
def fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """No store yet."""
    return Studies(tmp_path / "store", capsys)


@pytest.fixture
def smoke(smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the store in which `smoke` has run."""
    return Studies(copied(smoke_store, tmp_path / "store"), capsys)


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process: `called("sample", "--count", 3)`."""
    return lambda module, *arguments: call(module, capsys, *arguments)
