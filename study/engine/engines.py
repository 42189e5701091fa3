"""Workers on an engine that has other machines: Slurm or Ray.

An engine's only task is to keep so many of our workers alive where there are cores or GPUs. Which trial is next stays
with Optuna's database; the command itself then only looks on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Protocol
from urllib.parse import urlsplit

from study.checks import UsageError
from study.engine import ray, slurm
from study.engine.launcher import Launcher, Watch, Workload
from study.engine.order import Order
from tracking.errors import without_password

log = logging.getLogger("study")

MEANT_FOR = {
    "cpus": ("slurm", "ray"),
    "memory": ("slurm", "ray"),
    "time": ("slurm",),
    "partition": ("slurm",),
    "extra": ("slurm",),
    "address": ("ray",),
    "detach": ("slurm", "ray"),
    "allow_mixed": ("slurm", "ray"),
}
"""The settings that only some engines have."""


class Team(Protocol):
    """A study's workers on an engine."""

    @property
    def title(self) -> str:
        """What the engine calls them: "Slurm job 12"."""

    @property
    def stop_command(self) -> str:
        """What stops all of them, typed in a shell."""

    def there(self) -> int:
        """How many run, or wait for their turn, whoever has started them."""

    def start(self, count: int, order: Order) -> None:
        """Start so many more.

        Raises:
            UsageError: The engine refuses.
        """

    def look(self) -> str:
        """See `Watch`."""

    def end(self) -> None:
        """The study is done: let those that run come to their end, and take back those that wait."""

    def stop(self) -> None:
        """Stop those that this object has started; their runs end as KILLED."""


def check(launcher: Launcher, tracking_uri: str | None, storage: str | None) -> None:
    """Check what can be checked before a store is opened: that settings and engine fit, and the engine is there.

    Raises:
        UsageError: They do not, or it is not.
    """
    default = Launcher()
    for each in fields(launcher):
        engines = MEANT_FOR.get(each.name, (launcher.engine,))
        if launcher.engine not in engines and getattr(launcher, each.name) != getattr(default, each.name):
            flag = each.name.replace("_", "-")
            raise UsageError(f"--launcher.{flag} is for --launcher {' or '.join(engines)}, not for {launcher.engine}")
    if launcher.engine == "local":
        return
    _check_server("--tracking-uri", "the http(s) address of an MLflow server", ("http", "https"), tracking_uri)
    _check_server("--storage", "a postgresql:// URL", ("postgresql",), storage)
    if launcher.engine == "slurm":
        slurm.check_engine(launcher)
    else:
        ray.check_engine(launcher)


def _check_server(flag: str, rule: str, schemes: tuple[str, ...], url: str | None) -> None:
    """Check that workers on other machines can reach what the flag names, as far as that shows here."""
    scheme, separator, rest = (url or "").partition("://")
    if url is None or not separator or scheme.partition("+")[0].lower() not in schemes:
        got = "none" if url is None else repr(without_password(url))
        raise UsageError(f"{flag} must be {rule} where workers run on other machines, but got {got}")
    try:
        host = urlsplit(f"//{rest.rpartition('@')[2]}").hostname or ""  # a password may contain any character
    except ValueError as error:
        raise UsageError(f"{flag} must be {rule}, but got {without_password(url)!r}: {error}") from error
    if host in ("localhost", "::1") or host.startswith("127."):
        log.warning("%s names %s: only workers of this very machine reach it by that", flag, host)


def team(launcher: Launcher, workload: Workload) -> Team:
    """The study's workers on the engine."""
    return (slurm.SlurmTeam if launcher.engine == "slurm" else ray.RayTeam)(launcher, workload)


def start_missing(ours: Team, count: int, order: Order) -> None:
    """Start as many workers as are missing of `count`, and say what stops them."""
    there = ours.there()
    if there < count:
        ours.start(count - there, order)
    before = f"{there} of {count} workers were there before; " if there else ""
    print(f"{before}{ours.title}: {ours.stop_command} stops the workers", file=sys.stderr, flush=True)


@contextmanager
def workers_elsewhere(ours: Team, count: int, order: Order) -> Iterator[Watch]:
    """So many workers are on the engine while the block runs, which only looks on; if it fails, ours are stopped."""
    try:
        start_missing(ours, count, order)
        yield ours.look
        ours.end()
    except BaseException:
        ours.stop()
        raise
