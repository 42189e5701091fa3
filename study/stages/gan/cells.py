"""Cells of the GAN stages' rows: figures of groups of runs, each beside its floor, its ceiling and the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.engine.search import Result
from study.engine.stage import Context, Row
from study.engine.table import verdict, with_spread
from study.measures.judges import PARTS, SELECTING, weakness
from study.stages.gan.settings import (
    BEST,
    JUDGES,
    KERNEL_DENSITY,
    REAL,
    SMOTE,
    TEST_RECONSTRUCTIONS,
    TRAIN_RECONSTRUCTIONS,
)
from tracking.runs import Measured

SHORT = {
    REAL: "real images",
    TRAIN_RECONSTRUCTIONS: "reconstructions",
    TEST_RECONSTRUCTIONS: "of test images",
    KERNEL_DENSITY: "kernel density",
    SMOTE: "SMOTE",
}
"""What the baselines are called in a cell."""


class Cells:
    """Cells of the table, from groups of runs by name."""

    def __init__(self, groups: Mapping[str, Sequence[Result]], measured: Measured) -> None:
        self.groups, self.measured = groups, measured

    def values(self, name: str | None, measure: str) -> list[float]:
        """One of each run in the group that has it."""
        runs = [self.measured[result.run_id] for result in self.groups.get(name or "", ())]
        return [run[measure] for run in runs if measure in run]

    def cell(self, name: str, measure: str, form: str = "{:.2f}") -> str | None:
        values = self.values(name, measure)
        return with_spread(values, form) if values else None

    def against(self, sentence: str, measure: str, rival: str | None, form: str, **rule: Any) -> dict[str, str]:
        """A claim that the best are better than a rival, which "{rival}" stands for; nothing where there is none.

        Args:
            rule: Of `study.engine.table.verdict`.
        """
        if rival is None:
            return {}
        decided, name = verdict(self.values(BEST, measure), self.values(rival, measure), **rule), short(rival)
        figure = f"{name} {self.cell(rival, measure, form)}"
        return {"claim": sentence.format(rival=name), "verdict": decided, "rival": figure}

    def baselines(self, names: Sequence[str], measure: str, form: str = "{:.2f}") -> str:
        """What the figure is held against: the floor and the ceiling first, then the baselines."""
        found = {name: self.cell(name, measure, form) for name in names}
        return ", ".join(f"{short(name)} {cell}" for name, cell in found.items() if cell)


def short(name: str) -> str:
    if name.startswith("Gaussian mixture, "):
        count, _, of = name.removeprefix("Gaussian mixture, ").partition(" ")
        return f"GMM-{count}{' ' if of else ''}{of}"
    return SHORT.get(name, name)


def judge_name(number: int) -> str:
    """How a row calls a judge by its number from 0, with what it does."""
    return f"judge {number + 1} ({'selects' if number < SELECTING else 'reports only'})"


def distance_sentence(context: Context, cells: Cells, others: Sequence[str | None]) -> str | None:
    """How near the best settings' images come to the test images, beside others, by the judge that chose nothing."""
    measure = f"{PARTS[-1]}/fd"
    ours = cells.cell(BEST, measure)
    beside = [f"{short(name)} {cell}" for name in others if name and (cell := cells.cell(name, measure))]
    if ours is None:
        return None
    held_against = f"({', '.join(beside)}; less is nearer)"
    said = f"The WGAN on the latents draws at a Frechet distance of {ours} from the test images"
    return f"{said} {held_against}{caution(context)}"


def caution(context: Context) -> str:
    """What ends a sentence by the judge that only reports, if that judge is weak."""
    accuracy = context.inputs[JUDGES[-1]].metrics["val/accuracy"]
    return f"; but judge {len(JUDGES)} reads only {accuracy:.1%} of real images right" if weakness(accuracy) else ""


def weak_judges(context: Context) -> list[Row]:
    """A row for each judge whose measures say little."""
    found = []
    for kind in JUDGES:
        weak = weakness(context.inputs[kind].metrics["val/accuracy"])
        if weak:
            found.append(Row(f"note: {kind}", weak))
    return found
