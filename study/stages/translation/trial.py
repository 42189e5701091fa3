"""One trial of the translation stage: train a translator, measure it, keep it; and the floor and the ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch

from models.translation import Translator
from study import plots
from study.config import TranslationConfig
from study.data.dataset import to_float, to_pixels
from study.engine.search import Params, Search, Trial, choice
from study.measures.translation import cycle_measures, error
from study.stages.translation.inputs import SHOWN, TranslationInputs
from study.stages.translation.recipes import OBJECTIVE, settings_of
from study.training.domains import make_pairs
from study.training.loops import apply, eval_mode, steps_per_epoch
from study.training.translation import train_translator
from study.training.translation_settings import TASKS, Task

IDENTITY, TRUTH = "identity", "truth"  # the floor and the ceiling
TRANSLATED = "translated"  # a trial's file of the shown images' translations


def run_translation_trial(
    trial: Trial,
    params: Params,
    *,
    inputs: TranslationInputs,
    config: TranslationConfig,
    seed_for: Callable[[int], int],
) -> tuple[float]:
    """Train and log a translator. Returns `val/mae`, the mean absolute error against T(a) on validation images.

    Args:
        params: All that decides the training, whether the trial is given it or searches it.
    """
    task, pairing, seed = params["task"], params["pairing"], seed_for(params["repeat"])
    torch.manual_seed(seed)
    pairs = make_pairs(task, inputs.data.train, pairing, level=params["level"], seed=seed)
    shape = list(inputs.data.image_shape)
    translator = Translator(shape).to(inputs.device)
    images = inputs.pairs_an_epoch(config)
    steps = steps_per_epoch(images, config.batch_size)
    val_a, val_b = inputs.val(task)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        with eval_mode(translator):
            found = {OBJECTIVE: error(apply(translator, val_a), val_b), "generator/steps": float(epoch * steps)}
        trial.report(epoch, {**losses, **found})

    report(0, {})
    started = time.monotonic()
    back = train_translator(
        translator,
        pairs,
        settings_of(params),
        epochs=config.epochs,
        images=images,
        batch_size=config.batch_size,
        report=report,
    )
    found = {"train/seconds": time.monotonic() - started}
    truth = inputs.truth(task)
    with eval_mode(translator):
        translated = apply(translator, truth.a)
        found |= truth.measures(translated)
        if back is not None:
            found |= cycle_measures(truth.a, translated, back, seed)
    trial.run.log(found, step=config.epochs)
    _log_pictures(trial, params, translator, inputs)
    if pairing == "paired":  # of these, the best is registered
        stored = {
            "module": {"image_shape": shape},
            "translation": {"task": task, "pairing": pairing, **asdict(settings_of(params))},
        }
        trial.log_model(translator, to_float(val_a[:2]), stored)
    return (trial.history[OBJECTIVE][1][-1],)


def _log_pictures(trial: Trial, params: Params, translator: Translator, inputs: TranslationInputs) -> None:
    a, b = inputs.shown(params["task"])
    with eval_mode(translator):
        translated = (translator(to_float(a)).clamp(0, 1) * 255).round().to(torch.uint8)
    trial.run.log_json(TRANSLATED, to_pixels(translated).tolist())
    sheet = to_pixels(torch.cat([a, translated, b]))
    level = f" (level {params['level']})" if params["level"] else ""
    title = f"{params['method']}, {params['task']}, {params['pairing']}{level}"
    trial.run.log_image("samples", plots.grid(sheet, SHOWN), step=0)
    if params["pairing"] == "paired":  # one of these is registered
        trial.run.log_figure("samples", plots.labelled_grid(sheet, ["input", "translated", "truth"], title))
    losses = {
        name: trial.history[metric]
        for name, metric in (("generator", "generator/loss"), ("discriminator", "discriminator/loss"))
        if metric in trial.history
    }
    panels = {"loss": losses, "mean absolute error, validation": {"translator": trial.history[OBJECTIVE]}}
    trial.run.log_figure("loss", plots.side_by_side(panels, "epoch", title))


def baseline_search(tasks: tuple[Task, ...]) -> Search:
    """The floor, which hands its input on, and the ceiling, T itself, of each task."""
    fixed = {f"{source}, {task}": {"source": source, "task": task} for task in tasks for source in (IDENTITY, TRUTH)}
    return Search({OBJECTIVE: "minimize"}, {"source": choice(IDENTITY, TRUTH), "task": choice(*TASKS)}, fixed)


def run_baseline_trial(trial: Trial, *, inputs: TranslationInputs) -> tuple[float]:
    """Measure and log the floor or the ceiling. Returns `val/mae`."""
    task, place = trial.params["task"], (IDENTITY, TRUTH).index(trial.params["source"])
    truth = inputs.truth(task)
    val = inputs.val(task)
    found = {OBJECTIVE: error(to_float(val[place]), val[1])}
    trial.run.log(found | truth.measures(to_float((truth.a, truth.b)[place])))
    pixels = to_pixels(inputs.shown(task)[place])
    trial.run.log_json(TRANSLATED, pixels.tolist())
    trial.run.log_image("samples", plots.grid(pixels, SHOWN), step=0)
    return (found[OBJECTIVE],)
