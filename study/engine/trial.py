"""What an objective sees of its trial: its run in MLflow to log to, parameters, and a way to report; and how parameters
are written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.engine.search import Params, Pruned
from tracking.models import log_model
from tracking.runs import REPEAT, Inputs, Run, of_model

if TYPE_CHECKING:
    import optuna
    from torch import Tensor, nn

ABBREVIATIONS = {REPEAT: "seed", "learning_rate": "lr", "batch_size": "batch", "clip_value": "clip"}
ABBREVIATIONS |= {"noise_dim": "noise", "ema_decay": "EMA"}


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


def word(name: str, value: Any, *, exact: bool = False) -> str:
    """Return a parameter as people write it: "lr 5e-4", "WGAN", "depth 3"; of numbers two or three digits."""
    text = str(value)
    if isinstance(value, float) and not exact:
        text = re.sub(r"[.]?0*e-0?", "e-", f"{value:.1e}") if 0 < abs(value) < 0.01 else f"{value:.3g}"
    return text if isinstance(value, str) else f"{ABBREVIATIONS.get(name, name)} {text}"


def short(values: Mapping[str, Any]) -> str:
    """Numbers by name in a few characters each."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
