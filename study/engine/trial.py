"""What an objective sees of its trial: parameters, a way to report, and a run to log to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.engine.search import Params, Pruned
from tracking.models import log_model

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from tracking.runs import Run


@dataclass
class Trial:
    """A trial under way.

    Attributes:
        number: Its place in its part of the study.
        prunable: Whether Optuna proposed it; given trials are compared with others and run to their end.
        history: By metric, the epochs and values that were reported.
    """

    number: int
    part: str
    params: Params
    prunable: bool
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    _run: Run | None = None
    _facts: Mapping[str, Any] = field(default_factory=dict)  # of the models that it logs
    _proposed: optuna.Trial | None = None
    _prune_on: str = ""
    _show: Callable[[int, int, Mapping[str, float]], None] = lambda *_: None

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
        self._show(self.number, epoch, metrics)
        if self._proposed is not None and self._prune_on in metrics and math.isfinite(metrics[self._prune_on]):
            self._proposed.report(metrics[self._prune_on], epoch)
            if self._proposed.should_prune():
                raise Pruned(f"{self._prune_on} {metrics[self._prune_on]:.4g} at epoch {epoch} is behind other trials")

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics in one call."""
        self._open.log(metrics, step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings beside the trial's own parameters."""
        self._open.log_params(params)

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log an image, uint8 [H, W] or [H, W, 3], for the step slider of MLflow."""
        self._open.log_image(name, image, step)

    def log_figure(self, name: str, figure: Figure, caption: str = "") -> None:
        """Log a figure as `figures/<name>.png`."""
        self._open.log_figure(name, figure, caption)

    def log_model(self, module: nn.Module, example: Tensor, config: Mapping[str, Any]) -> None:
        """Log the module; `config["module"]` are its constructor's arguments, `example` inputs [N, ...] with N >= 2."""
        log_model(self._open, module, example, config, self._facts)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""
        self._open.set_tags(tags)

    @property
    def _open(self) -> Run:
        assert self._run is not None, "the trial has no run"
        return self._run
