"""Optuna: which trials a study runs, in what order, and what became of each. The only importer of optuna.

A study is known by the fingerprint of all that decides its trials, so that the same command finds its finished
trials again and any other command starts a study of its own in the same store.

Any number of processes, on any machines, may work on a study and die at any moment. Each trial that is asked for is a
slot; an attempt at a slot is one trial of Optuna's. Every change of an attempt's state happens under the study's lock,
and what is to be done next follows from the states in the database alone, never from what a process remembers. So
no slot is taken twice, and a slot whose attempt was stopped or died is simply found open again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from study.progress import Progress, log, short
from tracking.registry import Direction
from tracking.runs import Run, end_killed, settle, trial_run
from tracking.store import Store, StoreError, be_patient, store_errors, without_password

HEARTBEAT = 5  # seconds
GRACE = 60  # seconds without a heartbeat, after which a trial counts as dead
RETRIES = 2  # of a trial whose process died
GLANCE = 2.0  # seconds between two looks at what other processes have finished
SLOT, WORKER, OUTCOME, REASON, RUN_ID = "slot", "worker", "outcome", "reason", "mlflow.run_id"  # user attributes
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}  # of the runs

BREAKDOWNS = (ArithmeticError, ValueError)  # what a trial's own numbers can bring about

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")  # see _beating

Params = dict[str, Any]
Distribution = BaseDistribution
Space = Mapping[str, Distribution]


def integer(low: int, high: int) -> Distribution:
    """Whole numbers, both ends included."""
    return IntDistribution(low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """Positive numbers, every order of magnitude as likely as the next."""
    return FloatDistribution(low, high, log=True)


def choice(*values: Any) -> Distribution:
    """One of these values."""
    return CategoricalDistribution(values)


class Pruned(Exception):
    """A trial was stopped early; the message says why."""


@dataclass(frozen=True)
class Result:
    """A trial that ran to its end. `values` has one entry an objective."""

    number: int
    params: Params
    values: tuple[float, ...]
    run_id: str


@dataclass
class Trial:
    """What an objective sees of its trial: its parameters, its run, and a way to report."""

    number: int
    params: Params
    run: Run
    _optuna: optuna.Trial
    _prune_on: str | None
    _epoch: Callable[[int, Mapping[str, float]], None]  # told of every report
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)  # metric: epochs, values

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch in one call.

        Raises:
            Pruned: The metric that decides is among them, and hopeless.
        """
        self.run.log(metrics, step=epoch)
        for name, value in metrics.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(value)
        self._epoch(epoch, metrics)
        if self._prune_on is not None and self._prune_on in metrics:
            self._optuna.report(metrics[self._prune_on], epoch)
            if self._optuna.should_prune():
                raise Pruned(f"{self._prune_on} above the median of the others at epoch {epoch}")


Objective = Callable[[Trial], tuple[float, ...]]


@dataclass(frozen=True)
class Search:
    """The trials of a study.

    Attributes:
        objectives: The metrics that decide, each with "minimize" or "maximize".
        space: The parameters and their ranges.
        fixed: Parameters of the trials that run first; all of them keys of `space`.
        free: Number of trials that Optuna picks after those.
        prune_on: The reported metric by which hopeless trials are stopped early; None: none is.
        prune_after: Epochs that every trial gets.
    """

    objectives: Mapping[str, Direction]
    space: Space
    fixed: Sequence[Params]
    free: int = 0
    prune_on: str | None = None
    prune_after: int = 0

    @property
    def slots(self) -> dict[str, Params]:
        """Every trial that is asked for, by name, and the parameters that are settled beforehand."""
        fixed = {_name(params): params for params in self.fixed}
        return fixed | {f"free {number}": {} for number in range(self.free)}


