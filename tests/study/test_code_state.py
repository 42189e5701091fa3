"""Which commit a trial says it was computed with: that of this very code, or none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PRINT = "from study.engine.identity import code_state, __file__; print(__file__, *code_state())"
PACKAGES = ("models", "tracking", "study")


def git(folder: Path, *arguments: str) -> str:
    """What git says; who commits, and what the machine's settings are, does not matter."""
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**plain, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    """Make the folder a repository, if it is none, with all that is in it. Returns the commit."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


def copy_of_the_code(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    return folder


def state(code: Path, cwd: Path | None = None, **environment: str) -> tuple[str, str]:
    """What the copy of the code in this folder says of itself."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    given = {**plain, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-P", "-c", PRINT]
    done = subprocess.run(command, cwd=cwd or code, env=given, capture_output=True, text=True, check=True, timeout=120)
    place, found, dirty = done.stdout.rsplit(maxsplit=2)
    assert Path(place) == code / "study" / "engine" / "identity.py", "another copy answered"
    return found, dirty


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "the code").mkdir()
    return copy_of_the_code(tmp_path / "the code")


def test_a_checkout_names_its_commit_and_whether_it_was_changed(code: Path, tmp_path: Path) -> None:
    made = commit(code)
    assert state(code) == (made, "false")
    assert state(code, cwd=tmp_path) == (made, "false")

    new = code / "study" / "engine" / "new.py"
    new.write_text("x = 1\n")
    assert state(code) == (made, "true"), "a file that git does not know yet may be imported"
    new.unlink()
    (code / "notes.txt").write_text("no part of the code")
    assert state(code) == (made, "false")

    changed = code / "models" / "gan.py"
    changed.write_text(changed.read_text() + "\n")
    assert state(code) == (made, "true")
    assert state(code)[0] != commit(code)
    assert state(code)[1] == "false"


def test_without_a_repository_nothing_is_known(code: Path) -> None:
    assert state(code) == ("unknown", "unknown")


@pytest.mark.parametrize("ignored", [True, False], ids=["ignored", "not added"])
def test_an_installed_copy_in_somebody_elses_repository_says_nothing(tmp_path: Path, ignored: bool) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "paper.tex").write_text("theirs")
    (theirs / ".gitignore").write_text(".venv\n" if ignored else "")
    commit(theirs)
    installed = theirs / ".venv" / "lib"
    installed.mkdir(parents=True)
    assert state(copy_of_the_code(installed), cwd=theirs) == ("unknown", "unknown")


def test_a_repository_that_the_environment_names_is_not_ours(code: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("a")
    strange = commit(other)
    names = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / "index")}
    assert state(code, **names) == ("unknown", "unknown")
    made = commit(code)
    assert state(code, **names) == (made, "false")
    assert made != strange


def test_without_git_nothing_is_known(code: Path, tmp_path: Path) -> None:
    commit(code)
    assert state(code, PATH=str(tmp_path)) == ("unknown", "unknown")
