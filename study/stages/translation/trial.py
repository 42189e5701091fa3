"""The translation stage: a translator that is trained, two baselines that are measured, and what is reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.classifier import Judge
from models.translation import Translator
from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.stage import Context
from study.engine.trial import Trial
from study.measures.stats import Better
from study.measures.translation import WORKS_ERROR, Truth, error
from study.results import Row, Table, compared, wide_table
from study.stages.generators import weak_judges
from study.training import translation
from study.training.loops import apply, eval_mode, seeded, steps_per_epoch
from study.training.translation import CONDITIONAL_GAN, CYCLE_GAN, GAN, L1, LOOSE, METHODS, PAIRED, PAIRINGS, UNPAIRED
from tracking.models import kept_model
from tracking.runs import Run, mean_histories

OBJECTIVE = "val/mae"
STEPS, STEPS_TO_GOAL = "generator/steps", "generator/steps_to_goal"
SOURCES = UNTRANSLATED, TRUE = "untranslated", "true translation"  # the floor and the ceiling
SHOWN = 10  # test images in every picture
MAE, KEPT, SHORTFALL = "test/mae", "judge1/kept", "test/shortfall"
MEASURES = (
    *("val/mae", MAE, SHORTFALL, KEPT, "judge2/kept", "judge1/permuted", "judge2/permuted", "judge1/fd"),
    *("judge2/fd", "judge1/recall", "judge1/coverage", STEPS_TO_GOAL, "train/seconds"),
)
ACROSS = SHOWN // 2  # images side by side in a cell of the matrix, which has two rows of them
MATRIX_CAPTION = (
    "The same ten test images in each cell. Error: mean absolute error per pixel against the true translation, over "
    "all test images. Class kept: fraction of the translations in which the first judge sees the input's class."
)
SAYS = {GAN: "paired is least bad", CYCLE_GAN: "best on unpaired", CONDITIONAL_GAN: "harder as pairing loosens"}
"""What the reference says of the errors."""
Pick = Callable[[Iterable[float]], float]
STEPS_CAPTION = "Means over the seeds; exactly paired validation images."


@dataclass(frozen=True)
class HeldOut:
    """The images that measure every translator.

    Attributes:
        val: Validation images of domain A and their true translations, uint8 [N, C, S, S].
        truth: Test images of both domains, and the judges of domain B.
        shown: Places of the test images in every picture, [SHOWN].
    """

    val: tuple[Tensor, Tensor]
    truth: Truth
    shown: Tensor

    @classmethod
    def of(cls, context: Context, judges: Sequence[str]) -> HeldOut:
        """Make the images of both domains by the task, and load these kinds of judges."""
        data, task = context.dataset, context.settings.task
        labels = data.test.labels
        loaded = [context.module(kind, Judge) for kind in judges]
        val, test = ((translation.TASKS[task](split.images), split.images) for split in (data.val, data.test))
        return cls(val, Truth(*test, labels, loaded, len(data.classes)), shown_places(labels, len(data.classes)))


def shown_places(labels: Tensor, classes: int) -> Tensor:
    """Return the places [SHOWN] of one image of each of the first ten classes, and of the first others."""
    first = [(labels == each).nonzero()[:1, 0] for each in range(min(SHOWN, classes))]
    rest = torch.arange(len(labels), device=labels.device)
    return torch.cat([*first, rest[~torch.isin(rest, torch.cat(first))]])[:SHOWN]


def train_and_measure(trial: Trial, *, context: Context, held_out: HeldOut) -> tuple[float]:
    """Train and log a translator. Return `val/mae`, the mean absolute error on validation images."""
    settings, data, params = context.settings, context.dataset, trial.params
    method, pairing = params["method"], params["pairing"]
    about = {"task": settings.task, "method": method, "pairing": pairing, **translation.SETTINGS[method]._asdict()}
    pairs = translation.make_pairs(settings.task, data.train.images, pairing, context.seed_for(params["repeat"]))
    translator = Translator(data.image_shape).to(context.device)
    images = min(settings.images, len(data.train) // 2)  # the same for each pairing: as many steps for each model
    steps = steps_per_epoch(images, translation.BATCH_SIZE)
    a, b = held_out.val

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        with eval_mode(translator):
            found = {OBJECTIVE: error(apply(translator, a), b), STEPS: float(epoch * steps)}
        trial.report(epoch, {**losses, **found})

    trial.log_params(translation.SETTINGS[method]._asdict())
    report(0, {})
    started = time.monotonic()
    translation.train_translator(translator, pairs, method, epochs=settings.epochs, images=images, report=report)
    found = {"train/seconds": time.monotonic() - started}
    reached = steps_to(WORKS_ERROR * error(to_float(a), b), trial.history[STEPS][1], trial.history[OBJECTIVE][1])
    if reached < inf:
        found[STEPS_TO_GOAL] = reached
    with eval_mode(translator):
        found |= held_out.truth.measures(apply(translator, held_out.truth.a))
    trial.log(found, step=settings.epochs)
    _log_pictures(trial, translator, held_out)
    if pairing == PAIRED or params["repeat"] == 0:  # the first may be registered, the others are shown
        module = {"image_shape": list(data.image_shape)}
        trial.log_model(translator, to_float(a[:2]), {"module": module, "translation": about})
    return (trial.history[OBJECTIVE][1][-1],)


def steps_to(goal: float, steps: Sequence[float], errors: Sequence[float]) -> float:
    """Return the steps until the error is first at most `goal`, interpolated between measurements; infinite: never."""
    below = np.flatnonzero(np.asarray(errors) <= goal)
    if not len(below):
        return inf
    before, at = max(int(below[0]) - 1, 0), int(below[0])
    return float(np.interp(-goal, [-errors[before], -errors[at]], [steps[before], steps[at]]))


def translated(translator: Translator, held_out: HeldOut) -> Tensor:
    """Return the translations of the shown images, floats [SHOWN, C, S, S]."""
    with eval_mode(translator):
        return translator(to_float(held_out.truth.a[held_out.shown]))


def _log_pictures(trial: Trial, translator: Translator, held_out: HeldOut) -> None:
    a, b = (to_float(images[held_out.shown]) for images in (held_out.truth.a, held_out.truth.b))
    sheet = to_pixels(torch.cat([a, translated(translator, held_out), b]))
    trial.log_image("samples", plots.grid(sheet, SHOWN), step=0)
    if trial.params["pairing"] == PAIRED:  # one of these is registered
        title = f"{trial.params['method']}, {PAIRED}"
        trial.log_figure("samples", plots.labelled_grid(sheet, ["input", "translated", "truth"], title))


def measure_source(trial: Trial, *, held_out: HeldOut) -> tuple[float]:
    """Measure and log the untranslated input or the true translation in a translator's place. Return `val/mae`."""
    place = SOURCES.index(trial.params["source"])
    truth = held_out.truth
    images = (truth.a, truth.b)[place]
    found = error(to_float(held_out.val[place]), held_out.val[1])
    trial.log({OBJECTIVE: found, **truth.measures(to_float(images))})
    trial.log_image("samples", plots.grid(to_pixels(images[held_out.shown]), SHOWN), step=0)
    return (found,)


