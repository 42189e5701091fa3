"""Files and folders that a command is to write: checked before the work begins, and told as what they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from study.harness.settings import UsageError

DATABASES = ("mlflow.db", "optuna.db")  # of a store


def expanded(path: Path, flag: str) -> Path:
    """The path with `~` as the home folder.

    Raises:
        UsageError: There is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{flag} must be a path, but got {path}: it begins with ~ and no user's name") from error


def check_file(path: Path, flag: str) -> None:
    """Check that a file can be written here; leaves no trace.

    Raises:
        UsageError: It cannot.
    """
    with writing(path, flag):
        target = Path(os.path.realpath(path))
        if path.is_dir():
            raise UsageError(f"{flag} must be a file, but {path} is a folder")
        if not path.parent.is_dir():
            raise UsageError(f"the folder of {flag} must exist, but got {path}")
        if target.name.startswith(DATABASES) and target.exists():
            raise UsageError(f"{flag} must not be a store's database, but got {path}")
        if target.is_file():
            target.open("r+b").close()
        elif not target.exists():  # A device or a pipe is left alone.
            TemporaryFile(dir=target.parent).close()


def check_folder(path: Path, flag: str) -> None:
    """Check that a folder is here or can be made, and that files can be written to it; leaves no trace.

    Raises:
        UsageError: It is not, or they cannot.
    """
    with writing(path, flag):
        there = Path(os.path.realpath(path))
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise UsageError(f"{flag} must be a folder, but {there} is a file")
        TemporaryFile(dir=there).close()


@contextmanager
def writing(path: Path, flag: str) -> Iterator[None]:
    """What fails inside fails at this path.

    Raises:
        UsageError: In place of an error of the system.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror or error}") from error
