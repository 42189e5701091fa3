"""Optuna's database: which trials of a study are open, under way or decided, and who has them.

Any number of processes, on any machines, may work on a study and die at any moment. Each trial that is asked for is a
slot; an attempt at a slot is one trial of Optuna's. Every change of an attempt's state happens under the study's lock,
and what is to be done next follows from the states in the database alone, never from what a process remembers. So
no slot is taken twice, and a slot whose attempt was stopped or died is simply found open again. So is one whose
attempt's MLflow run is not in this store. A process is known to have died as it lets go of its lock where the database
is an SQLite file, and by its missing heartbeats where it is on a server.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from study.engine.progress import log
from tracking.errors import StoreError, root_of, without_password
from tracking.registry import Direction
from tracking.servers import wait_for_server
from tracking.store import Store

HEARTBEAT = 5  # seconds
GRACE = 60  # seconds without a heartbeat, after which a trial counts as dead; both where the database is on a server
RETRIES = 2  # of a trial whose process died
TRIES = 3  # of a trial that ends in an error
PROPOSALS = 20  # for a free trial, until one is new
REPETITION = "REPETITION"  # the outcome of a proposal that is run no second time
SLOT, WORKER, OUTCOME, REASON, RUN_ID = "slot", "worker", "outcome", "reason", "mlflow.run_id"  # user attributes
CODE = "code"  # a user attribute: what an attempt ran on
PAGE = "mlflow.page"  # one of attempts and of studies: the address of MLflow's page on the run

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")  # see heartbeat

Params = dict[str, Any]


class Slots:
    """A study's slots, as its database has them.

    Args:
        name: The study's.
        given: Every slot's parameters that are given beforehand, by the slot's name.
        space: All parameters and their ranges.
        code: A digest of the code that runs.
        objectives: "minimize" or "maximize", an entry an objective, by the metric's name.
        about: User attributes of the study, for other programs that show it.
        pruner: Says which trials are hopeless.
        sampler: Proposes the parameters that are not given, from the number of attempts so far.
        end_dead: Called with the MLflow run of each attempt whose process died.
        runs_here: Those of these MLflow runs that this store has as runs of the study's trials.

    Raises:
        StoreError: The database cannot be opened.
    """

    def __init__(
        self,
        name: str,
        given: Mapping[str, Params],
        store: Store,
        *,
        space: Mapping[str, BaseDistribution],
        code: str,
        objectives: Mapping[str, Direction],
        about: Mapping[str, str],
        pruner: optuna.pruners.BasePruner,
        sampler: Callable[[int], optuna.samplers.BaseSampler],
        end_dead: Callable[[str], None],
        runs_here: Callable[[Collection[str]], set[str]],
    ) -> None:
        self.name, self.given, self._space, self._code = name, given, dict(space), code
        self._store, self._sampler, self._end_dead, self._runs_here = store, sampler, end_dead, runs_here
        self._here, self._elsewhere = set[str](), set[str]()  # runs known to be in this store, and not to be in it
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        try:
            with store.locks.hold("opening"):  # of several processes, one makes the tables
                self._storage = _open(
                    store,
                    heartbeat_interval=HEARTBEAT if store.locks.on_server else None,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=lambda _study, attempt: self._end_run(attempt),
                )
                self._study = optuna.create_study(
                    study_name=name,
                    storage=self._storage,
                    pruner=pruner,
                    directions=list(objectives.values()),
                    load_if_exists=True,
                )
                self._describe(list(objectives), about)
        except Exception as error:  # SQLAlchemy's, the drivers' and Optuna's many classes
            raise StoreError(f"{without_password(store.optuna_url)} cannot be opened: {root_of(error)}") from error
        self._alive = ExitStack()
        self._alive.enter_context(store.locks.alive(self._worker))

    def close(self) -> None:
        """Let go of the database."""
        self._alive.close()
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _describe(self, metrics: list[str], about: Mapping[str, str]) -> None:
        """Let the study say what its objectives are called and where it is in MLflow."""
        if self._study.metric_names != metrics:
            self._study.set_metric_names(metrics)
        known = self._study.user_attrs
        for name, value in about.items():
            if known.get(name) != value:
                self._study.set_user_attr(name, value)

    def look_again(self) -> None:
        """Ask the store anew which runs it has: one may have been deleted since."""
        self._here.clear()
        self._elsewhere.clear()

    def attempts(self) -> list[FrozenTrial]:
        """All attempts, those at slots that are not asked for now among them."""
        return self._study.get_trials(deepcopy=False)

    def decided(self) -> dict[str, FrozenTrial]:
        """The attempt that decided each slot that has been decided."""
        found = {slot: self._deciding(attempts) for slot, attempts in self._by_slot().items()}
        return {slot: attempt for slot, attempt in found.items() if attempt is not None}

    def claim(self) -> tuple[str, optuna.Trial] | None:
        """Take an open slot: its name, and a new attempt at it; None if other processes have all that are left."""
        with self._store.locks.hold(self.name):
            optuna.storages.fail_stale_trials(self._study)  # on a server: those without heartbeats
            for attempt in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                worker = attempt.user_attrs.get(WORKER)
                if worker is None or self._store.locks.has_died(worker):  # None: its process died right here
                    with suppress(optuna.exceptions.UpdateFinishedTrialError):
                        self._storage.set_trial_state_values(attempt._trial_id, TrialState.FAIL)
                        self._end_run(attempt)
            for slot, attempts in self._by_slot().items():
                if self._deciding(attempts) is not None or any(not attempt.state.is_finished() for attempt in attempts):
                    continue
                trial = self._ask(slot)
                if self._store.locks.on_server:
                    self._storage.record_heartbeat(trial._trial_id)
                trial.set_user_attr(CODE, self._code)
                trial.set_user_attr(WORKER, self._worker)
                return slot, trial
        return None

    def _ask(self, slot: str) -> optuna.Trial:
        """A new attempt at a slot; of a free one, with parameters that no other slot has, if such are found."""
        params, attempts, others = dict(self.given[slot]), self.attempts(), set[str]()
        for attempt in attempts:  # those of another attempt at it, which was stopped, are kept
            if attempt.user_attrs.get(SLOT) == slot and attempt.user_attrs.get(OUTCOME) != REPETITION:
                params |= attempt.params
        if not params:
            others = {slot_name(given) for name, given in self.given.items() if name != slot}
            others |= {slot_name(each.params) for each in attempts if each.user_attrs.get(SLOT) != slot}
        for last in (False,) * (PROPOSALS - 1) + (True,):
            self._study.enqueue_trial(params, user_attrs={SLOT: slot})
            self._study.sampler = self._sampler(len(self.attempts()))
            trial = self._study.ask(self._space)
            if last or params or slot_name(trial.params) not in others:
                break
            trial.set_user_attr(OUTCOME, REPETITION)
            self._study.tell(trial, state=TrialState.FAIL)
        return trial

    def finish(self, trial: optuna.Trial, outcome: str, reason: str, values: tuple[float, ...] | None = None) -> None:
        """Commit what became of an attempt: COMPLETE, PRUNED, FAIL, ERROR or STOPPED.

        FAIL is what the numbers themselves brought about, and for good. ERROR is an exception: tried again.

        Raises:
            Superseded: It counts as dead, and another process has its slot.
        """
        state = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED}.get(outcome, TrialState.FAIL)
        try:
            with self._store.locks.hold(self.name):
                trial.set_user_attr(REASON, reason)
                trial.set_user_attr(OUTCOME, outcome)
                self._study.tell(trial, values, state)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise Superseded from error

    @contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Report to a database on a server, every few seconds, that this attempt's process lives."""
        if not self._store.locks.on_server:
            yield
            return
        stop = threading.Event()

        def report() -> None:
            while not stop.wait(HEARTBEAT):
                try:
                    self._storage.record_heartbeat(trial._trial_id)
                except optuna.exceptions.StorageInternalError:  # The server may come back.
                    log.debug("no heartbeat of trial %d", trial.number, exc_info=True)
            self._storage.remove_session()

        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(1)  # not for as long as a database is away

    def _end_run(self, attempt: FrozenTrial) -> None:
        if RUN_ID in attempt.user_attrs:
            self._end_dead(attempt.user_attrs[RUN_ID])

    def _by_slot(self) -> dict[str, list[FrozenTrial]]:
        """The attempts that count at each slot that is asked for, the latest last."""
        attempts: dict[str, list[FrozenTrial]] = {slot: [] for slot in self.given}
        wanted = [attempt for attempt in self.attempts() if attempt.user_attrs.get(SLOT) in attempts]
        self._ask_for_runs(wanted)
        for attempt in wanted:
            # One that died before it had a run counts too.
            if not attempt.state.is_finished() or attempt.user_attrs.get(RUN_ID) not in self._elsewhere:
                attempts[attempt.user_attrs[SLOT]].append(attempt)
        return attempts

    def _deciding(self, attempts: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The attempt that decides a slot: the one that came to an end, or the last that may die or end in an error.

        Errors count that this very code has made: those of other code may be mended.
        """
        done = next(filter(is_done, attempts), None)
        dead = [attempt for attempt in attempts if attempt.user_attrs.get(WORKER) and _is_dead(attempt)]
        errors = [
            attempt
            for attempt in attempts
            if attempt.user_attrs.get(OUTCOME) == "ERROR" and attempt.user_attrs.get(CODE) == self._code
        ]
        return done or (dead[-1] if len(dead) > RETRIES else errors[-1] if len(errors) >= TRIES else None)

    def _ask_for_runs(self, attempts: Sequence[FrozenTrial]) -> None:
        """Ask the store for the runs of finished attempts of which it is not known yet whether it has them."""
        finished = [attempt.user_attrs for attempt in attempts if attempt.state.is_finished()]
        unknown = {each[RUN_ID] for each in finished if RUN_ID in each} - self._here - self._elsewhere
        if unknown:
            here = self._runs_here(unknown)
            self._here |= here
            self._elsewhere |= unknown - here


class Superseded(BaseException):
    """The attempt counts as dead, and another process has its slot: its run ends as KILLED."""


def load_study(name: str, store: Store) -> optuna.Study:
    """The study of this name, for reading."""
    return optuna.load_study(study_name=name, storage=_open(store))


def slot_name(params: Params) -> str:
    """That of the slot whose parameters are all given."""
    return json.dumps(params, sort_keys=True)


def is_done(attempt: FrozenTrial) -> bool:
    """It came to an end of its own: complete, pruned or failed."""
    if attempt.state == TrialState.FAIL:
        return attempt.user_attrs.get(OUTCOME) == "FAIL"  # and not ERROR, STOPPED, or dead without a word
    return attempt.state in (TrialState.COMPLETE, TrialState.PRUNED)


def outcome(attempt: FrozenTrial) -> str:
    """What became of an attempt that decided its slot."""
    if _is_dead(attempt):
        return f"given up, since its process died {1 + RETRIES} times"
    what = {"ERROR": f"failed {TRIES} times (with its runs deleted in MLflow it is tried again):"}.get(
        attempt.user_attrs[OUTCOME], attempt.user_attrs[OUTCOME].lower()
    )
    return f"{what} {attempt.user_attrs[REASON]}".rstrip()


def _is_dead(attempt: FrozenTrial) -> bool:
    """Its process died: it may have got as far as naming an outcome, but not to committing it."""
    return attempt.state == TrialState.FAIL and attempt.user_attrs.get(OUTCOME) not in ("FAIL", "ERROR", "STOPPED")


def _open(store: Store, **options: Any) -> RDBStorage:
    url = store.optuna_url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    storage = RDBStorage(url, engine_kwargs=store.locks.engine_options(), **options)
    wait_for_server(storage.engine)
    return storage
