"""Fakes at the seams: what a stage's objective sees of a trial, without a store, MLflow or Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from study.results import Result, Table


@dataclass
class FakeTrial:
    """Records all that an objective reports."""

    params: dict[str, Any] = field(default_factory=dict)
    part: str = ""
    number: int = 0
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # the last value of each
    logged_params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    images: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)  # by name: steps and arrays
    figures: dict[str, Any] = field(default_factory=dict)
    models: list[tuple[Any, Any, dict[str, Any]]] = field(default_factory=list)  # module, example, config
    tables: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.log(metrics, epoch)
        for name, value in metrics.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(float(value))

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

    def log_table(self, name: str, columns: Mapping[str, Any]) -> None:
        self.tables[name] = columns

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.tags |= {name: str(value) for name, value in tags.items()}


FakeRun = FakeTrial  # records what a stage logs on the parent run of its study


@dataclass
class FakeStudy:
    """Runs lists at once with fake trials (by run id), searches of `proposals`, without a queue, store or Optuna."""

    context: Any
    proposals: list[dict[str, Any]] = field(default_factory=list)
    parent: FakeRun = field(default_factory=FakeRun)
    results: list[Any] = field(default_factory=list)
    trials: dict[str, FakeTrial] = field(default_factory=dict)
    candidates: dict[str, Any] = field(default_factory=dict)

    def run(self, trials: Any, objective: Any, part: str = "", **_: Any) -> list[Any]:
        results = []
        for number, params in enumerate(trials):
            run_id = f"{part} {number}"
            self.trials[run_id] = trial = FakeTrial(dict(params), part, number)
            torch.manual_seed(self.context.seed_for(params.get("repeat", 0)))
            results.append(Result(number, part, str(number), dict(params), objective(trial), run_id))
        self.results += results
        return results

    def enqueue(self, *args: Any, **kwargs: Any) -> Any:
        return lambda: self.run(*args, **kwargs)

    def search(self, search: Any, objective: Any, part: str = "") -> list[Any]:
        return self.run(self.proposals[: search.trials], objective, part)

    def table(self) -> Any:
        return Table([replace(each, metrics=self.trials[each.run_id].metrics) for each in self.results])

    def pruned(self, part: str = "") -> list[Any]:
        return []

    def importances(self, part: str = "") -> dict[str, float]:
        return {"learning_rate": 0.7, "width": 0.3}

    def close(self, candidates: Any, finish: Any) -> Any:
        """Return the rows."""
        self.candidates = dict(candidates)
        return finish({})