def cells_of(table: Table) -> dict[str, Table]:
    """Return the trainings of each model on each pairing."""
    pairs = [(method, pairing) for method in METHODS for pairing in PAIRINGS]
    return {f"{method}, {pairing}": table.where(method=method, pairing=pairing) for method, pairing in pairs}


def log_table(parent: Run, table: Table) -> None:
    """Log every measure of both baselines and of every training, mean ± standard deviation over its seeds."""
    groups = {source: table.where(source=source) for source in SOURCES} | cells_of(table)
    parent.log_table("translators", wide_table("translator", groups, MEASURES))


def shortfalls(table: Table, methods: Sequence[str], pairings: Sequence[str], pick: Pick) -> list[float]:
    """Return each seed's smallest or largest shortfall in these cells, without the seeds of which a cell failed."""
    cells = table.where(method=methods.__contains__, pairing=pairings.__contains__)
    found = [cells.values(SHORTFALL, repeat=repeat) for repeat in sorted({each.params["repeat"] for each in cells})]
    return [pick(values) for values in found if len(values) == len(methods) * len(pairings)]


def claims(table: Table) -> list[Row]:
    """Return the reference's five claims; `ours` is the shortfall that a claim is about, of which 1 is the limit."""

    def of(*methods: str, pick: Pick = max, pairings: Sequence[str] = (PAIRED, LOOSE)) -> list[float]:
        return shortfalls(table, methods, pairings, pick)

    def row(text: str, said: str, better: Better, ours: list[float], others: list[float] | None = None) -> Row:
        goal, beside = (1.0, {}) if others is None else (None, {"best other": others})
        about: dict[str, Any] = {"text": text, "better": better, "reference": said}
        return compared(f"{text}: shortfall", ours, beside, "{:.2f}", goal=goal, **about)

    none, others = of(GAN, pick=min, pairings=PAIRINGS), of(GAN, CONDITIONAL_GAN, L1, pick=min, pairings=[UNPAIRED])
    cycle, conditional = (of(method, pairings=[UNPAIRED]) for method in (CYCLE_GAN, CONDITIONAL_GAN))
    return [
        row("A plain GAN suits none of the pairings", "suits none", "more", none),
        row("CycleGAN works on paired and on loosely paired images", "works", "less", of(CYCLE_GAN)),
        row("CycleGAN is the best on unpaired images", "best", "less", cycle, others),
        row("A conditional GAN is good on paired and on loosely paired images", "good", "less", of(CONDITIONAL_GAN)),
        row("A conditional GAN is unfit for unpaired images", "unfit", "more", conditional),
    ]


