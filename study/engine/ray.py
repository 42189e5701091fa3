"""Workers on Ray: detached actors, one worker each. Their environment, and with it passwords, stays in Ray's head."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from study.checks import UsageError
from study.engine.launchers import Cluster, State
from study.engine.workers import MOST_RESTARTS, THREADS, WorkerPool
from tracking.errors import reason_of

NAMESPACE = "latent-study"
OPTIONS = {"cpus": r"\d+", "gpus": r"\d+(\.\d+)?", "address": r".+:\d+"}
PASSED_ON = re.compile(r"MLFLOW_|PG|STUDY_|.*(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY)", re.I)


class Keeper:
    """The actor: it keeps one worker process alive on the node where Ray has put it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._errors = Path(tempfile.mkstemp(prefix="study-worker-")[1])
        self._pool = WorkerPool(1, environment, self._errors)
        self._pool.start()
        threading.Thread(target=self._end, args=(ray.get_runtime_context().current_actor,), daemon=True).start()

    def state(self) -> tuple[int | None, str]:
        """Return the worker's exit code, None while it works, and the last line of its error output."""
        lines = self._errors.read_text(encoding="utf-8", errors="replace").splitlines()
        return next(iter(self._pool.codes), None), lines[-1].removeprefix("error: ") if lines else ""

    def stop(self) -> None:
        self._pool.stop()

    def _end(self, actor: Any) -> None:
        self._pool.join()
        time.sleep(15)  # to be asked how it has ended
        self._errors.unlink(missing_ok=True)
        ray.kill(actor)  # for good: after an exit, Ray would start it again


class Ray(Cluster):
    """A study's actors on Ray: those whose names begin with the study's."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        for name, value in options.items():
            if not re.fullmatch(OPTIONS.get(name, "(?!)"), value):
                raise UsageError(f"--launcher-options of ray are cpus, gpus, address=HOST:PORT, but got {name}={value}")
        self._address = _connect(options.get("address") or os.environ.get("RAY_ADDRESS") or "auto")
        self._actors: dict[str, Any] = {}  # by name, whoever started them
        self._asked: dict[str, Any] = {}  # by actor, the reference to an answer that is still to come
        self._said: dict[str, tuple[int | None, str]] = {}  # by actor, its last answer

    def start(self, count: int, environment: Mapping[str, str]) -> None:
        cpus, gpus = self.options.get("cpus", "1"), self.options.get("gpus", "0")
        actor = ray.remote(num_cpus=int(cpus), num_gpus=float(gpus), max_restarts=MOST_RESTARTS)(Keeper)
        given = {name: value for name, value in os.environ.items() if PASSED_ON.match(name)}
        given |= {THREADS: cpus, **environment}
        self.own = [f"{self.name}-{secrets.token_hex(3)}" for _ in range(count)]
        for name in self.own:
            self._actors[name] = actor.options(name=name, lifetime="detached").remote(given)

    def state(self) -> State:
        _check_answers(self._address)
        there = {name for name in ray.util.list_named_actors() if name.startswith(f"{self.name}-")}
        for name in there - self._asked.keys():
            with suppress(ValueError):  # it has gone meanwhile
                self._actors[name] = ray.get_actor(name)
                self._asked[name] = self._actors[name].state.remote()
        asked = list(self._asked.values())
        ready = ray.wait(asked, num_returns=len(asked), timeout=2)[0] if asked else []  # those with a place answer
        for name in [name for name, reference in self._asked.items() if reference in ready]:
            self._said.pop(name, None)
            with suppress(ray.exceptions.RayError):  # its node has died; Ray may start it again
                self._said[name] = ray.get(self._asked.pop(name))
        running = sum(name in there and code is None for name, (code, _) in self._said.items())
        waiting = len(there - self._said.keys())
        errors = [words for name, (code, words) in self._said.items() if code is not None and name in self.own]
        return State(running, waiting, "for a place", errors)

    def cancel(self, *, only_own: bool) -> None:
        _check_answers(self._address)
        for name in self.own if only_own else self._actors:
            if name in self._said and self._said[name][0] is None:
                self._actors[name].stop.remote()
            else:
                ray.kill(self._actors[name])  # if it is just starting, its worker ends with it

    def stop_command(self) -> str:
        command = f"ray kill-actor --address {self._address} --namespace {NAMESPACE} --force --no-restart"
        return f"for name in {' '.join(self._actors)}; do {command} --name $name; done"


def _connect(address: str) -> str:
    """Connect this process to the cluster; return the head's host:port."""
    if address != "auto":
        _check_answers(address)  # Ray itself would try for a minute
    before = signal.getsignal(signal.SIGTERM)
    # Ray would print what its processes say, a page about each node that dies, between our lines and the table.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray's and gRPC's many classes
        hint = "address=HOST:PORT or $RAY_ADDRESS names the head; with a token, set RAY_AUTH_MODE=token"
        raise UsageError(f"the Ray cluster {address} cannot be used: {reason_of(error)} ({hint})") from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray puts its own handler in place of ours
    return str(ray.get_runtime_context().gcs_address)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"Ray's head {address} does not answer: start one, and the same command goes on") from error
