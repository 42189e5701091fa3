"""Files and folders that a command is to write: checked before the work begins, and told as what they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, mkstemp

from study.checks import UsageError

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


def check_file(path: Path, flag: str, **others: Path | None) -> None:
    """Check that a file can be written here; leaves no trace.

    Args:
        others: Files that the command reads or writes too, by the names of their flags: it must be none of them.

    Raises:
        UsageError: It cannot.
    """
    with writing(path, flag):
        target = Path(os.path.realpath(path))
        for name, other in others.items():
            plain = path.is_file() or not path.exists()  # and no device or pipe
            if other is not None and plain and Path(os.path.realpath(other)) == target:
                raise UsageError(f"{flag} must be another file than --{name}, but got {path}")
        if path.is_dir():
            raise UsageError(f"{flag} must be a file, but {path} is a folder")
        if not path.parent.is_dir():
            raise UsageError(f"the folder of {flag} must exist, but got {path}")
        if target.name.startswith(DATABASES) and target.exists():
            raise UsageError(f"{flag} must not be a store's database, but got {path}")
        if target.is_file():
            target.open("r+b").close()
        elif not path.exists():  # A device or a pipe is left alone.
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
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to in place of this one, which it replaces at the end: an error leaves what was there as it was.

    A device or a pipe is written to itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path))
    try:
        handle, name = mkstemp(prefix=".study-", suffix=path.suffix, dir=target.parent)
    except PermissionError:  # a folder in which only this file may be written
        yield path
        return
    os.close(handle)
    new = Path(name)
    try:
        if target.exists():
            shutil.copymode(target, new)
        else:
            new.chmod(0o666 & ~_umask())
        yield new
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
