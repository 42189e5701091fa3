"""Workers on Ray: a detached actor each, which keeps a worker alive and is itself kept alive by Ray.

The data are put into Ray's object store once, and each node that has a worker takes them from there. If the command is
gone by the time that an actor starts again elsewhere, its worker reads them by name.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from study.checks import UsageError
from study.engine.launcher import Launcher, Workload
from study.engine.order import Order
from study.engine.workers import RESTARTS, STOPPING, keep_alive

ADDRESS = "RAY_ADDRESS"  # of the environment
NAMESPACE = "latent-study"
PATIENCE = 5.0  # seconds that Ray's head has to answer
LINGERS = 15.0  # seconds that an actor stays after its worker's end, to be asked how that was

log = logging.getLogger("study")


def check_engine(launcher: Launcher) -> None:
    """Check that Ray is installed here, and its head answers.

    Raises:
        UsageError: It is not, or does not.
    """
    if find_spec("ray") is None:
        raise UsageError("--launcher ray needs Ray, which is not installed: pip install -e '.[ray]'")
    connect(launcher.address or os.environ.get(ADDRESS) or "auto")


@cache
def connect(address: str) -> str:
    """Connect this process to the cluster. Returns the head's host and port.

    Args:
        address: host:port, or auto: the cluster that this machine is part of.

    Raises:
        UsageError: It cannot be reached.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or "/" in host:
            raise UsageError(f"--launcher.address must be host:port of Ray's head, but got {address!r}")
        if not _answers(address):
            raise UsageError(f"Ray's head {address} does not answer: start the cluster, or correct --launcher.address")
    before = signal.getsignal(signal.SIGTERM)
    import ray

    # It would print what the cluster's own processes say, a page about each node that dies, between ours and the table.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray's and gRPC's many classes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        where = "no Ray cluster on this machine" if address == "auto" else f"the Ray cluster {address} cannot be used"
        hint = f"--launcher.address or ${ADDRESS} names the head, and one with a token wants RAY_AUTH_MODE=token"
        raise UsageError(f"{where}: {reason} ({hint})") from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray puts a handler of its own in the place of ours.
    return str(ray.get_runtime_context().gcs_address)


class Keeper:
    """Keeps one worker alive, on the node where Ray has put it.

    Args:
        work: See `Workload`.
        order: The worker's.
        data: A reference to the packed data in the object store, as bytes: Ray warns on the command's terminal of one
            that may be gone as the actor is started again, which we are ready for.
    """

    def __init__(self, work: Callable[[Any], int], order: Order, data: bytes) -> None:
        import ray

        self._stop = threading.Event()
        self._code: int | None = None
        handle, self._errors = tempfile.mkstemp(prefix="study-worker-", suffix=".log")
        os.close(handle)
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._keep, args=(work, order, data, me), daemon=True).start()

    def state(self) -> tuple[int | None, str]:
        """The worker's exit code, None while it works; and the last line of its error output."""
        lines = Path(self._errors).read_text(encoding="utf-8", errors="replace").splitlines()
        return self._code, lines[-1].removeprefix("error: ") if lines else ""

    def stop(self) -> None:
        """Let the worker come to an early end: its run ends as KILLED."""
        self._stop.set()

    def _keep(self, work: Callable[[Any], int], order: Order, data: bytes, me: Any) -> None:
        import ray

        os.environ.update(order.environment)
        code, packed = 1, None
        try:
            with suppress(ray.exceptions.RayError):  # whoever has put them there is gone
                packed = ray.get(ray.cloudpickle.loads(data))
            code = keep_alive(1, work, (order, packed), self._stop, self._errors)
        finally:
            self._code = code
            time.sleep(LINGERS)
            Path(self._errors).unlink(missing_ok=True)
            ray.kill(me)  # so that Ray does not start it again


