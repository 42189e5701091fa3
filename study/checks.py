"""Checks of settings and of places to write to, and what a user's mistake raises. Light: all commands import it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryFile

DATABASES = ("mlflow.db", "optuna.db")  # of a store
MOST_REPEATS = 999  # trainings with the same settings, numbered from 0


class UsageError(Exception):
    """The user asked for something impossible; the message is one sentence."""


def at_least(low: int, **values: int) -> None:
    """Check settings, given by name; a ValueError names one that is below `low`."""
    for name, value in values.items():
        if value < low:
            raise ValueError(f"`{low} <= {name}` must hold, but got {value}")


def at_most(high: int, **values: int) -> None:
    """Check settings, given by name; a ValueError names one that is above `high`."""
    for name, value in values.items():
        if value > high:
            raise ValueError(f"`{name} <= {high}` must hold, but got {value}")


def positive(**values: float) -> None:
    """Check settings, given by name; a ValueError names one that is not positive and finite."""
    for name, value in values.items():
        if not 0 < value < inf:
            raise ValueError(f"`0 < {name} < inf` must hold, but got {value}")


def numbers(values: tuple[float, ...] | list[int]) -> str:
    """Numbers in words: `3, 10, 0.01`."""
    return ", ".join(f"{value:g}" for value in values)


def expanded(path: Path, flag: str) -> Path:
    """Return the path with `~` as the home folder.

    Raises:
        UsageError: There is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{flag} must be a path, but got {path}: it begins with ~ and no user's name") from error


@contextmanager
def writing(path: Path, flag: str) -> Iterator[None]:
    """Report what fails inside as a failure to write this path.

    Raises:
        UsageError: In place of an error of the system.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror or error}") from error


def check_file(path: Path, flag: str, **others: Path | None) -> None:
    """Check, before the work begins, that a file can be written here.

    Args:
        others: Files that the command reads or writes too, by the names of their flags: it must be none of them.

    Raises:
        UsageError: It cannot.
    """
    with writing(path, flag):
        if path.exists() and not path.is_file() and not path.is_dir():
            return  # a device or a pipe
        target = Path(os.path.realpath(path))
        rules = {
            f"{flag} must be a file, but got the folder {path}": path.is_dir(),
            f"the folder of {flag} must exist, but got {path}": not path.parent.is_dir(),
            f"{flag} must not be a store's database, but got {path}": target.name in DATABASES and target.exists(),
        }
        for name, other in others.items():
            same = other is not None and target == Path(os.path.realpath(other))
            rules[f"{flag} must be another file than --{name}, but got {path}"] = same
        for rule, is_broken in rules.items():
            if is_broken:
                raise UsageError(rule)
        TemporaryFile(dir=target.parent).close()


def check_folder(path: Path, flag: str) -> None:
    """Make a folder if it is not there, and check that files can be written to it.

    Raises:
        UsageError: They cannot.
    """
    with writing(path, flag):
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to, which replaces `path` at the end: an error leaves what was there. A pipe stays one."""
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path))
    new = target.with_name(f".study-{os.getpid()}{path.suffix}")
    try:
        yield new
        if target.exists():
            shutil.copymode(target, new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