def rows(context: Context, table: Table, best: str) -> list[Row]:
    """Return notes on weak judges, the claims, the figures of each model, and the registered translator.

    Args:
        best: Run of the registered translator.
    """
    floor = f"untranslated {table.cell(MAE, '{:.4f}', source=UNTRANSLATED) or 'failed'}"

    def matrix(method: str, metric: str, form: str) -> str:
        cells = {each: table.cell(metric, form, method=method, pairing=each) for each in PAIRINGS}
        return ", ".join(f"{pairing} {cell or '-'}" for pairing, cell in cells.items())

    figures = []
    for method in METHODS:
        figures.append(Row(f"{method}: error (MAE)", matrix(method, MAE, "{:.4f}"), SAYS.get(method), floor))
        figures.append(Row(f"{method}: class kept, judge 1", matrix(method, KEPT, "{:.1%}")))
    figures.append(Row(f"{GAN}: recall, judge 1", matrix(GAN, "judge1/recall", "{:.2f}"), "collapse"))
    steps = matrix(CYCLE_GAN, STEPS_TO_GOAL, "{:,.0f}")
    figures.append(Row(f"{CYCLE_GAN}: steps to half of the untranslated error", steps, "slower on loosely paired"))
    (trial,) = (each for each in table if each.run_id == best)
    method, found = trial.params["method"], trial.metrics
    kept = " and ".join(f"{found[f'judge{number}/kept']:.1%}" for number in (1, 2))
    sentence = f"The best translator of paired images, {method}, is off by {found[MAE]:.4f} a pixel ({floor})"
    cell = f"error {found[MAE]:.4f}, class kept {kept} ({method})"
    made = [*weak_judges(context.inputs), *claims(table), *figures]
    made.append(Row("registered: the best translator of paired images", cell, None, floor, metric=MAE, found=sentence))
    return made if context.has_reference else [replace(row, reference=None) for row in made]


def log_figures(parent: Run, context: Context, held_out: HeldOut, table: Table) -> None:
    """Log the matrix of pictures, unless models were deleted since, and the error against the steps of training."""
    stored = {trial.run_id: kept_model(trial.run_id) for trial in table.where(repeat=0)}
    models = {run: each.rebuild(Translator).to(context.device) for run, each in stored.items() if each}
    if len(models) == len(stored):
        parent.log_figure("matrix", _matrix(context, held_out, table, models), MATRIX_CAPTION)
    parent.log_figure("error_against_steps", _against_steps(context, table), STEPS_CAPTION)


def _matrix(context: Context, held_out: HeldOut, table: Table, models: Mapping[str, Translator]) -> plots.Figure:
    """Draw rows of models and columns of pairings: translations by the models of the first seed, by their runs."""
    a, b = (to_float(images[held_out.shown]) for images in (held_out.truth.a, held_out.truth.b))
    with seeded(0, context.device):
        loose = translation.misalign(b)
    tops = {"input, of domain A": a, "truth, of domain B": b, f"a loosely paired B, level {translation.LEVEL}": loose}
    sheets, captions = list(tops.values()), list(tops)
    for title, cell in cells_of(table).items():
        translator = next((models[trial.run_id] for trial in cell.where(repeat=0)), None)
        sheets.append(translated(translator, held_out) if translator else torch.ones_like(a))
        error, kept = (cell.cell(metric, form) or "-" for metric, form in ((MAE, "{:.3f}"), (KEPT, "{:.1%}")))
        captions.append(f"{title.partition(', ')[2]}: error {error}, class kept {kept}")
    floor = f"the untranslated input has an error of {held_out.truth.floor:.3f}"
    title = f"Translation, {context.settings.task}: models (rows) trained on pairings (columns); {floor}"
    images = np.stack([plots.grid(to_pixels(sheet), ACROSS, zoom=1) for sheet in sheets])
    return plots.labelled_grid(images, ["the task", *METHODS], title, captions)


def _against_steps(context: Context, table: Table) -> plots.Figure:
    panels: dict[str, plots.Series] = {}
    for pairing in PAIRINGS:
        runs = {method: table.where(method=method, pairing=pairing).run_ids for method in METHODS}
        steps, errors = (mean_histories(runs, metric) for metric in (STEPS, OBJECTIVE))
        curves = {method: (steps[method][1], errors[method][1]) for method in errors}
        panels |= {f"mean absolute error, {pairing}": curves} if curves else {}
    title = f"Translation, {context.settings.task}: validation error in training"
    return plots.curves(panels, "steps of the translator", title)
