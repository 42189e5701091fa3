"""Which commit a trial says it was computed with: that of this very code, or none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PRINT = "from study.engine.identity import code_state, __file__; print(__file__, *code_state())"
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
UNKNOWN = ("unknown", "unknown")


def commit(folder: Path) -> str:
    """Make the folder a repository, if it is none, with all that is in it. Returns the commit."""
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**PLAIN, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for arguments in ("init -q", "add -A", "commit -q -m all", "rev-parse HEAD"):
        said = subprocess.check_output(["git", *arguments.split()], cwd=folder, env=environment, text=True)
    return said.strip()


def copy_of_the_code(folder: Path) -> Path:
    for package in ("models", "tracking", "study"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def state(code: Path, cwd: Path | None = None, **environment: str) -> tuple[str, str]:
    """What the copy of the code in this folder says of itself."""
    given = {**PLAIN, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-P", "-c", PRINT]
    place, found, dirty = subprocess.check_output(command, cwd=cwd or code, env=given, text=True).rsplit(maxsplit=2)
    assert Path(place) == code / "study" / "engine" / "identity.py", "another copy answered"
    return found, dirty


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Somebody else's folder."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "paper.tex").write_text("theirs")
    return tmp_path / "other"


def test_a_checkout_names_its_commit_and_whether_it_was_changed(tmp_path: Path, other: Path) -> None:
    (tmp_path / "the code").mkdir()
    code = copy_of_the_code(tmp_path / "the code")
    commit(other)
    theirs = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / "index")}
    assert state(code, **theirs) == UNKNOWN, "no repository, and one that the environment names is not ours"
    made = commit(code)
    assert state(code, cwd=tmp_path, **theirs) == (made, "false")
    assert state(code, PATH=str(tmp_path)) == UNKNOWN, "without git"
    new = code / "study" / "engine" / "new.py"
    new.touch()
    assert state(code) == (made, "true"), "a file that git does not know yet may be imported"
    new.unlink()
    (code / "notes.txt").write_text("no part of the code")
    assert state(code) == (made, "false")
    with (code / "models" / "gan.py").open("a") as changed:
        changed.write("\n")
    assert state(code) == (made, "true")
    assert state(code) != (commit(code), "true")
    assert state(code)[1] == "false"


@pytest.mark.parametrize("ignored", [".venv\n", ""], ids=["ignored", "not added"])
def test_an_installed_copy_in_somebody_elses_repository_says_nothing(other: Path, ignored: str) -> None:
    (other / ".gitignore").write_text(ignored)
    commit(other)
    (other / ".venv" / "lib").mkdir(parents=True)
    assert state(copy_of_the_code(other / ".venv" / "lib"), cwd=other) == UNKNOWN
