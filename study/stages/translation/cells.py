"""The trainings of the translation stage by what they were trained on, and their figures."""

from __future__ import annotations

from collections.abc import Sequence

from study.engine.search import Result
from study.engine.table import with_spread
from study.stages.translation.recipes import OBJECTIVE, level_of
from study.stages.translation.trial import IDENTITY
from study.stages.translation.verdicts import GOAL, steps_to
from study.training.translation_settings import MATRIX, METHODS, Method, Pairing, Task
from tracking.runs import Measured, metric_history

KEPT = ("sample/kept", "second/kept")  # by both judges


class Cells:
    """Figures of the trainings of a study, one of each repeat, and of the floor and the ceiling."""

    def __init__(self, results: Sequence[Result], baselines: Sequence[Result], measured: Measured) -> None:
        self.results, self.baselines, self.measured = results, baselines, measured
        self.tasks: list[Task] = list(dict.fromkeys(result.params["task"] for result in results))

    def runs(self, task: Task, method: Method, pairing: Pairing, level: int | None = None) -> list[Result]:
        """The repeats of a training in their order; the level of None is the matrix's."""
        wanted = (task, method, pairing, level_of(pairing) if level is None else level)
        keys = ("task", "method", "pairing", "level")
        found = [each for each in self.results if tuple(each.params[key] for key in keys) == wanted]
        return sorted(found, key=lambda each: each.params["repeat"])

    def values(
        self, task: Task, method: Method, pairing: Pairing, measure: str, *, level: int | None = None
    ) -> list[float]:
        runs = [self.measured[each.run_id] for each in self.runs(task, method, pairing, level)]
        return [run[measure] for run in runs if measure in run]

    def cell(self, task: Task, method: Method, pairing: Pairing, measure: str, form: str = "{:.3f}") -> str:
        """Mean ± standard deviation of the repeats."""
        values = self.values(task, method, pairing, measure)
        return with_spread(values, form) if values else "failed"

    def matrix(self, task: Task, method: Method, measure: str, form: str = "{:.3f}") -> str:
        """The cells of the reference's pairings in a row."""
        return ", ".join(f"{pairing} {self.cell(task, method, pairing, measure, form)}" for pairing in MATRIX)

    def baseline(self, task: Task, source: str) -> Result | None:
        """The floor's or the ceiling's trial; None: it failed."""
        wanted = {"source": source, "task": task}
        return next((each for each in self.baselines if each.params == wanted), None)

    def baseline_value(self, task: Task, source: str, measure: str) -> float:
        """NaN: it failed, or has no such measure."""
        found = self.baseline(task, source)
        return self.measured[found.run_id].get(measure, float("nan")) if found else float("nan")

    def steps(self, task: Task, method: Method, pairing: Pairing) -> list[float]:
        """Of each repeat the steps to the goal, `GOAL` of the untranslated input's validation error."""
        goal = GOAL * self.baseline_value(task, IDENTITY, OBJECTIVE)
        return [steps_to(goal, *self.curve(each)) for each in self.runs(task, method, pairing)]

    def curve(self, result: Result) -> tuple[list[float], list[float]]:
        """Steps and validation errors of a training."""
        return tuple(metric_history(result.run_id, name)[1] for name in ("generator/steps", OBJECTIVE))  # type: ignore[return-value]

    def columns(self, task: Task) -> list[tuple[Pairing, int]]:
        """The pairings of a task with their levels, in the order of the trainings."""
        found = [each.params for each in self.results if each.params["task"] == task]
        return list(dict.fromkeys((each["pairing"], each["level"]) for each in found))

    def levels(self, task: Task) -> list[int]:
        """The levels of misalignment that were trained on, rising; 0: exactly paired."""
        return sorted({level for pairing, level in self.columns(task) if pairing in ("paired", "loosely paired")})

    def methods(self, task: Task) -> list[Method]:
        return [method for method in METHODS if any(self.runs(task, method, pairing) for pairing in MATRIX)]
