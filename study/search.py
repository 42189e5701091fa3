"""Which trials a study runs, and how each is run: parameters from Optuna, a run in MLflow, an outcome in both.

A study is known by the fingerprint of all that decides its trials, so that the same command finds its finished
trials again and any other command starts a study of its own in the same store. slots.py says who runs which.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from study.progress import Progress, log, short
from study.slots import RUN_ID, Params, Slots, Superseded, is_done, load_study, outcome, slot_name
from tracking.registry import Direction
from tracking.runs import TRIAL, Run, end_killed, settle, trial_run
from tracking.store import Store, StoreError, store_errors

GLANCE = 2.0  # seconds between two looks at what other processes have finished
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}  # of the runs

BREAKDOWNS = (ArithmeticError, ValueError)  # what a trial's own numbers can bring about

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
        optional: Whether the stage can go on if none of the trials is complete.
    """

    objectives: Mapping[str, Direction]
    space: Space
    fixed: Sequence[Params]
    free: int = 0
    prune_on: str | None = None
    prune_after: int = 0
    optional: bool = False

    @property
    def slots(self) -> dict[str, Params]:
        """Every trial that is asked for, by name, and the parameters that are settled beforehand."""
        fixed = {slot_name(params): params for params in self.fixed}
        return fixed | {f"free {number}": {} for number in range(self.free)}


def study_name(dataset: str, stage: str, settings: Mapping[str, Any]) -> str:
    """The study's name, which ends in a fingerprint of the settings: those that decide what a trial computes."""
    content = json.dumps(settings, sort_keys=True, default=str)
    return f"{dataset}/{stage}/{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def run_search(
    name: str, search: Search, objective: Objective, store: Store, parent: Run, seed: int, label: str
) -> list[Result]:
    """Run what is missing of the study's trials, each as a nested run of `parent`; give the complete ones, each once.

    Other processes may run some of them. A trial whose training breaks down (a loss that is not finite, parameters that
    fit no data: see BREAKDOWNS) counts as failed with its reason, and the study goes on. One that was stopped, or whose
    process died, is tried again with the same parameters, the latter at most twice.

    Raises:
        StoreError: Optuna's database cannot be opened, or no trial is complete at the end of a search not optional.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = _Trials(name, search, store, parent, seed)
    try:
        return trials.run(objective, label)
    finally:
        trials.slots.close()


def pruned(name: str, store: Store) -> list[Result]:
    """The study's pruned trials, with the last value that each reported."""
    study = load_study(name, store)
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
    study = load_study(name, store)
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


