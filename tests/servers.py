"""Real servers on loopback, which tests start, stop and start again: PostgreSQL and MLflow's."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import psycopg
import pytest

PASSWORD = "s3cret/{x}%40"  # what a URL has to quote, Optuna's template and alembic's config to escape

NOBODY = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def until(ready: Callable[[], object], what: object = "what is waited for", seconds: float = 300) -> None:
    """Wait until something is so; a busy machine may take long."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Server:
    """A server process that can be stopped and started again on the same port, with the same data."""

    stopping = signal.SIGINT
    owner: Mapping[str, object] = {}

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ask(self) -> None:
        """Connect, or raise an error."""
        raise NotImplementedError

    def answers(self) -> bool:
        try:
            self.ask()
        except (OSError, psycopg.OperationalError):
            return False
        return True

    def start(self) -> None:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self.command(), start_new_session=True, **pipes, **self.owner)
        until(self.answers, self.command(), 90)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, self.stopping)
            self._process.wait(30)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class MlflowServer(Server):
    """`mlflow server` with its tables and artifacts in `folder`."""

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.folder, self.options, self.url = folder, options, f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        stores = [f"--backend-store-uri=sqlite:///{self.folder}/server.db"]
        stores += [f"--artifacts-destination={self.folder}/files"]
        address = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        return [sys.executable, "-m", "mlflow", "server", *address, *stores, *self.options]

    def ask(self) -> None:
        urllib.request.urlopen(f"{self.url}/health", timeout=1).close()


class Postgres(Server):
    """A cluster of its own, with a user and a database `study`; PostgreSQL refuses to run as root."""

    owner = NOBODY

    def __init__(self) -> None:
        super().__init__()
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
        if not found[-1].is_file():
            pytest.skip("PostgreSQL's server is not installed: Debian's package is called postgresql")
        self._bin = found[-1].parent
        self.folder = Path(tempfile.mkdtemp(prefix="study-postgres-"))
        self.url = f"postgresql://study:{PASSWORD.replace('%', '%25').replace('/', '%2F')}@127.0.0.1:{self.port}/study"
        self._any = self.url.removesuffix("/study") + "/postgres"  # a database that is there from the start
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
        word = self.folder / "word"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        options = ["-A", "scram-sha-256", "-U", "study", f"--pwfile={word}", "--no-sync"]
        initdb = [self._bin / "initdb", "-D", self.folder / "data", *options]
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder, **self.owner)
        self.start()
        with psycopg.connect(self._any, autocommit=True) as connection:
            connection.execute("CREATE DATABASE study")

    def command(self) -> list[str]:
        settings = [f"-p{self.port}", "-h127.0.0.1", f"-k{self.folder}", "-cfsync=off"]
        return [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *settings]

    def ask(self) -> None:
        psycopg.connect(self._any, connect_timeout=1).close()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class PgBouncer(Server):
    """PgBouncer as installed, but for where it listens, in front of a PostgreSQL server."""

    stopping = signal.SIGTERM
    owner = NOBODY

    def __init__(self, behind: Postgres, mode: str) -> None:
        super().__init__()
        binary = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
        if binary is None:
            pytest.skip("PgBouncer is not installed: Debian's package is called pgbouncer")
        self._command = [binary, str(behind.folder / f"{mode}.ini")]
        self.url = behind.url.replace(f":{behind.port}/", f":{self.port}/")
        (behind.folder / "users").write_text(f'"study" "{PASSWORD}"\n')
        address = f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
        users = f"auth_type = trust\nauth_file = {behind.folder}/users\npool_mode = {mode}\n"
        behind_it = f"[databases]\nstudy = host=127.0.0.1 port={behind.port}\n[pgbouncer]\n"
        Path(self._command[1]).write_text(behind_it + address + users)

    def command(self) -> list[str]:
        return self._command

    def ask(self) -> None:
        psycopg.connect(self.url, connect_timeout=1).close()
