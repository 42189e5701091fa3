"""The translation stage's rows of the final table: the reference's claims, and every measure of every training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from study.engine.search import Result
from study.engine.stage import Context, Row, Verdict
from study.engine.table import verdict, with_spread
from study.measures.judges import weakness
from study.stages.translation.cells import KEPT, Cells
from study.stages.translation.inputs import JUDGES
from study.stages.translation.trial import IDENTITY, TRUTH
from study.stages.translation.verdicts import (
    COLLAPSED,
    WORKS_ERROR,
    WORKS_LOST,
    every,
    none_of,
    slower,
)
from study.training.translation_settings import (
    CONDITIONAL_GAN,
    CYCLE_GAN,
    GAN,
    L1,
    MATRIX,
    METHODS,
    Method,
    Pairing,
    Task,
)

PAIRED, LOOSE, UNPAIRED = MATRIX
MEASURES = (
    *("val/mae", "test/mae", "test/psnr", "test/dependence", "sample/kept", "second/kept", "sample/permuted"),
    *("second/permuted", "sample/fd", "second/fd", "sample/recall", "sample/coverage"),
    *("cycle/error", "cycle/error_rounded", "cycle/error_noisy", "train/seconds"),
)
REACH = ("sample/recall", "sample/coverage", "test/dependence")
MAE = "test/mae"


def measures_table(cells: Cells) -> dict[str, list[str]]:
    """Every measure of every training, mean ± standard deviation over its seeds, and of floor and ceiling."""
    table: dict[str, list[str]] = {"task": [], "model": [], "pairing": [], "level": [], "seeds": []}

    def add(name: tuple[str, ...], runs: Sequence[Result]) -> None:
        for column, text in zip(table, name, strict=False):
            table[column].append(text)
        for measure in MEASURES:
            values = [cells.measured[run.run_id][measure] for run in runs if measure in cells.measured[run.run_id]]
            columns.setdefault(measure, []).append(with_spread(values, "{:.4g}") if values else "-")

    columns: dict[str, list[str]] = {}
    for task in cells.tasks:
        for source in (IDENTITY, TRUTH):
            found = cells.baseline(task, source)
            if found:
                add((task, source, "-", "-", "1"), [found])
        for method in METHODS:
            for pairing, level in cells.columns(task):
                runs = cells.runs(task, method, pairing, level)
                if runs:
                    add((task, method, pairing, str(level), str(len(runs))), runs)
    return table | columns


def rows(context: Context, cells: Cells, best: Result) -> tuple[Row, ...]:
    """The reference's nine claims of each task, what else was measured, and the translator that is registered."""
    found = [Row(f"note: {kind}", weak) for kind in JUDGES if (weak := _weakness(context, kind))]
    for task in cells.tasks:
        found += [*_claims(context, cells, task), *_figures(cells, task)]
    measured = cells.measured[best.run_id]
    kept = " and ".join(f"{measured[name]:.1%}" for name in KEPT)
    text = f"error {measured[MAE]:.4f}, class kept {kept} ({best.params['method']})"
    floor = cells.baseline_value(best.params["task"], IDENTITY, MAE)
    beside = f"untranslated {floor:.4f}" if isfinite(floor) else None
    sentence = (
        f"The best translator of paired images ({best.params['task']}), {best.params['method']}, is off by "
        f"{measured[MAE]:.4f} a pixel{f' ({beside})' if beside else ''}"
    )
    figure = f"registered: the best translator of paired images, {best.params['task']}"
    return (*found, Row(figure, text, None, beside, metric=MAE, found=sentence))


def _weakness(context: Context, kind: str) -> str | None:
    return weakness(context.inputs[kind].metrics["val/accuracy"])


