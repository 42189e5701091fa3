"""Figures of the translation stage, on its parent run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.search import Result
from study.engine.study import Study
from study.engine.table import spread, with_spread
from study.stages.translation.cells import KEPT, Cells
from study.stages.translation.inputs import SHOWN, TranslationInputs
from study.stages.translation.trial import IDENTITY, TRANSLATED
from study.training.domains import misalign
from study.training.translation_settings import MATRIX, MATRIX_LEVEL, Method, Pairing, Task
from tracking.runs import Run

ACROSS = SHOWN // 2  # images side by side in a cell of the matrix, which has two rows of them
MAE = "test/mae"


def log_figures(study: Study, inputs: TranslationInputs, cells: Cells) -> None:
    for number, task in enumerate(cells.tasks):
        ending = f"_{task}" if number else ""
        study.parent.log_figure(f"matrix{ending}", _matrix(study, inputs, cells, task), MATRIX_CAPTION)
        study.parent.log_figure(f"error_against_level{ending}", _against_level(cells, task), LEVEL_CAPTION)
        study.parent.log_figure(f"error_against_steps{ending}", _against_steps(cells, task), STEPS_CAPTION)


MATRIX_CAPTION = (
    "The same ten test images in each cell. Error: mean absolute error per pixel against the true translation, over "
    "all test images. Class kept: share of the translations in which the first judge sees the input's class."
)
LEVEL_CAPTION = (
    "Level l: each image of either domain is turned by up to l degrees, moved by up to 2 l % of the side and scaled by "
    "up to 2 l %, on its own. Test images are exactly paired. Bars: standard deviation over seeds."
)
STEPS_CAPTION = "Means over the seeds; exactly paired validation images."


def _matrix(study: Study, inputs: TranslationInputs, cells: Cells, task: Task) -> plots.Figure:
    """Rows of models, columns of pairings."""
    a, b = inputs.shown(task)
    loose = misalign(to_float(b), MATRIX_LEVEL)
    tops = {
        "input, of domain A": to_pixels(a),
        "truth, T(input), of domain B": to_pixels(b),
        f"a loosely paired B, level {MATRIX_LEVEL}": to_pixels(loose),
    }
    sheets, captions = [_tiled(pixels) for pixels in tops.values()], list(tops)
    for method in cells.methods(task):
        for pairing in MATRIX:
            runs = cells.runs(task, method, pairing)
            sheets.append(_tiled(_translated(study, runs[0]) if runs else np.full_like(to_pixels(a), 255)))
            captions.append(_caption(cells, task, method, pairing))
    floor = f"the untranslated input has an error of {cells.baseline_value(task, IDENTITY, MAE):.3f}"
    title = f"Translation, {task}: models (rows) trained on pairings (columns); {floor}"
    return plots.labelled_grid(np.stack(sheets), ["the task", *cells.methods(task)], title, captions)


def _caption(cells: Cells, task: Task, method: Method, pairing: Pairing) -> str:
    error = cells.cell(task, method, pairing, MAE)
    kept = with_spread(cells.values(task, method, pairing, KEPT[0]), "{:.1%}") if error != "failed" else "-"
    return f"{pairing}: error {error}, class kept {kept}"


def _translated(study: Study, result: Result) -> np.ndarray:
    """The shown images' translations, uint8 [SHOWN, S, S] or [SHOWN, S, S, 3]."""
    run = Run(result.run_id, study.parent.experiment_id, study.parent.study)
    return np.asarray(run.read_json(TRANSLATED), dtype=np.uint8)


def _tiled(pixels: np.ndarray) -> np.ndarray:
    """Images in two rows as one image."""
    apart = np.pad(pixels, [(0, 0), (0, 1), (0, 1), (0, 0)][: pixels.ndim], constant_values=128)
    rows = [np.concatenate(list(part), 1) for part in (apart[:ACROSS], apart[ACROSS:])]
    return np.concatenate(rows, 0)


def _against_level(cells: Cells, task: Task) -> plots.Figure:
    series = {}
    for method in cells.methods(task):
        groups = {
            level: cells.values(task, method, "loosely paired" if level else "paired", MAE, level=level)
            for level in cells.levels(task)
        }
        spreads = [(level, *spread(values)) for level, values in groups.items() if values]
        if spreads:
            series[method] = tuple(map(list, zip(*spreads, strict=True)))
    floor = f"the untranslated input has {cells.baseline_value(task, IDENTITY, MAE):.3f}"
    title = f"Translation, {task}: error against misalignment of the training pairs; {floor}"
    x, y = "level of misalignment (0: exactly paired)", "mean absolute error, test"
    return plots.curves(series, x, y, title, markers=True)


def _against_steps(cells: Cells, task: Task) -> plots.Figure:
    panels: dict[str, dict[str, tuple[Sequence[float], ...]]] = {}
    for pairing in MATRIX:
        for method in cells.methods(task):
            curves = [cells.curve(run) for run in cells.runs(task, method, pairing)]
            if curves:
                middle = np.mean([errors for _, errors in curves], axis=0).tolist()
                panels.setdefault(f"mean absolute error, {pairing}", {})[method] = (curves[0][0], middle)
    return plots.side_by_side(panels, "steps of the translator", f"Translation, {task}: validation error in training")
