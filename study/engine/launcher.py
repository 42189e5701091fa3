"""Settings of where a study's workers run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from study.checks import at_least, positive
from study.engine.order import Order

Watch = Callable[[], str]
"""Says in words what the workers elsewhere are at; raises a UsageError if the study cannot come to its end by them."""


@dataclass(frozen=True)
class Workload:
    """What an engine needs to know of a study.

    Attributes:
        name: By which its workers are found again; the same command has the same.
        folder: One that the nodes see too: Slurm's scripts and logs go there.
        work: A worker, which is given its order, and the data where they are handed over. Gives its exit code.
        data: Gives the data, packed (see `study.data.packed`).
    """

    name: str
    folder: Path
    work: Callable[[tuple[Order, bytes | None]], int]
    data: Callable[[], bytes]


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
