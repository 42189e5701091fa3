"""What MLflow's pages show of a study: a view of its trials, and the page of each registered version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from study.engine.runner import Part
from study.engine.stage import Candidate, Context
from study.engine.trial import short
from study.results import Result, Row
from tracking import views
from tracking.registry import Direction, Version
from tracking.runs import REPEAT, TRIAL_OF, Run, metric_history
from tracking.views import Chart, View

TRAINING = ("val/", "train/", "generator/", "critic/", "discriminator/")  # of metrics that have curves
MOST_PARAMS, MOST_CURVES, MOST_ROWS = 8, 6, 8  # columns, charts of a kind, rows of a page
SPACE, HEADING = "&emsp;", "&nbsp;\n\n**{}**"  # MLflow's pages set none between columns, or after a table
MOST_CHARACTERS = 5000  # of the description of a version, as MLflow has it
T = TypeVar("T")


def trials_view(
    parts: Iterable[Part],
    results: Sequence[Result],
    decisive: Mapping[str, Direction],
    rows: Sequence[Row],
    best: Version,
) -> View:
    """Return a view with a column for each parameter that varies and metric that decides, and charts of objectives.

    Args:
        parts: The lists and searches of the study, with `results`.
        decisive: The metrics by which the registered models were chosen, the most important first.
        best: The version that the curves and pictures are looked up in, as all trials have the same.
    """
    searched = [(part.objectives, [each for each in results if each.part == part.title]) for part in parts]
    first = searched[0][0]
    objectives = {**first, **{name: way for wanted, _ in searched for name, way in wanted.items()}}
    sections: dict[str, Sequence[Chart]] = {}
    if len(first) > 1:
        one, *others = first
        sections["Objectives"] = [views.scatter(other, one, x_is="METRIC") for other in others]
    for objective in objectives:
        found = [its for wanted, its in searched if objective in wanted]
        charts = [views.scatter(name, objective) for name in _varied(found)]
        charts += [views.parallel(names, [objective]) for its in found if len(names := _varied([its])) > 1][:1]
        sections[f"{objective} by parameter"] = charts
    losses = [name for start in TRAINING for name in best.metrics if name.startswith(start) and name.endswith("/loss")]
    curved = [
        name for name in _unique([*decisive, *objectives, *losses]) if len(metric_history(best.run_id, name)[0]) > 1
    ]
    sections["Training"] = [views.curves(name) for name in curved[:MOST_CURVES]]
    sections["Pictures"] = [views.pictures(*each) for each in sorted(views.logged_pictures(best.run_id).items())]
    figures = [row.metric for row in rows if row.metric] or [name for name in best.metrics if name.startswith("test/")]
    deciding = _unique([*decisive, *first])
    others = [name for name in _unique([*figures, *objectives]) if name not in deciding]
    varied = _varied([its for _, its in searched])[:MOST_PARAMS]
    order_by, repeated = next(iter((decisive or objectives).items())), any(REPEAT in each.params for each in results)
    return View(order_by, deciding, varied, others, sections, repeated)


def model_page(context: Context, parent: Run, version: Version, candidate: Candidate, rows: Sequence[Row]) -> str:
    """Return the page of a version as Markdown: its best picture, what its study measured, what it builds on."""
    result, metric = candidate.result, candidate.metric
    own, of_study = views.figures_of(version.run_id), views.figures_of(parent.run_id)
    headline = context.stage.headline
    first = own.pop(candidate.picture, None) or own.pop(headline.removeprefix("best/"), None) or of_study.get(headline)
    chosen = f"{metric} {version.metrics[metric]:.4g}" if metric in version.metrics else metric
    params = f" ({short(result.params)})" if result.params else ""
    rows = ([row for row in rows if row.metric] or rows)[:MOST_ROWS]
    measured = [(row.figure, row.ours, row.reference or "", row.baseline or "") for row in rows]
    paragraphs = [
        context.stage.question,
        f"[Trial {result.number}]({views.run_address(version.run_id)}){params} of the study "
        f"[{parent.study}]({views.run_address(parent.run_id)}), chosen by {chosen}.",
        first or "",
        HEADING.format("What its study measured") + " (± is the standard deviation over repeats)" if rows else "",
        _table(("figure", "ours", "reference", "baseline"), measured),
        HEADING.format("What it builds on"),
        _table(("input", "model", "run", "study"), [_made_by(*each) for each in context.inputs.items()])
        or "Nothing but the data.",
        HEADING.format("How it was made"),
        f"Data {context.dataset.name} (digest {context.dataset.digest}), seed {context.session.seed}: "
        f"`{context.session.command}`",
        *own.values(),
    ]
    text = ""
    for paragraph in filter(None, paragraphs):
        if len(longer := f"{text}\n\n{paragraph}".strip()) <= MOST_CHARACTERS:
            text = longer
    return text


def _made_by(kind: str, version: Version) -> tuple[str, str, str, str]:
    """Return an input, its version, its run and its study, as cells of a table."""
    model = f"[{version.name} v{version.number}]({views.model_address(version.name, version.number)})"
    name = version.tags.get("mlflow.runName", version.run_id)
    run = f"[{name}]({views.run_address(version.run_id)})" if version.tags else "deleted"
    return kind, model, run, version.tags.get(TRIAL_OF, "")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown without its empty columns; "" without rows."""
    columns = [column for column in zip(names, *rows, strict=True) if any(column[1:])]
    lines = [[cell.replace("|", "&#124;") + SPACE for cell in line] for line in zip(*columns, strict=True)]
    lines[1:1] = [["---"] * len(columns)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _varied(results: Iterable[Sequence[Result]]) -> list[str]:
    """Return the parameters, but the seed, that have more than one value in these results, in their order."""
    tried = _unique((name, str(value)) for its in results for each in its for name, value in each.params.items())
    names = [name for name, _ in tried]
    return [name for name in _unique(names) if names.count(name) > 1 and name != REPEAT]


def _unique(names: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(names))