def _claims(context: Context, cells: Cells, task: Task) -> list[Row]:
    """The reference's nine claims, in its order: three of the plain GAN, of CycleGAN and of the conditional GAN."""
    identity = cells.baseline_value(task, IDENTITY, MAE)
    floor = f"untranslated {identity:.3f}"
    goal = f"{floor}; works: error at most {WORKS_ERROR * identity:.3f}, class lost at most {WORKS_LOST:.0%}"

    def mae(method: Method, pairing: Pairing) -> list[float]:
        return cells.values(task, method, pairing, MAE)

    def lost(method: Method, pairing: Pairing, measure: str) -> list[float]:
        return [1 - kept for kept in cells.values(task, method, pairing, measure)]

    def works(method: Method, pairing: Pairing) -> Verdict:
        right = [verdict(lost(method, pairing, judge), WORKS_LOST) for judge in KEPT]
        return every(verdict(mae(method, pairing), identity, factor=WORKS_ERROR), *right)

    def collapsed(method: Method, pairing: Pairing) -> Verdict:
        reach = zip(*(cells.values(task, method, pairing, measure) for measure in REACH), strict=True)
        return verdict([min(each) for each in reach], COLLAPSED)

    def better_than(method: Method) -> Verdict:
        """CycleGAN on unpaired images: in error, and in the class kept by both judges."""
        kept = [verdict(lost(CYCLE_GAN, UNPAIRED, judge), lost(method, UNPAIRED, judge)) for judge in KEPT]
        return every(verdict(mae(CYCLE_GAN, UNPAIRED), mae(method, UNPAIRED)), *kept)

    def errors(method: Method) -> str:
        return f"error {cells.matrix(task, method, MAE)}; class kept {cells.matrix(task, method, KEPT[0], '{:.1%}')}"

    def row(claim: str, ours: str, baseline: str, decided: Verdict, says: str) -> Row:
        sentence = f"{claim} ({task})"
        return Row(claim, ours, says if context.has_reference else None, baseline, sentence, decided)

    l1 = f"{L1} {cells.matrix(task, L1, MAE)}"
    reach = "; ".join(
        f"{name} {cells.matrix(task, GAN, measure, '{:.2f}')}"
        for name, measure in zip(("recall", "coverage", "dependence"), REACH, strict=True)
    )
    steps = {pairing: cells.steps(task, CYCLE_GAN, pairing) for pairing in (PAIRED, LOOSE)}
    most = max((cells.curve(run)[0][-1] for run in cells.runs(task, CYCLE_GAN, LOOSE)), default=0.0)
    rivals = ", ".join(
        f"{method} error {cells.cell(task, method, UNPAIRED, MAE)}, class kept "
        f"{cells.cell(task, method, UNPAIRED, KEPT[0], '{:.1%}')}"
        for method in (GAN, CONDITIONAL_GAN, L1)
    )
    cycle = (
        f"error {cells.cell(task, CYCLE_GAN, UNPAIRED, MAE)}, class kept "
        f"{cells.cell(task, CYCLE_GAN, UNPAIRED, KEPT[0], '{:.1%}')}"
    )
    least = (verdict(mae(GAN, PAIRED), mae(GAN, other)) for other in (LOOSE, UNPAIRED))
    harder = verdict(mae(CONDITIONAL_GAN, LOOSE), mae(CONDITIONAL_GAN, PAIRED), better="more")
    return [
        row(
            "A plain GAN suits none of the pairings",
            errors(GAN),
            goal,
            none_of(*(works(GAN, pairing) for pairing in MATRIX)),
            "suits none",
        ),
        row(
            "A plain GAN collapses on every pairing",
            reach,
            f"collapsed: one below {COLLAPSED}",
            every(*(collapsed(GAN, pairing) for pairing in MATRIX)),
            "collapse",
        ),
        row(
            "A plain GAN is least bad on paired images",
            f"error {cells.matrix(task, GAN, MAE)}",
            floor,
            every(*least),
            "paired least bad",
        ),
        row(
            "CycleGAN works on paired and on loosely paired images",
            errors(CYCLE_GAN),
            goal,
            every(works(CYCLE_GAN, PAIRED), works(CYCLE_GAN, LOOSE)),
            "works",
        ),
        row(
            "CycleGAN is slower on loosely paired than on paired images",
            f"loosely paired {_steps(steps[LOOSE])} steps to half of the untranslated error",
            f"paired {_steps(steps[PAIRED])}",
            slower(steps[LOOSE], steps[PAIRED], most),
            "slower",
        ),
        row(
            "CycleGAN is the best on unpaired images",
            cycle,
            rivals,
            every(better_than(GAN), better_than(CONDITIONAL_GAN), better_than(L1)),
            "best",
        ),
        row(
            "A conditional GAN is good on paired and on loosely paired images",
            errors(CONDITIONAL_GAN),
            f"{goal}; {l1}",
            every(works(CONDITIONAL_GAN, PAIRED), works(CONDITIONAL_GAN, LOOSE)),
            "good",
        ),
        row(
            "A conditional GAN has it harder as the pairing loosens",
            f"loosely paired, error {cells.cell(task, CONDITIONAL_GAN, LOOSE, MAE)}",
            f"paired {cells.cell(task, CONDITIONAL_GAN, PAIRED, MAE)}",
            harder,
            "harder",
        ),
        row(
            "A conditional GAN is unfit for unpaired images",
            errors(CONDITIONAL_GAN),
            f"{goal}; {l1}",
            none_of(works(CONDITIONAL_GAN, UNPAIRED)),
            "unfit",
        ),
    ]


def _figures(cells: Cells, task: Task) -> list[Row]:
    """What no claim is about, each model beside the floor and the ceiling; the table of translators has more."""
    forms = {
        "error (MAE)": (MAE, "{:.4f}"),
        "class kept, judge 2": (KEPT[1], "{:.1%}"),
        "class kept under the best permutation of classes, judge 1": ("sample/permuted", "{:.1%}"),
        "FD to B, judge 1": ("sample/fd", "{:.3f}"),
    }
    found = []
    for name, (measure, form) in forms.items():
        ends = [
            f"{title} {form.format(value)}"
            for title, source in (("untranslated", IDENTITY), ("T itself", TRUTH))
            if isfinite(value := cells.baseline_value(task, source, measure))
        ]
        for method in METHODS:
            ours = cells.matrix(task, method, measure, form)
            found.append(Row(f"{task}, {method}: {name}", ours, None, ", ".join(ends)))
    hidden = "{:.4f}"
    for pairing in MATRIX:
        after = [cells.cell(task, CYCLE_GAN, pairing, f"cycle/error_{way}", hidden) for way in ("rounded", "noisy")]
        found.append(
            Row(
                f"{task}, CycleGAN there and back, {pairing}: error, after rounding to 8 bits, with noise of 3/255",
                f"{cells.cell(task, CYCLE_GAN, pairing, 'cycle/error', hidden)}, {after[0]}, {after[1]}",
            )
        )
    seconds = ", ".join(f"{method}: {cells.matrix(task, method, 'train/seconds', '{:.0f}')}" for method in METHODS)
    return [*found, Row(f"{task}: seconds of training", seconds)]


def _steps(values: Sequence[float]) -> str:
    """How many steps, in words."""
    if not values:
        return "failed"
    never = sum(not isfinite(value) for value in values)
    reached = [value for value in values if isfinite(value)]
    text = with_spread(reached, "{:,.0f}") if reached else "never"
    return f"{text} ({never} of {len(values)} never)" if never and reached else text
