"""MLflow's pages on a store: the server that shows a folder on this machine only, and where on them the trials are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO

from tracking.errors import StoreError, without_password

HOST, PORT = "127.0.0.1", 5000
VIEWS_SINCE = (3, 16)  # the first MLflow whose pages open our saved views, by their code
STARTING, ENDING = 120.0, 10.0  # seconds that the server may take
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # those for language models: seven more processes
KEEPER = """
import signal, subprocess, sys, threading
server = subprocess.Popen([sys.executable, "-m", "mlflow", "server", *sys.argv[1:]], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the server gets too
threading.Thread(target=lambda: (sys.stdin.read(), server.terminate()), daemon=True).start()
sys.exit(server.wait())
"""
"""Keeps a server for as long as whoever has started this holds the other end of its input: if that dies, it ends."""
THEIRS = ("MLFLOW_REGISTRY_STORE_URI", "MLFLOW_STATIC_PREFIX", "MLFLOW_SERVER_ALLOWED_HOSTS")
"""Variables for a server of the user's own: ours would show another registry, or answer at no address that we print."""
NOTHING_FROM_HERE = {"PYTHONSAFEPATH": "1"}  # imported: whose folder the current one is, who knows


def local_address(port: int = PORT) -> str:
    return f"http://{HOST}:{port}"


def check_port(port: int) -> None:
    """Check that a server can be started there.

    Raises:
        StoreError: It cannot, since the port is taken, say.
    """
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was stopped just now is no reason
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(
                f"--port must be a free one of {HOST}, but got {port} ({error.strerror}): give another"
            ) from error


@contextmanager
def served(tracking_uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server on a store, for as long as this lasts; all its processes end with it.

    Raises:
        StoreError: It does not start, or ends by itself (`wait_for_end`).
    """
    where = ["--host", HOST, "--port", str(port), "--workers", "1"]
    where += ["--backend-store-uri", tracking_uri, "--registry-store-uri", tracking_uri]
    kept = {name: value for name, value in os.environ.items() if name not in THEIRS}
    with TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, *where],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**NO_JOBS, **kept, **NOTHING_FROM_HERE},
            start_new_session=True,  # a terminal's Ctrl-C is ours; and all its processes are one group
        )
        try:
            _wait_for_start(process, port, said)
            yield process
        finally:
            _end(process)
            if process.stdin is not None:
                process.stdin.close()


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the server ends by itself, which it should not.

    Raises:
        StoreError: It did.
    """
    process.wait()
    raise StoreError(f"MLflow's server has ended by itself (exit code {process.returncode})")


def can_show_views(address: str) -> bool:
    """Whether the server's version of MLflow can open saved views; True where it does not say which it is."""
    try:
        with _open(f"{address.rstrip('/')}/version") as answer:
            major, minor, *_ = answer.read(50).decode().split(".")
            return (int(major), int(minor)) >= VIEWS_SINCE
    except (OSError, ValueError):
        return True


def _open(address: str) -> IO[bytes]:
    """Without a proxy for what is on this machine."""
    proxies = [urllib.request.ProxyHandler({})] if f"//{HOST}:" in address else []
    return urllib.request.build_opener(*proxies).open(address, timeout=5)


def _wait_for_start(process: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        with suppress(OSError), _open(f"{local_address(port)}/health"):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            said.seek(0)
            *_, last = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()] or [
                "silent"
            ]
            raise StoreError(f"MLflow's server does not start: {without_password(last.strip())}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its workers; the ones that do not listen are killed."""
    if os.name != "posix":
        process.communicate()  # the keeper's input ends
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
