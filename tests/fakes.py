"""Fakes at the seams: what a stage's objective sees of a trial, without a store, MLflow or Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeTrial:
    """Records all that an objective reports; `prune_at` makes `report` raise `Pruned` at that epoch."""

    params: dict[str, Any] = field(default_factory=dict)
    part: str = ""
    number: int = 0
    prunable: bool = False
    prune_at: int | None = None
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # the last value of each
    logged_params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    images: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)  # by name: steps and arrays
    figures: dict[str, Any] = field(default_factory=dict)
    models: list[tuple[Any, Any, dict[str, Any]]] = field(default_factory=list)  # module, example, config

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.log(metrics, epoch)
        for name, value in metrics.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(float(value))
        if self.prune_at is not None and epoch >= self.prune_at:
            from study.engine.search import Pruned

            raise Pruned("as the test asked")

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.metrics |= {name: float(value) for name, value in metrics.items()}

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.logged_params |= params

    def log_image(self, name: str, image: Any, step: int) -> None:
        self.images.setdefault(name, []).append((step, image))

    def log_figure(self, name: str, figure: Any, caption: str = "") -> None:
        self.figures[name] = figure

    def log_model(self, module: Any, example: Any, config: Mapping[str, Any]) -> None:
        self.models.append((module, example, dict(config)))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.tags |= {name: str(value) for name, value in tags.items()}