class RayTeam:
    """A study's workers on Ray, known by their actors' names."""

    def __init__(self, launcher: Launcher, workload: Workload) -> None:
        self._launcher, self._workload, self._name = launcher, workload, workload.name
        self._address = connect(launcher.address or os.environ.get(ADDRESS) or "auto")
        self._kept: Any = None  # the reference to the data: they stay for as long as it lives
        self._actors: dict[str, Any] = {}  # by name, whoever has started them
        self._started: list[str] = []
        self._asked: dict[str, Any] = {}  # the reference to an actor's answer that is still to come
        self._codes: dict[str, int | None] = {}  # as last answered; of those that are gone for good, 1
        self._last, self._shown, self._missing = "", "", 0

    @property
    def title(self) -> str:
        return f"{len(self._actors)} actors on Ray at {self._address}"

    @property
    def stop_command(self) -> str:
        numbers = " ".join(name.rpartition("-")[2] for name in sorted(self._actors))
        options = f"--address {self._address} --namespace {NAMESPACE} --force --no-restart"
        return f"for n in {numbers}; do ray kill-actor {options} --name {self._name}-$n; done"

    def there(self) -> int:
        import ray

        names = [name for name in ray.util.list_named_actors() if name.startswith(f"{self._name}-")]
        for name in names:
            with suppress(ValueError):  # one that has ended meanwhile
                self._actors[name] = ray.get_actor(name)
        self._ask(PATIENCE)
        ended = [name for name, code in self._codes.items() if code is not None]
        for name in ended:
            del self._actors[name], self._codes[name]
        return len(self._actors)

    def start(self, count: int, order: Order) -> None:
        import ray

        wanted = self._launcher
        resources: dict[str, Any] = {"num_cpus": wanted.cpus, "num_gpus": wanted.gpus}
        if wanted.memory is not None:
            resources["memory"] = int(wanted.memory * 2**30)
        self._kept = ray.put(self._workload.data())
        options = {"lifetime": "detached", "max_restarts": RESTARTS, **resources}
        actor = ray.remote(Keeper)
        taken = set(ray.util.list_named_actors())
        free = (name for number in range(10**6) if (name := f"{self._name}-{number}") not in taken)
        for name, _ in zip(free, range(count), strict=False):
            given = (self._workload.work, order, ray.cloudpickle.dumps(self._kept))
            self._actors[name] = actor.options(name=name, **options).remote(*given)
            self._started.append(name)

    def look(self) -> str:
        if not _answers(self._address):
            raise UsageError(
                f"Ray's head {self._address} does not answer any more: start a cluster, and the same command goes on"
            )
        self._ask(0.2)
        if " refuses: " in self._last:
            raise UsageError(self._last)
        working = sum(name in self._codes and self._codes[name] is None for name in self._actors)
        waiting = len(self._actors) - len(self._codes)
        # The study may have come to its end since the caller has looked at it: it looks again before the second time.
        self._missing = 0 if working + waiting else self._missing + 1
        if self._missing > 2:
            raise UsageError(
                f"all workers have ended before the study was done: {self._last or 'Ray has given up on them'};"
                " the same command goes on"
            )
        shown = f"Ray: {working} running{f', {waiting} waiting for a place' if waiting else ''}"
        if shown != self._shown:
            log.info("%s", shown)
        self._shown = shown
        return shown

    def end(self) -> None:
        deadline = time.monotonic() + 2 * STOPPING
        while None in self._codes.values() and time.monotonic() < deadline:
            self._ask(0.5)
        self._kill(self._actors)

    def stop(self) -> None:
        for name in self._started:
            with suppress(Exception):
                self._actors[name].stop.remote()
        deadline = time.monotonic() + STOPPING + 2
        self._ask(0.5)  # one that has just got its place is at work too
        while any(self._codes.get(name, 0) is None for name in self._started) and time.monotonic() < deadline:
            self._ask(0.5)
        self._kill(self._started)

    def _kill(self, names: Collection[str]) -> None:
        """Remove these actors, for good."""
        import ray

        if _answers(self._address):  # else they cannot be removed, and go with the rest of the cluster
            for name in names:
                with suppress(Exception):
                    ray.kill(self._actors[name])

    def _ask(self, seconds: float) -> None:
        """Ask all actors for the state of their workers, and take what they have answered after so long.

        One that waits for a place, or is started again on another node, does not answer for the time being.
        """
        import ray

        for name in self._actors:
            if name not in self._asked and self._codes.get(name) is None:
                self._asked[name] = self._actors[name].state.remote()
        if not self._asked:
            return
        ready, _ = ray.wait(list(self._asked.values()), num_returns=len(self._asked), timeout=seconds)
        for name in [name for name, reference in self._asked.items() if reference in ready]:
            try:
                self._codes[name], said = ray.get(self._asked.pop(name))
                self._last = said or self._last
            except ray.exceptions.RayError as error:
                self._codes.pop(name, None)
                if not _is_there(name):
                    self._codes[name] = 1
                    lines = [line for line in str(error).splitlines() if line.strip()]
                    self._last = self._last or lines[-1].strip()


def _is_there(name: str) -> bool:
    """Whether the actor of this name lives, or is to be started again."""
    import ray

    with suppress(Exception):
        ray.get_actor(name)
        return True
    return False


def _answers(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError):
        return False
    return True
