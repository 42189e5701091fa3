"""Optuna: which trials a study runs, in what order, and what became of each. The only importer of optuna.

A study is known by the fingerprint of all that decides its trials, so that the same command finds its finished
trials again and any other command starts a study of its own in the same store.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from tracking.registry import Direction
from tracking.runs import Run, end_killed, trial_run
from tracking.store import Store, StoreError, without_password

HEARTBEAT = 5  # seconds
GRACE = 20  # seconds without a heartbeat, after which a trial counts as dead
RETRIES = 2
OUTCOME, REASON, RUN_ID = "outcome", "reason", "mlflow.run_id"  # user attributes of a trial

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

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
    _bar: tqdm[Any]
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
        self._bar.set_postfix_str(f"trial {self.number} epoch {epoch} {_short(metrics)}", refresh=False)
        self._bar.update(0)
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


def study_name(dataset: str, stage: str, settings: Mapping[str, Any]) -> str:
    """The study's name, which ends in a fingerprint of the settings: those that decide what a trial computes."""
    content = json.dumps(settings, sort_keys=True, default=str)
    return f"{dataset}/{stage}/{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def run_search(
    name: str, search: Search, objective: Objective, store: Store, parent: Run, seed: int, label: str
) -> list[Result]:
    """Run what is missing of the study's trials, each as a nested run of `parent`; give all complete ones.

    A trial whose training breaks down (FloatingPointError) counts as failed with its reason, and the study goes
    on. One that was stopped, or whose process died, is tried again with the same parameters.

    Raises:
        StoreError: Optuna's database cannot be opened, or no trial is complete at the end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open(name, search, store, seed)
    total = len(search.fixed) + search.free
    with tqdm(total=total, desc=label, unit="trial", disable=None, dynamic_ncols=True, leave=False) as bar:
        run_one = _objective(search, objective, parent, label, bar)
        while True:
            optuna.storages.fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False)
            done = [trial for trial in trials if _is_done(trial)]
            under_way = [trial for trial in trials if trial.state == TrialState.RUNNING]
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            bar.n = len(done)
            bar.refresh()
            if len(done) >= total and not _missing(search.fixed, done):
                break
            missing = _missing(search.fixed, [*done, *under_way, *waiting])
            for params in missing:
                study.enqueue_trial(params)
            if missing or waiting or len(done) + len(under_way) < total:
                study.optimize(run_one, n_trials=1, catch=(FloatingPointError,))
            else:
                time.sleep(1)  # the last trials are another process's
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = sorted({trial.user_attrs.get(REASON) or "pruned" for trial in done})
        raise StoreError(f"no trial of {name} is complete: {'; '.join(reasons)}")
    return [Result(t.number, dict(t.params), tuple(t.values), t.user_attrs[RUN_ID]) for t in complete]


def pruned(name: str, store: Store) -> list[Result]:
    """The study's pruned trials, with the last value that each reported."""
    study = optuna.load_study(study_name=name, storage=store.optuna_url)
    found = study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
    return [
        Result(t.number, dict(t.params), (t.intermediate_values[t.last_step],), t.user_attrs[RUN_ID])
        for t in found
        if t.last_step is not None
    ]


def importances(name: str, store: Store) -> dict[str, float]:
    """What share of the objective's variance each parameter explains (fANOVA, Hutter et al. 2014); largest first.

    Empty where there are too few complete trials to say: fewer than two a parameter.
    """
    study = optuna.load_study(study_name=name, storage=store.optuna_url)
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete or len(complete) < 2 * len(complete[0].params):
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


def _open(name: str, search: Search, store: Store, seed: int) -> optuna.Study:
    try:
        with store.opening():
            storage = optuna.storages.RDBStorage(
                store.optuna_url,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=_retry_dead,
            )
        study = optuna.create_study(
            study_name=name, storage=storage, directions=list(search.objectives.values()), load_if_exists=True
        )
    except Exception as error:  # SQLAlchemy's and the drivers' many classes, all of which mean the same here
        reason = str(error).splitlines()[0]
        raise StoreError(f"{without_password(store.optuna_url)} cannot be opened: {reason}") from error
    # A sampler that starts from the same seed again would propose the same first points again.
    known = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=len(search.fixed) + 4, seed=seed + known)
    study.pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=len(search.fixed) + 2, n_warmup_steps=search.prune_after)
        if search.prune_on
        else optuna.pruners.NopPruner()
    )
    return study


def _objective(
    search: Search, objective: Objective, parent: Run, label: str, bar: tqdm[Any]
) -> Callable[[optuna.Trial], tuple[float, ...]]:
    def run_one(trial: optuna.Trial) -> tuple[float, ...]:
        params = {name: _suggest(trial, name, distribution) for name, distribution in search.space.items()}
        tags = {
            "optuna.study": trial.study.study_name,
            "optuna.trial": trial.number,
            "optuna.state": "RUNNING",
        }
        with trial_run(parent, f"trial {trial.number}", params, tags) as run:
            trial.set_user_attr(RUN_ID, run.run_id)
            outcome, reason = "COMPLETE", ""
            began = time.monotonic()
            try:
                values = objective(Trial(trial.number, params, run, trial, search.prune_on, bar))
                reason = _short(dict(zip(search.objectives, values, strict=True)))
                return values
            except Pruned as error:
                outcome, reason = "PRUNED", str(error)
            except FloatingPointError as error:
                outcome, reason = "FAIL", str(error)
                raise
            except BaseException as error:
                outcome, reason = "STOPPED", type(error).__name__
                trial.study.enqueue_trial(params)
                raise
            finally:
                trial.set_user_attr(OUTCOME, outcome)
                trial.set_user_attr(REASON, reason)
                run.set_tags({"optuna.state": outcome, "reason": reason})
                line = f"{label}: trial {trial.number} {outcome.lower()} {reason} ({_short(params)})"
                bar.write(f"{line}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        raise optuna.TrialPruned  # outside of its run, which ended as it should: FINISHED

    return run_one


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case IntDistribution(low=low, high=high):
            return trial.suggest_int(name, low, high)
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{name}: {distribution}")


def _is_done(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get(OUTCOME) == "FAIL"  # and not STOPPED, or dead without a word
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _missing(fixed: Sequence[Params], trials: Sequence[FrozenTrial]) -> list[Params]:
    taken = [trial.params or trial.system_attrs.get("fixed_params", {}) for trial in trials]
    return [params for params in fixed if params not in taken]


def _retry_dead(study: optuna.Study, trial: FrozenTrial) -> None:
    if RUN_ID in trial.user_attrs:
        end_killed(trial.user_attrs[RUN_ID])
    optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


def _short(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
