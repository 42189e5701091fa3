"""What a study searches: parameters and their ranges, fixed and free trials, and what an objective sees of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

from study.engine.slots import Params, slot_name
from tracking.registry import Direction
from tracking.runs import Inputs, Run
from tracking.stored import log_model

Distribution = BaseDistribution
Space = Mapping[str, Distribution]


def integer(low: int, high: int) -> Distribution:
    """Whole numbers, both ends included."""
    return IntDistribution(low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """Positive numbers, every order of magnitude as likely as the next."""
    return FloatDistribution(low, high, log=True)


def uniform(low: float, high: float) -> Distribution:
    """Numbers, both ends included."""
    return FloatDistribution(low, high)


def choice(*values: Any) -> Distribution:
    """One of these values."""
    return CategoricalDistribution(values)


class Pruned(Exception):
    """A trial was stopped early; the message says why."""


@dataclass(frozen=True)
class Result:
    """A trial that ran to its end.

    Attributes:
        slot: The fixed trial's name, or "free 0", "free 1", ...
        values: One of each objective.
    """

    number: int
    slot: str
    params: Params
    values: tuple[float, ...]
    run_id: str


@dataclass
class Trial:
    """What an objective sees of its trial: its name and parameters, its run, and a way to report."""

    number: int
    slot: str  # the fixed trial's name, or "free 0", "free 1", ...
    params: Params
    run: Run
    prunable: bool  # fixed trials are what the others are compared with: they run to their end
    _optuna: optuna.Trial
    _prune_on: str | None
    _epoch: Callable[[int, Mapping[str, float]], None]  # called with every report
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the models that it logs
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)  # metric: epochs, values

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch in one call.

        Raises:
            Pruned: The trial may be pruned, the metric that decides is among them, and hopeless.
        """
        self.run.log(metrics, step=epoch)
        for name, value in metrics.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(value)
        self._epoch(epoch, metrics)
        if self._prune_on is not None and self._prune_on in metrics:
            self._optuna.report(metrics[self._prune_on], epoch)
            if self.prunable and self._optuna.should_prune():
                raise Pruned(f"{self._prune_on} above the median of the others at epoch {epoch}")

    def log_model(self, module: nn.Module, example: Tensor, config: Mapping[str, Any]) -> None:
        """Log the module with the trial's run; `config["module"]` are its constructor's arguments."""
        log_model(module, example, config, self.facts)


Objective = Callable[[Trial], tuple[float, ...]]


@dataclass(frozen=True)
class Search:
    """The trials of a study.

    Attributes:
        objectives: The metrics that decide, each with "minimize" or "maximize".
        space: The parameters and their ranges.
        fixed: Parameters of the trials that run first, by name (see `named`); all of them keys of `space`.
        free: Number of trials that Optuna picks after those.
        prune_on: The reported metric by which hopeless free trials are stopped early; None: none is.
        prune_after: Epochs that every trial gets.
        optional: Whether the stage can go on if none of the trials is complete.
    """

    objectives: Mapping[str, Direction]
    space: Space
    fixed: Mapping[str, Params] = field(default_factory=dict)
    free: int = 0
    prune_on: str | None = None
    prune_after: int = 0
    optional: bool = False

    @property
    def slots(self) -> dict[str, Params]:
        """Every trial that is asked for, by name, and the parameters that are given beforehand."""
        return {**self.fixed, **{f"free {number}": {} for number in range(self.free)}}


@dataclass(frozen=True)
class Origin:
    """What the run of every trial of a search says of where it comes from.

    Attributes:
        title: What it is called, before the trial's number.
        tags: Its tags.
        inputs: Data and models that it is made from.
        code: A digest of the code that runs: errors of other code do not count.
    """

    title: str = "trial"
    tags: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
    code: str = ""


def named(trials: Sequence[Params]) -> dict[str, Params]:
    """Fixed trials, each named by its parameters."""
    return {slot_name(params): params for params in trials}


def pareto_front(results: Sequence[Result]) -> list[Result]:
    """Those of which no other is at least as good in all objectives and better in one; all are minimised."""
    if not results:
        return []
    study = optuna.create_study(directions=["minimize"] * len(results[0].values))
    study.add_trials([optuna.create_trial(values=result.values) for result in results])
    return [results[trial.number] for trial in study.best_trials]
