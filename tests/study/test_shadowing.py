"""Folders that hold something of the same name as a package of ours, or as one that we use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

INSTALLED = {**os.environ, "PYTHONPATH": str(ROOT)}


def call(folder: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Python in this folder, with our packages installed."""
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=env or INSTALLED, capture_output=True, text=True)


def make(folder: Path, name: str) -> Path:
    """A module, or a package where the name ends in /."""
    file = folder / (f"{name}__init__.py" if name.endswith("/") else name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("raise SystemError('this is not ours')\n")
    return folder / name


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("models/", "study.run"),
        ("models/", "study.sample"),
        ("models/", "study.report"),
        ("models.py", "study.run"),
        ("tracking/", "study.report"),
        ("tracking.py", "study.sample"),
        ("optuna.py", "study.run"),
        ("tyro.py", "study.report"),
    ],
)
def test_one_sentence_says_what_hides_a_package_and_what_helps(tmp_path: Path, name: str, command: str) -> None:
    place = make(tmp_path, name)
    package = name.removesuffix("/").removesuffix(".py")
    done = call(tmp_path, "-m", command, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    whose = "of this study" if package in ("models", "tracking") else "that this study needs"
    assert done.stderr == (
        f"error: {place} hides the package {package!r} {whose}: run from another folder, or as python -P -m {command}\n"
    )
    assert call(tmp_path, "-P", "-m", command, "--help").returncode == 0, "what the sentence says helps"


def test_a_folder_of_the_path_that_hides_one(tmp_path: Path) -> None:
    make(tmp_path / "theirs", "models/")
    here = tmp_path / "here"
    here.mkdir()
    path = {**os.environ, "PYTHONPATH": f"{tmp_path / 'theirs'}{os.pathsep}{ROOT}"}
    done = call(here, "-m", "study.run", "--dry-run", env=path)
    assert done.returncode == 2
    assert f"take {tmp_path / 'theirs'} out of PYTHONPATH" in done.stderr


def test_a_program_that_imports_a_command_gets_an_import_error(tmp_path: Path) -> None:
    make(tmp_path, "models/")
    done = call(tmp_path, "-c", "from study import run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / 'models'} hides the package 'models'")


@pytest.mark.parametrize("name", ["models", "tracking"])
def test_a_folder_of_files_hides_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights.bin").touch()
    assert call(tmp_path, "-m", "study.run", "--dry-run").returncode == 0
    # An editable installation finds our packages after all folders of the path, those without `__init__.py` too.
    code = f"""
import sys
from importlib.machinery import PathFinder
class Editable:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if name in ("study", "models", "tracking") else None
sys.meta_path.append(Editable)
from study import run
import {name}
print({name}.__file__)
"""
    done = call(tmp_path, "-c", code, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    assert done.stdout.strip() == str(ROOT / name / "__init__.py"), done.stderr


def test_a_folder_that_was_deleted(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = 'rmdir "$PWD"; exec "$0" -m study.run --dry-run'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=gone, env=INSTALLED, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: the current folder was deleted: run from another one\n")
