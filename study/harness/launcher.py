"""Where a study's workers run: processes beside the command, or an engine's of other machines. Light: no engine yet.

An engine's only task is to keep so many of our workers alive where there are cores or GPUs. Which trial is next stays
with Optuna's database; the command itself then only looks on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol
from urllib.parse import urlsplit

from tyro.conf import arg

from study.harness.settings import UsageError, at_least, positive
from tracking.errors import without_password

if TYPE_CHECKING:
    from study.harness.order import Order

log = logging.getLogger("study")

Watch = Callable[[], str]
"""Says in words what the workers elsewhere are at; raises a UsageError if the study cannot come to its end by them."""

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


@dataclass(frozen=True)
class Launcher:
    """Where the workers run (docs/cluster.md), and what each of them gets. --workers says how many there are."""

    engine: Annotated[Literal["local", "slurm", "ray"], arg(aliases=["--launcher"])] = "local"
    """local: processes of this machine. slurm, ray: of that cluster's; they need --tracking-uri and --storage."""
    cpus: int = 1
    """Cores of a worker, and its threads."""
    gpus: float = 0.0
    """GPUs of a worker, at most 1. A share, 0.25 say: so many workers on each GPU, none with more of its memory."""
    memory: float | None = None
    """GiB of a worker; None: as the engine has it."""
    time: str | None = None
    """Slurm's time limit of a worker, [days-]hours:minutes:seconds. A minute before, it goes back into the queue."""
    partition: str | None = None
    """Slurm's partition; None: the default one."""
    extra: tuple[str, ...] = ()
    """Further options of sbatch, without their hyphens: account=vision constraint=a100."""
    address: str | None = None
    """host:port of Ray's head; None: $RAY_ADDRESS, else the cluster that this machine is part of."""
    detach: Annotated[bool, arg(aliases=["--detach"])] = False
    """Start the workers and leave. The same command without it looks on, and prints the table."""
    allow_mixed: Annotated[bool, arg(aliases=["--allow-mixed"])] = False
    """Let workers take part whose commit or versions of packages are others than the command's."""

    def __post_init__(self) -> None:
        at_least(1, cpus=self.cpus)
        if not 0 <= self.gpus <= 1:
            raise ValueError(f"`0 <= gpus <= 1` must hold, but got {self.gpus}: a worker trains on one GPU")
        if self.memory is not None:
            positive(memory=self.memory)
        for option in self.extra:
            if not option.strip("-").strip() or not option.isprintable():
                raise ValueError(f"`extra` must be options of sbatch, but got {option!r}")

    @property
    def sharing(self) -> int:
        """How many workers share a GPU; 1 where they have none, or one each."""
        return int(1 / self.gpus + 1e-9) if self.gpus else 1


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
        from study.harness.slurm import check_engine
    else:
        from study.harness.ray import check_engine
    check_engine(launcher)


def _check_server(flag: str, rule: str, schemes: tuple[str, ...], url: str | None) -> None:
    """Check that workers on other machines can reach what the flag names, as far as that shows here."""
    scheme, separator, rest = (url or "").partition("://")
    if url is None or not separator or scheme.partition("+")[0].lower() not in schemes:
        got = "none" if url is None else repr(without_password(url))
        raise UsageError(f"{flag} must be {rule} where workers run on other machines, but got {got}")
    host = urlsplit(f"//{rest.rpartition('@')[2]}").hostname or ""  # a password may contain any character
    if host in ("localhost", "::1") or host.startswith("127."):
        log.warning("%s names %s: only workers of this very machine reach it by that", flag, host)


def team(launcher: Launcher, name: str, folder: Path) -> Team:
    """The workers of the study of this name on the engine.

    Args:
        folder: One that the nodes see too: Slurm's scripts and logs go there.
    """
    if launcher.engine == "slurm":
        from study.harness.slurm import SlurmTeam

        return SlurmTeam(launcher, name, folder)
    from study.harness.ray import RayTeam

    return RayTeam(launcher, name)


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
