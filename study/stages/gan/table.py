"""The GAN stages' rows of the final table, and the table of all generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.harness.search import Result
from study.harness.stage import Context, Row
from study.harness.table import with_spread
from study.science.interpolation import Interpolation
from study.science.judges import is_collapsed, weakness
from study.stages.gan.config import LatentGanConfig
from study.stages.gan.settings import (
    BEST,
    PAPER_SETTINGS,
    REFERENCE_SETTINGS,
    TEST_RECONSTRUCTIONS,
    TRAIN_RECONSTRUCTIONS,
    VANILLA_GAN,
)
from study.stages.gan.trial import JUDGES, LAST_EPOCHS
from tracking.runs import Measured

REPORTED = ("fd", "precision", "recall", "density", "coverage", "modes", "class_kl", "low_confidence", "nearest")


def generator_table(groups: Mapping[str, Sequence[Result]], measured: Measured) -> dict[str, list[str]]:
    """Every measure of every generator and baseline, mean ± standard deviation over seeds, by both judges."""
    table: dict[str, list[str]] = {"generator": [], "seeds": []}
    for name, results in groups.items():
        if not results:
            continue
        table["generator"].append(name)
        table["seeds"].append(str(len(results)))
        for judge in ("sample", "second"):
            for measure in REPORTED:
                values = [measured[result.run_id][f"{judge}/{measure}"] for result in results]
                form = "{:.0f}" if measure == "modes" else "{:.4f}" if measure == "class_kl" else "{:.3f}"
                table.setdefault(f"{judge}/{measure}", []).append(with_spread(values, form))
    return table


def rows(
    context: Context,
    groups: Mapping[str, Sequence[Result]],
    measured: Measured,
    paths: Mapping[str, Interpolation],
) -> tuple[Row, ...]:
    """The best settings by both judges, and what they are held against."""
    config: LatentGanConfig = context.config

    def value(name: str, measure: str, form: str = "{:.2f}") -> str | None:
        found = [measured[result.run_id][measure] for result in groups.get(name, ())]
        return with_spread(found, form) if found else None

    def distance(name: str, asked: int) -> str:
        """`sample/fd`, and how many of the trainings that were asked for came to an end, if not all did."""
        if not asked:
            return "not run"
        ended = len(groups[name])
        missing = "" if ended == asked else f" ({ended} of {asked} seeds)"
        return f"{value(name, 'sample/fd') or 'none'}{missing}"

    def several(name: str, *measures: str) -> str | None:
        found = [value(name, measure, "{:.0f}" if measure.endswith("modes") else "{:.2f}") for measure in measures]
        return ", ".join(map(str, found)) if all(found) else None

    def baselines(measure: str) -> str:
        short = {name: name.replace("Gaussian mixture, ", "GMM-") for name in groups if name.startswith("Gaussian mix")}
        return ", ".join(f"{label} {value(name, measure)}" for name, label in short.items())

    vanillas = [measured[result.run_id] for result in groups.get(VANILLA_GAN, ())]
    fallen = [measures for measures in vanillas if is_collapsed(measures, len(context.dataset.classes))]
    collapsed = f"{len(fallen)} of {len(vanillas)} collapsed" if vanillas else None
    reference = groups[REFERENCE_SETTINGS] and distance(REFERENCE_SETTINGS, config.repeats)
    collapses = "collapses" if context.has_reference else None
    quality = ("sample/precision", "sample/recall", "sample/density", "sample/coverage")
    return (
        *weak_judges(context),
        Row(
            "sample/fd, best settings",
            distance(BEST, config.repeats),
            f"{reference} (its settings)" if reference else None,
            baselines("sample/fd"),
        ),
        Row(
            "the same, second judge",
            value(BEST, "second/fd") or "",
            value(REFERENCE_SETTINGS, "second/fd"),
            baselines("second/fd"),
        ),
        Row("sample/fd, paper's settings", value(PAPER_SETTINGS, "sample/fd") or "failed"),
        Row("sample/fd, vanilla GAN", distance(VANILLA_GAN, config.vanilla_seeds), collapses, collapsed),
        *(
            Row(f"sample/fd, {name}", distance(name, config.repeats))
            for name in groups
            if name.startswith("best settings, ")
        ),
        Row(
            "sample/fd, reconstructions, training / test",
            "-",
            None,
            f"{value(TRAIN_RECONSTRUCTIONS, 'sample/fd')} / {value(TEST_RECONSTRUCTIONS, 'sample/fd')}",
        ),
        Row(
            "precision, recall, density, coverage",
            several(BEST, *quality) or "",
            several(REFERENCE_SETTINGS, *quality),
            f"reconstructions, training {several(TRAIN_RECONSTRUCTIONS, *quality)}",
        ),
        Row(
            "modes, class KL, low confidence",
            several(BEST, "sample/modes", "sample/class_kl", "sample/low_confidence") or "",
        ),
        Row("distance to nearest training image", value(BEST, "sample/nearest") or "", None, "real test images 1"),
        Row(
            f"interpolation, steps that are no {'digit' if context.has_reference else 'class'}",
            f"{paths['noise linear'].measures['no_class']:.1%}"
            f" (spherical {paths['noise spherical'].measures['no_class']:.1%})",
            None,
            f"latents {paths['latents linear'].measures['no_class']:.1%}",
        ),
    )


def conditional_rows(context: Context, results: Sequence[Result], measured: Measured) -> tuple[Row, ...]:
    """Whether the generator makes what it is asked for, and how well."""
    digit = "digit" if context.has_reference else "class"

    def ours(metric: str, form: str) -> str:
        return with_spread([measured[result.run_id][metric] for result in results], form)

    stable = "stable" if context.has_reference else None
    return (
        *weak_judges(context),
        Row("sample/label_accuracy", ours("sample/label_accuracy", "{:.1%}")),
        Row(f"the same, worst {digit}", ours("sample/label_accuracy_worst", "{:.1%}")),
        Row("the same, second judge", ours("second/label_accuracy", "{:.1%}")),
        Row("sample/fd", ours("sample/fd", "{:.2f}")),
        Row(f"sample/intra_fd, within a {digit}", ours("sample/intra_fd", "{:.2f}")),
        Row("sample/diversity", ours("sample/diversity", "{:.2f}"), None, "real images 1"),
        Row("classification accuracy score", ours("sample/classification_accuracy_score", "{:.1%}")),
        Row(f"range of val/fd over the last {LAST_EPOCHS} epochs", ours("val/fd_last_epochs_range", "{:.1%}"), stable),
    )


def weak_judges(context: Context) -> list[Row]:
    """A row for each judge whose measures say little."""
    found = []
    for kind in JUDGES:
        weak = weakness(context.inputs[kind].metrics["val/accuracy"])
        if weak:
            found.append(Row(f"note: {kind}", weak))
    return found
