"""A search: parameters and their ranges, proposed by Optuna's sampler, judged as they run by Optuna's pruner."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState

from study.engine.queue import COMPLETE, PRUNED, QueuedTrial, key_of, opening
from study.results import Result
from tracking.registry import Direction
from tracking.runs import Run
from tracking.views import page_of

if TYPE_CHECKING:
    from tracking.store import Store

STARTUP = 8  # random trials, at most a third, before the sampler learns from what it has seen
PROPOSALS = 20  # for a trial, until one is new
RUN_ID, PAGE, SAMPLER, KEY = "mlflow.run_id", "mlflow.page", "sampler", "key"  # user attributes of Optuna's trials
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)
Params = dict[str, Any]
Distribution = BaseDistribution
Space = Mapping[str, Distribution]


integer, uniform = IntDistribution, FloatDistribution  # by `low` and `high`, both ends included


def log_uniform(low: float, high: float) -> Distribution:
    """Return a range of positive numbers, every order of magnitude as likely as the next."""
    return FloatDistribution(low, high, log=True)


def choice(*values: Any) -> Distribution:
    """Return a choice between these values."""
    return CategoricalDistribution(values)


class Pruned(Exception):
    """A trial was stopped early; the message says why."""


@dataclass(frozen=True)
class Search:
    """Trials whose parameters Optuna proposes.

    Attributes:
        objectives: The metrics that decide, each with "minimize" or "maximize".
        space: The parameters and their ranges.
        trials: How many.
        prune_on: The metric by which hopeless trials are stopped early, at the epochs at which it is reported, the
            first of which is not before 2; None: none is.
        sampler: "tpe", or "random" for a comparison.
        optional: Whether the stage can go on if no trial is complete.
    """

    objectives: Mapping[str, Direction]
    space: Space
    trials: int
    prune_on: str | None = None
    sampler: str = "tpe"
    optional: bool = False

    @property
    def fingerprint(self) -> str:
        """The space as text: Optuna keeps one space a study. Trials of another sampler are others too."""
        space = {name: distribution_to_json(each) for name, each in self.space.items()}
        return json.dumps(space if self.sampler == "tpe" else [self.sampler, space])


class Proposals:
    """Optuna's study of a search, in the database of the store. The queue says which process runs which trial.

    Args:
        name: That of Optuna's study.
        parent: The run that programs which show the study lead to.

    Raises:
        StoreError: The database cannot be opened.
    """

    def __init__(self, name: str, search: Search, store: Store, seed: int, parent: Run) -> None:
        self._name, self._search, self._locks, self._seed = name, search, store.locks, seed
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.prune_on:
            # After 2, 4, 8, ... epochs, the better half of those that came so far goes on (Li et al. 2020,
            # https://arxiv.org/abs/1810.05934).
            pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
        url = store.optuna_url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
        with opening(store):
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=store.locks.engine_options())
            self._study = optuna.create_study(
                study_name=name,
                storage=self._storage,
                pruner=pruner,
                directions=list(search.objectives.values()),
                load_if_exists=True,
            )
            if self._study.metric_names is None:
                self._study.set_metric_names(list(search.objectives))
            self.show(self._study, parent)

    def ask(self, trial: QueuedTrial) -> optuna.Trial:
        """Return a new trial of Optuna's: with the queued trial's parameters if it was taken before, else new ones."""
        with self._locks.hold(self._name):  # each proposal knows of all others
            before = self._study.get_trials(deepcopy=False)
            for each in before:
                if each.user_attrs.get(KEY) == trial.key and not each.state.is_finished():  # its process died
                    self._study.tell(each.number, state=TrialState.FAIL)
            seen = {key_of(each.params) for each in self._study.get_trials(deepcopy=False)}
            startup = min(STARTUP, self._search.trials // 3)
            for left in reversed(range(PROPOSALS)):
                number = len(self._study.get_trials(deepcopy=False)) + 1
                # A sampler for each trial: what it proposes depends on the trials before, not on the process.
                random = self._search.sampler == "random" or number <= startup
                seed = self._seed + number
                sampler: Any = (
                    optuna.samplers.RandomSampler(seed)
                    if random
                    else optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)
                )
                if trial.params:
                    sampler = optuna.samplers.PartialFixedSampler(trial.params, sampler)
                self._study.sampler = sampler
                found = self._study.ask(dict(self._search.space))
                if not left or trial.params or key_of(found.params) not in seen:
                    break
                self._study.tell(found, state=TrialState.FAIL)
            found.set_user_attr(KEY, trial.key)
            found.set_user_attr(SAMPLER, "random" if random else "TPE")
            return found

    def tell(self, trial: optuna.Trial, state: str, values: Sequence[float]) -> None:
        """Say what became of a trial; a state that is neither complete nor pruned counts as failed."""
        told = list(values) if state == COMPLETE else None
        self._study.tell(trial, told, STATES.get(state, TrialState.FAIL), skip_if_finished=True)

    def show(self, shown: optuna.Trial | optuna.Study, run: Run) -> None:
        """Keep the way from a trial, or the study, to its run, for programs that show it."""
        shown.set_user_attr(RUN_ID, run.run_id)
        shown.set_user_attr(PAGE, page_of(run))

    def importances(self) -> dict[str, float]:
        """Return what fraction of the objective's variance each parameter explains, by Optuna's default evaluator
        (PED-ANOVA, Watanabe et al. 2023, https://arxiv.org/abs/2304.10255); largest first.

        Empty where there are too few complete trials to say: not more than parameters.
        """
        complete = self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        enough = complete and len(complete) > len(complete[0].params)
        return optuna.importance.get_param_importances(self._study) if enough else {}

    def close(self) -> None:
        """Let go of the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()


def pareto_front(results: Sequence[Result]) -> list[Result]:
    """Return the results that no other result beats in one objective without losing in another; all are minimised."""
    if not results:
        return []
    study = optuna.create_study(directions=["minimize"] * len(results[0].values))
    study.add_trials([optuna.create_trial(values=result.values) for result in results])
    return [results[trial.number] for trial in study.best_trials]
