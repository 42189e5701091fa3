"""What a worker on another machine is given: its command line, its environment, and what it must agree with.

It holds passwords. So it travels in a file that only its owner can read, or inside the engine, never on a command line.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from study.checks import UsageError
from study.engine.capacity import THREADS
from study.engine.identity import code_digest, code_state, versions

OURS = ("MLFLOW_", "PG", "STUDY_")  # beginnings of the variables that a worker is given
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)


@dataclass(frozen=True)
class Order:
    """What a worker on another machine is given.

    Attributes:
        arguments: The preset's name, then a command line that gives its config without a file.
        environment: Variables that are set before it begins.
        data: The digest of the command's data.
        code, commit, versions: What the command runs on.
        allow_mixed: Whether a worker may run on something else.
        together: How many processes the engine starts at a time: those that share a GPU.
    """

    arguments: list[str]
    environment: dict[str, str]
    data: str
    code: str
    commit: str
    versions: str
    allow_mixed: bool = False
    together: int = 1

    @classmethod
    def of_this_command(cls, arguments: list[str], data: str, cpus: int, **options: bool | int) -> Order:
        """The order for workers that run on what this process runs on."""
        environment = {**travelling(os.environ), THREADS: str(cpus)}
        here = {"code": code_digest(), "commit": _commit(), "versions": versions()}
        return cls(arguments, environment, data, **here, **options)  # type: ignore[arg-type]

    def write(self, file: Path) -> None:
        """Write it where only its owner can read it; a worker that reads meanwhile gets the old or the new one."""
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            json.dump(asdict(self), out)
        new.replace(file)

    @classmethod
    def read(cls, file: Path) -> Order:
        """The order in this file.

        Raises:
            UsageError: There is none.
        """
        try:
            order = cls(**json.loads(file.read_text(encoding="utf-8")))
            texts = [*order.arguments, *order.environment.keys(), *order.environment.values()]
            if not (order.arguments and all(isinstance(text, str) for text in texts)):
                raise ValueError("its arguments and its environment must be text")
            return order
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{file} must be an order that a launcher has written: {error}") from error

    def check_code(self) -> None:
        """Check that this process runs on what the command runs on.

        Raises:
            UsageError: It does not, and may not.
        """
        ours = (f"its code is {_commit()}", f"it has {versions()}")
        theirs = (f"the command's is {self.commit}", f"the command {self.versions}")
        agrees = (code_digest() == self.code, versions() == self.versions)
        differing = [f"{mine}, {its}" for mine, its, same in zip(ours, theirs, agrees, strict=True) if not same]
        if differing and not self.allow_mixed:
            raise UsageError(f"{' and '.join(differing)}: install the same on every node, or add --allow-mixed")

    def check_data(self, digest: str, name: str) -> None:
        """Check that this process has the command's data.

        Raises:
            UsageError: They are others.
        """
        if digest != self.data:
            raise UsageError(f"its data {name} are others than the command's (digest {digest}, not {self.data})")


def travelling(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that say where servers are and who we are there, and all that look like secrets."""
    return {name: value for name, value in environment.items() if name.startswith(OURS) or SECRET.search(name)}


def node() -> str:
    """What the engine or the system calls this machine."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _commit() -> str:
    commit, dirty = code_state()
    return f"commit {commit[:12]}{', changed since' if dirty == 'true' else ''}"
