"""What an objective sees of its trial: its run in MLflow to log to, parameters, and a way to report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.engine.search import Params, Pruned
from tracking.models import log_model
from tracking.runs import Inputs, Run, of_model

if TYPE_CHECKING:
    import optuna
    from torch import Tensor, nn


@dataclass(frozen=True)
class Trial(Run):
    """A trial under way.

    Attributes:
        number: Its place in its part of the study.
        history: By metric, the epochs and values that were reported.
    """

    number: int
    part: str
    params: Params
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    _facts: Mapping[str, Any] = field(default_factory=dict)  # of the models that it logs
    _proposed: optuna.Trial | None = None  # None: given trials are compared with others and run to their end
    _prune_on: str | None = None
    _show: Callable[[Trial, int, Mapping[str, float]], None] = lambda *_: None
    _last: dict[str, Any] = field(default_factory=dict)  # of each metric, what the run shows as its value
    _models: list[str] = field(default_factory=list)  # ids of the models that it has logged

    def log(self, metrics: Mapping[str, float], step: int = 0) -> list[Any]:
        """Log all metrics of one step in one call."""
        logged = super().log(metrics, step)
        self._last.update({each.key: each for each in logged if step >= getattr(self._last.get(each.key), "step", 0)})
        return logged

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch in one call.

        Raises:
            Pruned: The metric that decides is among them, and hopeless.
        """
        self.log(metrics, epoch)
        for name, value in metrics.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(float(value))
        self._show(self, epoch, metrics)
        deciding = metrics.get(self._prune_on or "", math.nan)
        if self._proposed is not None and math.isfinite(deciding):
            self._proposed.report(deciding, epoch)
            if self._proposed.should_prune():
                raise Pruned(f"{self._prune_on} {deciding:.4g} at epoch {epoch} is behind other trials")

    def log_model(self, module: nn.Module, example: Tensor, config: Mapping[str, Any]) -> None:
        """Log the module; `config["module"]` are its constructor's arguments, `example` inputs [N, ...] with N >= 2."""
        self._models.append(log_model(self, module, example, config, self._facts))

    def finish(self, tags: Mapping[str, Any], inputs: Inputs | None) -> None:
        """Say by tags how the trial ended; in the same call its model gets the last value of each metric."""
        self.set_tags(tags, of_model(self._models[-1], self._last.values(), inputs) if self._models else ())