def study_name(dataset: str, stage: str, settings: Mapping[str, Any]) -> str:
    """The study's name, which ends in a fingerprint of the settings: those that decide what a trial computes."""
    content = json.dumps(settings, sort_keys=True, default=str)
    return f"{dataset}/{stage}/{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def run_search(
    name: str, search: Search, objective: Objective, store: Store, parent: Run, seed: int, label: str
) -> list[Result]:
    """Run what is missing of the study's trials, each as a nested run of `parent`; give all complete ones.

    Other processes may run some of them. A trial whose training breaks down (a loss that is not finite, parameters that
    fit no data: see BREAKDOWNS) counts as failed with its reason, and the study goes on. One that was stopped, or whose
    process died, is tried again with the same parameters, the latter at most twice.

    Raises:
        StoreError: Optuna's database cannot be opened, or no trial is complete at the end.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = _Trials(name, search, store, parent, seed)
    try:
        return trials.run(objective, label)
    finally:
        trials.storage.remove_session()
        trials.storage.engine.dispose()


def pruned(name: str, store: Store) -> list[Result]:
    """The study's pruned trials, with the last value that each reported."""
    study = _load(name, store)
    found = study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
    return [
        Result(t.number, dict(t.params), (t.intermediate_values[t.last_step],), t.user_attrs[RUN_ID])
        for t in found
        if t.last_step is not None
    ]


def importances(name: str, store: Store) -> dict[str, float]:
    """What share of the objective's variance each parameter explains (fANOVA, Hutter et al. 2014); largest first.

    Empty where there are too few complete trials to say: not more than parameters.
    """
    study = _load(name, store)
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete or len(complete) <= len(complete[0].params):
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def pareto_front(results: Sequence[Result]) -> list[Result]:
    """Those of which no other is at least as good in all objectives and better in one; all are minimised."""

    def dominated(a: Result) -> bool:
        return any(
            b.values != a.values and all(x <= y for x, y in zip(b.values, a.values, strict=True)) for b in results
        )

    return [result for result in results if not dominated(result)]


def _load(name: str, store: Store) -> optuna.Study:
    url = store.optuna_url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    return optuna.load_study(study_name=name, storage=RDBStorage(url, engine_kwargs=store.optuna_engine_options()))


