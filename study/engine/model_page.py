"""The page of a registered version in MLflow: what it shows, what it is worth, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.engine.progress import short
from study.engine.search import Result
from study.engine.stage import Context
from study.results import Row
from tracking.registry import Version
from tracking.runs import TRIAL_OF, Run
from tracking.views import figures_of, model_address, run_address

MOST_ROWS = 8
SPACE, HEADING = "&emsp;", "&nbsp;\n\n**{}**"  # MLflow's pages set none between columns, or after a table
MOST_CHARACTERS = 5000  # of a version's description, as MLflow has it


def model_page(
    context: Context, parent: Run, version: Version, *, result: Result, metric: str, picture: str, rows: Sequence[Row]
) -> str:
    """The page as Markdown: its best picture first, then figures beside what they are held against, then its lineage.

    Args:
        metric: The one by which it was chosen.
        picture: The figure of its run that shows it best; "" or one that it lacks: the one that stands for the stage.
    """
    own, of_study = figures_of(version.run_id), figures_of(parent.run_id)
    headline = context.stage.headline
    first = own.pop(picture, None) or own.pop(headline.removeprefix("best/"), None) or of_study.get(headline)
    chosen = f"{metric} {version.metrics[metric]:.4g}" if metric in version.metrics else metric
    params = f" ({short(result.params)})" if result.params else ""
    paragraphs = [
        context.stage.question,
        f"[Trial {result.number}]({run_address(version.run_id)}){params} of the study "
        f"[{parent.study}]({run_address(parent.run_id)}), chosen by {chosen}.",
        first or "",
        _figures(rows),
        _lineage(context.inputs),
        HEADING.format("How it was made"),
        f"Data {context.dataset.name} (digest {context.dataset.digest}), seed {context.session.seed}: "
        f"`{context.session.command}`",
        *own.values(),
    ]
    kept: list[str] = []
    for paragraph in filter(None, paragraphs):
        if sum(map(len, kept)) + 2 * len(kept) + len(paragraph) <= MOST_CHARACTERS:
            kept.append(paragraph)
    return "\n\n".join(kept)


def _figures(rows: Sequence[Row]) -> str:
    """The rows to look at first, each beside what it is held against."""
    shown = ([row for row in rows if row.metric] or rows)[:MOST_ROWS]
    columns = {
        "figure": [row.figure for row in shown],
        "ours": [row.ours for row in shown],
        "reference": [row.reference or "" for row in shown],
        "held against": [row.baseline or "" for row in shown],
    }
    if not shown:
        return ""
    return (
        f"{HEADING.format('What its study measured')} (± is the standard deviation over repeats)\n\n{_table(columns)}"
    )


def _lineage(inputs: Mapping[str, Version]) -> str:
    """The versions that it builds on, each with the run and the study that made it."""
    versions = inputs.values()
    columns = {
        "input": [*inputs],
        "model": [f"[{each.name} v{each.number}]({model_address(each.name, each.number)})" for each in versions],
        "run": [
            f"[{each.tags.get('mlflow.runName', each.run_id)}]({run_address(each.run_id)})" if each.tags else "deleted"
            for each in versions
        ],
        "study": [each.tags.get(TRIAL_OF, "") for each in versions],
    }
    return f"{HEADING.format('What it builds on')}\n\n{_table(columns) if inputs else 'Nothing but the data.'}"


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    """A table of the columns that are not empty."""
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [[*kept], ["---"] * len(kept), *zip(*kept.values(), strict=True)]
    lines = [" | ".join(cell.replace("|", "&#124;") + SPACE * (cell != "---") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
