"""One queue of trials that any number of processes share: a table in the study's database.

A row is a trial. A process takes it by one conditional UPDATE, so no trial is taken twice. A row whose process died, or
whose MLflow run was deleted, is open again: what is to be done follows from the table alone, never from what a process
remembers. A process is known to be dead by its lock on a file where the database is an SQLite file, and by its
missing heartbeats where the database is on a server.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tracking.errors import StoreError, root_of, without_password
from tracking.store import Store

HEARTBEAT, GRACE = 5, 60  # seconds between two signs of life, and without one until a trial counts as dead
TRIES = 3  # of a trial whose process dies, or that ends in an error that may pass
WAITING, RUNNING, COMPLETE, PRUNED, FAILED = "waiting", "running", "complete", "pruned", "failed"
FINISHED = (COMPLETE, PRUNED, FAILED)

ResultT = TypeVar("ResultT")
log = logging.getLogger("study")


class Base(DeclarativeBase):
    """The tables of this file, as SQLAlchemy wants them."""


class QueuedTrial(Base):
    """A row of the queue.

    Attributes:
        number: Its place among the rows of its part, from 0.
        params: Those that are known; of a trial that Optuna proposes, empty until it is taken.
        tries: How often it was taken, less the times that it was stopped.
        values: Of a complete trial, one of each objective; of a pruned one, the last that was reported.
    """

    __tablename__ = "study_trials"
    __table_args__ = (sql.UniqueConstraint("part", "key"),)
    number = -1
    id: Mapped[int] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(sql.String(200))
    key: Mapped[str] = mapped_column(sql.Text)
    state: Mapped[str] = mapped_column(sql.String(10))
    params: Mapped[dict[str, Any]] = mapped_column(sql.JSON)
    tries: Mapped[int]
    worker: Mapped[str | None] = mapped_column(sql.String(200))
    heartbeat: Mapped[float | None]
    run_id: Mapped[str | None] = mapped_column(sql.String(40))
    values: Mapped[list[float] | None] = mapped_column(sql.JSON)
    reason: Mapped[str | None] = mapped_column(sql.Text)
    seconds: Mapped[float | None]


class Superseded(BaseException):
    """The trial counts as dead, and another process has it: its run ends as KILLED."""


class Queue:
    """This process's access to the queue of a store.

    Raises:
        StoreError: The database cannot be opened.
    """

    def __init__(self, store: Store) -> None:
        self.store, self._locks = store, store.locks
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        self._engine = sql.create_engine(store.optuna_url, **self._locks.engine_options())
        with opening(store):
            Base.metadata.create_all(self._engine)
        self._alive = self._locks.alive(self._worker)
        self._alive.__enter__()

    def close(self) -> None:
        """Let go of the database."""
        self._alive.__exit__(None, None, None)
        self._engine.dispose()

    def add(self, part: str, trials: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the trials, by key, that the part does not have yet."""

        def insert(connection: sql.Connection) -> None:
            known = set(connection.scalars(sql.select(QueuedTrial.key).where(QueuedTrial.part == part)))
            row = {"part": part, "state": WAITING, "tries": 0}
            new = [{**row, "key": key, "params": params} for key, params in trials.items() if key not in known]
            if new:
                connection.execute(sql.insert(QueuedTrial), new)

        with self._locks.hold(f"add/{part}"):
            self._transaction(insert)

    def trials(self, part: str) -> list[QueuedTrial]:
        """Return all trials of the part, in the order in which they were added."""
        query = sql.select(QueuedTrial).where(QueuedTrial.part == part).order_by(QueuedTrial.id)
        rows = self._transaction(lambda connection: connection.execute(query).all())
        return [QueuedTrial(number=number, **row._mapping) for number, row in enumerate(rows)]

    def take(self, trial: QueuedTrial) -> bool:
        """Take a waiting trial. Return whether this process has it now."""
        mine = {"worker": self._worker, "heartbeat": self._now(), "run_id": None, "reason": None}
        return self._update(trial, self._unchanged(trial), state=RUNNING, tries=trial.tries + 1, **mine)

    def note(self, trial: QueuedTrial, **values: Any) -> None:
        """Write into the row of a trial that this process has: its parameters, its run, or its end.

        Raises:
            Superseded: Another process has it.
        """
        if not self._update(trial, self._mine(values.get("state", RUNNING)), **values):
            raise Superseded

    def put_back(self, trial: QueuedTrial, reason: str, *, counts: bool) -> None:
        """Open a trial that this process has; with `counts`, it has one try less, and after the last it is failed."""
        tries = trial.tries + counts
        state = FAILED if tries >= TRIES else WAITING
        self._update(trial, self._mine(state), state=state, tries=tries, reason=f"{reason} ({tries} times)")

    def reopen_dead(self, trials: Sequence[QueuedTrial], on_death: Callable[[str], None]) -> None:
        """Open those of these trials whose processes died; after too many deaths a trial is failed.

        Args:
            on_death: Called with the id of the MLflow run of each.
        """
        for trial in trials:
            if trial.state == RUNNING and self._has_died(trial):
                state, reason = FAILED if trial.tries >= TRIES else WAITING, f"its process died ({trial.tries} times)"
                if self._update(trial, self._unchanged(trial), state=state, reason=reason) and trial.run_id:
                    on_death(trial.run_id)

    def reopen(self, trials: Sequence[QueuedTrial]) -> None:
        """Open finished trials again, whose runs were deleted."""
        for trial in trials:
            self._update(trial, self._unchanged(trial), state=WAITING, tries=0)

    @contextmanager
    def heartbeat(self, trial: QueuedTrial) -> Iterator[None]:
        """Tell a database on a server, every few seconds, that the process of this trial lives."""
        stop = threading.Event()

        def beat() -> None:
            pool = self._engine.pool
            while not stop.wait(HEARTBEAT):
                try:
                    self._update(trial, self._mine(RUNNING), heartbeat=self._now())
                except Exception:  # the server may come back
                    log.debug("no heartbeat of trial %d", trial.number, exc_info=True)
            for each in (self._engine, pool):  # where a lost server was waited for, the queue may be closed by now
                each.dispose()

        thread = threading.Thread(target=beat, daemon=True)
        if self._locks.on_server:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if thread.is_alive():
                thread.join(1)  # not for as long as a database is away

    def _has_died(self, trial: QueuedTrial) -> bool:
        if not self._locks.on_server:
            return self._locks.has_died(trial.worker or "")
        old = QueuedTrial.heartbeat < self._now() - GRACE
        silent = sql.select(QueuedTrial.id).where(QueuedTrial.id == trial.id, old)
        return self._transaction(lambda connection: connection.scalar(silent)) is not None

    def _unchanged(self, trial: QueuedTrial) -> Any:
        """The condition that nobody has changed the row since it was read."""
        return (QueuedTrial.state == trial.state) & (QueuedTrial.tries == trial.tries)

    def _mine(self, state: str) -> Any:
        """The condition that this process has the trial; a change to this state may be repeated."""
        return (QueuedTrial.worker == self._worker) & QueuedTrial.state.in_((RUNNING, state))

    def _update(self, trial: QueuedTrial, condition: Any, **values: Any) -> bool:
        """Change the row if the condition holds. Return whether it did."""
        change = sql.update(QueuedTrial).where(QueuedTrial.id == trial.id, condition).values(**values)
        return bool(self._transaction(lambda connection: connection.execute(change).rowcount))

    def _transaction(self, work: Callable[[sql.Connection], ResultT]) -> ResultT:
        """Do the work in a transaction; once more if the database's server went away meanwhile."""
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except OperationalError:
            if not self._locks.on_server:
                raise
            with self._engine.begin() as connection:
                return work(connection)

    def _now(self) -> Any:
        """Return the time as the database has it: the clocks of several machines differ."""
        return sql.extract("epoch", sql.func.clock_timestamp()) if self._locks.on_server else time.time()


@contextmanager
def opening(store: Store) -> Iterator[None]:
    """Open the store's database: of several processes one makes the tables. A StoreError says why it cannot be."""
    try:
        with store.locks.hold("opening"):
            yield
    except Exception as error:  # SQLAlchemy's, the drivers' and Optuna's many classes
        raise StoreError(f"{without_password(store.optuna_url)} cannot be opened: {root_of(error)}") from error


def key_of(params: Mapping[str, Any]) -> str:
    """Return the key of a trial whose parameters are all given."""
    return json.dumps(params, sort_keys=True)