class _Trials:
    """A study's trials, and how this process takes part in them."""

    def __init__(self, name: str, search: Search, store: Store, parent: Run, seed: int) -> None:
        self.name, self.search, self.store, self.parent, self.seed = name, search, store, parent, seed
        try:
            with store.lock("opening"):  # of several processes, one makes the tables
                self.storage = _Storage(
                    store.optuna_url.replace("{", "{{").replace("}", "}}"),  # Optuna takes it for a template
                    engine_kwargs=store.optuna_engine_options(),
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=self._bury,
                )
                be_patient(self.storage.engine)
                self.study = optuna.create_study(
                    study_name=name,
                    storage=self.storage,
                    directions=list(search.objectives.values()),
                    load_if_exists=True,
                )
        except Exception as error:  # SQLAlchemy's, the drivers' and Optuna's many classes
            reason = without_password(str(error).splitlines()[0])
            raise StoreError(f"{without_password(store.optuna_url)} cannot be opened: {reason}") from error
        if search.prune_on:
            self.study.pruner = optuna.pruners.MedianPruner(len(search.fixed) + 2, search.prune_after)
        else:
            self.study.pruner = optuna.pruners.NopPruner()

    def run(self, objective: Objective, label: str) -> list[Result]:
        done = self._done()
        with Progress(label, len(self.search.slots), len(done)) as progress:
            told = {attempt.number for attempt in done.values()}
            looked = 0.0

            def look() -> int:
                """Tell of what has come to its end since the last look, here or elsewhere; how many trials that is."""
                nonlocal looked
                looked = time.monotonic()
                found = self._done()
                for attempt in sorted(found.values(), key=lambda attempt: attempt.number):
                    if attempt.number not in told:
                        told.add(attempt.number)
                        progress.finished(len(found), _line(attempt), self._best(found))
                return len(found)

            def tell_epoch(number: int, epoch: int, metrics: Mapping[str, float]) -> None:
                progress.epoch(number, epoch, metrics)
                if time.monotonic() - looked > GLANCE:
                    look()

            while look() < len(self.search.slots):
                trial = self._claim()
                if trial is not None:
                    self._attempt(trial, objective, tell_epoch)
                else:
                    progress.doing("waiting for trials of other processes, or for them to count as dead")
                    time.sleep(1)
        with self.store.lock(self.name):
            self._settle()
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not trials:
            reasons = sorted({_outcome(attempt) for attempt in self._done().values()})
            raise StoreError(f"no trial of {self.name} is complete: {'; '.join(reasons)}")
        return [Result(t.number, dict(t.params), tuple(t.values), t.user_attrs[RUN_ID]) for t in trials]

    # --- What the database says --------------------------------------------------------------------------

    def _attempts(self) -> dict[str, list[FrozenTrial]]:
        """The attempts at each slot that is asked for, the latest last."""
        attempts: dict[str, list[FrozenTrial]] = {slot: [] for slot in self.search.slots}
        nameless = 0
        for trial in self.study.get_trials(deepcopy=False):
            slot = trial.user_attrs.get(SLOT)
            if slot is None:  # of a store that was made before there were slots
                slot = _name(trial.params)
                if slot not in attempts and _is_done(trial):
                    slot, nameless = f"free {nameless}", nameless + 1
            if slot in attempts:
                attempts[slot].append(trial)
        return attempts

    def _done(self) -> dict[str, FrozenTrial]:
        """The attempt that decided each slot that has been decided."""
        decided = {slot: _deciding(attempts) for slot, attempts in self._attempts().items()}
        return {slot: attempt for slot, attempt in decided.items() if attempt is not None}

    def _best(self, done: Mapping[str, FrozenTrial]) -> str:
        values = [attempt.values for attempt in done.values() if attempt.state == TrialState.COMPLETE]
        if not values or len(self.search.objectives) > 1:
            return ""
        ((metric, direction),) = self.search.objectives.items()
        best = (min if direction == "minimize" else max)(value[0] for value in values)
        return f"(best {short({metric: best})})"

    # --- What changes it, always under the study's lock -------------------------------------------------------

    def _claim(self) -> optuna.Trial | None:
        """Take an open slot; None if other processes have all that are left."""
        with self.store.lock(self.name):
            optuna.storages.fail_stale_trials(self.study)
            for attempt in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                if WORKER not in attempt.user_attrs:  # its process died right here, or it is an older version's
                    with suppress(optuna.exceptions.UpdateFinishedTrialError):
                        self.storage.set_trial_state_values(attempt._trial_id, TrialState.FAIL)
            for slot, attempts in self._attempts().items():
                if _deciding(attempts) is not None or any(not attempt.state.is_finished() for attempt in attempts):
                    continue
                params = dict(self.search.slots[slot])
                for attempt in attempts:  # each may have died before it had all of them
                    params |= attempt.params
                self.study.enqueue_trial(params, user_attrs={SLOT: slot})
                self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
                trial = self.study.ask()
                self.storage.record_heartbeat(trial._trial_id)
                trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
                return trial
        return None

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """One of its own for each trial: what is proposed depends on the trials before, not on the process.

        Trials that other processes have under way count as bad ones, so that it keeps away from them.
        """
        startup = len(self.search.fixed) + 4
        return optuna.samplers.TPESampler(n_startup_trials=startup, seed=self.seed + seed, constant_liar=True)

    def _bury(self, _study: optuna.Study, attempt: FrozenTrial) -> None:
        end_killed(self.parent, self._tags(attempt.number))

    def _settle(self) -> None:
        """Put right what processes that died have left of the MLflow runs."""
        trials = self.study.get_trials(deepcopy=False)
        outcomes = {t.user_attrs[RUN_ID]: STATUS[t.state] for t in trials if RUN_ID in t.user_attrs and _is_done(t)}
        settle(self.parent, {"optuna.study": self.name}, outcomes)

    def _finish(self, trial: optuna.Trial, outcome: str, reason: str, values: tuple[float, ...] | None = None) -> None:
        """Commit what became of an attempt; its run ends right after."""
        state = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED}.get(outcome, TrialState.FAIL)
        with self.store.lock(self.name):
            trial.set_user_attr(REASON, reason)
            trial.set_user_attr(OUTCOME, outcome)
            self.study.tell(trial, values, state)

    # --- One attempt ----------------------------------------------------------------------------------------

    def _tags(self, number: int) -> dict[str, Any]:
        return {"optuna.study": self.name, "optuna.trial": number}

    def _attempt(
        self, trial: optuna.Trial, objective: Objective, tell_epoch: Callable[[int, int, Mapping[str, float]], None]
    ) -> None:
        try:
            with _beating(self.storage, trial._trial_id), store_errors():
                params = {name: _suggest(trial, name, space) for name, space in self.search.space.items()}
                tags = self._tags(trial.number) | {"optuna.state": "RUNNING"}
                with trial_run(self.parent, f"trial {trial.number}", params, tags) as run:
                    trial.set_user_attr(RUN_ID, run.run_id)
                    seen = Trial(
                        trial.number, params, run, trial, self.search.prune_on, partial(tell_epoch, trial.number)
                    )
                    self._decide(trial, seen, objective)
        except _BrokenDown:
            pass  # It is told to Optuna and MLflow; the study goes on.
        except _Superseded:
            log.warning("trial %d was silent for so long that another process has taken it over", trial.number)

    def _decide(self, trial: optuna.Trial, seen: Trial, objective: Objective) -> None:
        """Train, and commit the outcome while the run is still open: its status then follows."""

        def finish(outcome: str, reason: str, values: tuple[float, ...] | None = None) -> None:
            seen.run.set_tags({"optuna.state": outcome, "reason": reason})
            self._finish(trial, outcome, reason, values)

        try:
            try:
                with store_errors():
                    values = objective(seen)
                named = dict(zip(self.search.objectives, values, strict=True))
                for metric, value in named.items():
                    if not math.isfinite(value):
                        raise FloatingPointError(f"{metric} is {value}")
                finish("COMPLETE", short(named), values)
            except Pruned as error:
                finish("PRUNED", str(error))
            except BREAKDOWNS as error:
                log.debug("trial %d", trial.number, exc_info=True)
                finish("FAIL", str(error))
                raise _BrokenDown from error
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise _Superseded from error
        except _BrokenDown:
            raise
        except BaseException as error:
            with suppress(Exception):  # The store may be what failed; the error itself is told.
                finish("STOPPED", str(error) if isinstance(error, StoreError) else type(error).__name__)
            raise


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case IntDistribution(low=low, high=high):
            return trial.suggest_int(name, low, high)
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{name}: {distribution}")


