"""The server that shows MLflow's pages on a store in a folder, on this machine only, for `study.ui`."""

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
KEEPER = """
import signal, subprocess, sys, threading
server = subprocess.Popen([sys.executable, "-m", "mlflow", "server", *sys.argv[1:]], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the server gets too
threading.Thread(target=lambda: (sys.stdin.read(), server.terminate()), daemon=True).start()
sys.exit(server.wait())
"""
"""Ends a server as soon as the process that has started this dies, and with it the other end of its input."""
FOREIGN = ("MLFLOW_REGISTRY_STORE_URI", "MLFLOW_STATIC_PREFIX", "MLFLOW_SERVER_ALLOWED_HOSTS")
"""Variables for a server of the user's own: ours would show another registry, or answer at no address that we print."""
OURS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONSAFEPATH": "1"}
"""Jobs for language models would take seven more processes; nothing is imported from the current folder."""


def local_address(port: int = PORT) -> str:
    """Return the address of the server that `study.ui` starts."""
    return f"http://{HOST}:{port}"


def can_show_views(address: str) -> bool:
    """Return whether the server's version of MLflow opens saved views; True where it does not say its version."""
    try:
        with _open(f"{address.rstrip('/')}/version") as answer:
            major, minor, *_ = answer.read(50).decode().split(".")
            return (int(major), int(minor)) >= VIEWS_SINCE
    except (OSError, ValueError):
        return True


def check_port(port: int) -> None:
    """Check that a server can be started there; a port that is taken is a StoreError."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was stopped just now is no reason
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(f"--port must be free on {HOST}, but got {port} ({error.strerror})") from error


@contextmanager
def served(tracking_uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server on a store; all its processes end with the block. A StoreError says why it does not start."""
    where = ["--host", HOST, "--port", str(port), "--workers", "1"]
    where += ["--backend-store-uri", tracking_uri, "--registry-store-uri", tracking_uri]
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    with TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, *where],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=OURS | kept,
            start_new_session=True,  # a terminal's Ctrl-C is ours; and all its processes are one group
        )
        try:
            _wait_for_start(process, port, said)
            yield process
        finally:
            _end(process)


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the server ends by itself, which is an error."""
    process.wait()
    raise StoreError(f"MLflow's server has ended by itself (exit code {process.returncode})")


def _open(address: str) -> IO[bytes]:
    """Open an address, without a proxy where it is on this machine."""
    proxies = [urllib.request.ProxyHandler({})] if f"//{HOST}:" in address else []
    return urllib.request.build_opener(*proxies).open(address, timeout=5)


def _wait_for_start(process: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    deadline = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), _open(f"{local_address(port)}/health"):
            return
        time.sleep(0.1)
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines() or ["it says nothing"]
    raise StoreError(f"MLflow's server does not start: {without_password(lines[-1].strip())}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its workers; the ones that do not listen are killed."""
    for number in (signal.SIGTERM, signal.SIGKILL) if os.name == "posix" else ():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
    process.communicate()  # closes the keeper's input, at which it ends