class _Trials:
    """A study's trials, and how this process takes part in them."""

    def __init__(self, name: str, search: Search, store: Store, parent: Run, seed: int) -> None:
        self.name, self.search, self.store, self.parent = name, search, store, parent
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.prune_on:
            pruner = optuna.pruners.MedianPruner(len(search.fixed) + 2, search.prune_after)

        def sampler(attempts: int) -> optuna.samplers.BaseSampler:
            # One of its own for each trial: what it proposes depends on the trials before, not on the process. Trials
            # that other processes have under way count as bad ones, so that it keeps away from them.
            startup = len(search.fixed) + 4
            return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed + attempts, constant_liar=True)

        self.slots = Slots(name, search.slots, list(search.objectives.values()), store, pruner, sampler, end_killed)

    def run(self, objective: Objective, label: str) -> list[Result]:
        done = self.slots.decided()
        with Progress(label, len(self.search.slots), len(done)) as progress:
            told = {attempt.number for attempt in done.values()}
            looked = 0.0

            def look() -> int:
                """Tell of what has come to its end since the last look, here or elsewhere; how many trials that is."""
                nonlocal looked
                looked = time.monotonic()
                found = self.slots.decided()
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
                trial = self.slots.claim()
                if trial is not None:
                    self._attempt(trial, objective, tell_epoch)
                else:
                    progress.doing("waiting for trials of other processes, or for them to count as dead")
                    time.sleep(1)
        self._settle()
        decided = sorted(self.slots.decided().values(), key=lambda attempt: attempt.number)
        complete = [attempt for attempt in decided if attempt.state == TrialState.COMPLETE]
        if not complete and not self.search.optional:
            raise StoreError(f"no trial of {self.name} is complete: {'; '.join(sorted(set(map(outcome, decided))))}")
        # A free trial may hit on parameters that were tried before; the seed is the same, so the result counts once.
        first = {slot_name(attempt.params): attempt for attempt in reversed(complete)}
        return [
            Result(attempt.number, dict(attempt.params), tuple(attempt.values), attempt.user_attrs[RUN_ID])
            for attempt in sorted(first.values(), key=lambda attempt: attempt.number)
        ]

    def _settle(self) -> None:
        """Put right what processes that died have left of the MLflow runs."""
        with self.store.lock(self.name):
            attempts = self.slots.attempts()
            outcomes = {
                attempt.user_attrs[RUN_ID]: STATUS[attempt.state] if is_done(attempt) else "KILLED"
                for attempt in attempts
                if RUN_ID in attempt.user_attrs
            }
            under_way = {attempt.number for attempt in attempts if not attempt.state.is_finished()}
            settle(self.parent, {"optuna.study": self.name}, outcomes, under_way)

    def _best(self, done: Mapping[str, FrozenTrial]) -> str:
        values = [attempt.values for attempt in done.values() if attempt.state == TrialState.COMPLETE]
        if not values or len(self.search.objectives) > 1:
            return ""
        ((metric, direction),) = self.search.objectives.items()
        best = (min if direction == "minimize" else max)(value[0] for value in values)
        return f"(best {short({metric: best})})"

    def _attempt(
        self, trial: optuna.Trial, objective: Objective, tell_epoch: Callable[[int, int, Mapping[str, float]], None]
    ) -> None:
        run: Run | None = None
        try:
            with self.slots.beating(trial), store_errors():
                params = {name: _suggest(trial, name, space) for name, space in self.search.space.items()}
                tags = {"optuna.study": self.name, TRIAL: trial.number, "optuna.state": "RUNNING"}
                with trial_run(self.parent, f"trial {trial.number}", params, tags) as run:
                    prune_on, tell = self.search.prune_on, partial(tell_epoch, trial.number)
                    self._decide(trial, Trial(trial.number, params, run, trial, prune_on, tell), objective)
        except _BrokenDown:
            pass  # It is told to Optuna and MLflow; the study goes on.
        except (Superseded, optuna.exceptions.UpdateFinishedTrialError):
            log.warning("trial %d was silent for so long that another process has taken it over", trial.number)
        except BaseException as error:
            reason = str(error) if isinstance(error, StoreError) else type(error).__name__
            with suppress(Exception, Superseded):  # The store may be what failed; the error itself is told.
                self.slots.finish(trial, "STOPPED", reason)
                if run is not None:
                    run.set_tags({"optuna.state": "STOPPED", "reason": reason})
            raise

    def _decide(self, trial: optuna.Trial, seen: Trial, objective: Objective) -> None:
        """Train, and commit the outcome while the run is still open: its status then follows."""

        def finish(outcome: str, reason: str, values: tuple[float, ...] | None = None) -> None:
            seen.run.set_tags({"optuna.state": outcome, "reason": reason})
            self.slots.finish(trial, outcome, reason, values)

        try:
            trial.set_user_attr(RUN_ID, seen.run.run_id)
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
            raise Superseded from error


class _BrokenDown(Exception):
    """The trial's outcome is that it failed: so does its run."""


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case IntDistribution(low=low, high=high):
            return trial.suggest_int(name, low, high)
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{name}: {distribution}")


def _line(attempt: FrozenTrial) -> str:
    seconds = f", {attempt.duration.total_seconds():.0f} s" if attempt.duration else ""
    return f"trial {attempt.number} {outcome(attempt)} ({short(attempt.params)}){seconds}"