class _BrokenDown(Exception):
    """The trial's outcome is that it failed: so does its run."""


class _Superseded(BaseException):
    """The trial counts as dead, and another process has its slot: its run ends as KILLED."""


class _Storage(RDBStorage):
    """Optuna's storage, whose heart does not stop for good when the database is away for a while."""

    def record_heartbeat(self, trial_id: int) -> None:
        try:
            super().record_heartbeat(trial_id)
        except optuna.exceptions.StorageInternalError:
            log.debug("no heartbeat of trial %s", trial_id, exc_info=True)


@contextmanager
def _beating(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Tell the database every few seconds that this trial's process lives."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            storage.record_heartbeat(trial_id)
        storage.remove_session()

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join(1)  # not for as long as a database is away


def _name(params: Params) -> str:
    return json.dumps(params, sort_keys=True)


def _is_done(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get(OUTCOME) == "FAIL"  # and not STOPPED, or dead without a word
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_dead(trial: FrozenTrial) -> bool:
    """Its process died: it may have got as far as naming an outcome, but not to committing it."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(OUTCOME) not in ("FAIL", "STOPPED")


def _deciding(attempts: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The attempt that decides a slot: the one that came to an end, or the last that may die."""
    dead = [attempt for attempt in attempts if attempt.user_attrs.get(WORKER) and _is_dead(attempt)]
    return next(filter(_is_done, attempts), dead[-1] if len(dead) > RETRIES else None)


def _outcome(attempt: FrozenTrial) -> str:
    """What became of a trial that has come to its end."""
    if _is_dead(attempt):
        return f"given up, since its process died {1 + RETRIES} times"
    return f"{attempt.user_attrs[OUTCOME].lower()} {attempt.user_attrs[REASON]}".rstrip()


def _line(attempt: FrozenTrial) -> str:
    seconds = f", {attempt.duration.total_seconds():.0f} s" if attempt.duration else ""
    return f"trial {attempt.number} {_outcome(attempt)} ({short(attempt.params)}){seconds}"
