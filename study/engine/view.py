"""From what a stage has searched to how its trials open in MLflow: columns and charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from study.engine.runner import Part
from study.engine.search import Result
from study.results import Row
from tracking.registry import Direction, Version
from tracking.views import Chart, View, curves, is_curve, logged_pictures, parallel, pictures, scatter

TRAINING = ("val/", "train/", "generator/", "critic/", "discriminator/")  # of metrics that have curves
MOST_PARAMS, MOST_CURVES = 8, 6  # columns or charts of a kind


def trials_view(
    parts: Iterable[Part],
    results: Sequence[Result],
    decisive: Mapping[str, Direction],
    rows: Sequence[Row],
    best: Version,
) -> View:
    """Return a view with a column for all that was varied and decides, and a chart for each objective.

    Args:
        parts: The lists and searches of the study, with `results`.
        decisive: The metrics by which the registered models were chosen, the most important first.
        best: The version that the curves and pictures are looked up in, as all trials have the same.
    """
    searched = [(part, [each for each in results if each.part == part.title]) for part in parts]
    first = searched[0][0].objectives
    objectives = {**first, **{name: way for part, _ in searched for name, way in part.objectives.items()}}
    sections: dict[str, Sequence[Chart]] = {}
    if len(first) > 1:
        one, *others = first
        sections["Objectives"] = [scatter(other, one, x_is="METRIC") for other in others]
    for objective in objectives:
        its = [each for each in searched if objective in each[0].objectives]
        charts = [scatter(name, objective) for name in _varied(its)]
        together = next((params for each in its if len(params := _varied([each])) > 1), None)
        if together:
            charts.append(parallel(together, [objective]))
        sections[f"{objective} against what was searched"] = charts
    sections["Training"] = [curves(name) for name in _curves(best, [*decisive, *objectives])]
    sections["Pictures"] = [pictures(name, step) for name, step in sorted(logged_pictures(best.run_id).items())]
    figures = [row.metric for row in rows if row.metric] or [name for name in best.metrics if name.startswith("test/")]
    best_first = next(iter((decisive or objectives).items()))
    deciding = _unique([*decisive, *first])
    others = [name for name in _unique([*figures, *objectives]) if name not in deciding]
    return View(best_first, deciding, _varied(searched)[:MOST_PARAMS], others, sections)


def _varied(searched: Iterable[tuple[Part, Sequence[Result]]]) -> list[str]:
    """Return the parameters of which these parts have more than one value, in their order."""
    values: dict[str, set[str]] = {}
    for _, results in searched:
        for result in results:
            for name, value in result.params.items():
                values.setdefault(name, set()).add(str(value))
    return [name for name, tried in values.items() if len(tried) > 1]


def _curves(best: Version, first: Sequence[str]) -> list[str]:
    """What the run has logged again and again: of the metrics that decide, then of the losses."""
    losses = sorted(
        (name for name in best.metrics if name.startswith(TRAINING) and name.endswith("/loss")),
        key=lambda name: [name.startswith(prefix) for prefix in TRAINING].index(True),
    )
    return [name for name in _unique([*first, *losses]) if is_curve(best.run_id, name)][:MOST_CURVES]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
