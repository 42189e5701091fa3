"""The trials of the translation stage: a translator that is trained, and the two baselines that are only measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from models.classifier import Judge
from models.translation import Translator
from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.stage import Context
from study.engine.trial import Trial
from study.measures.translation import WORKS_ERROR, Truth, error
from study.training.loops import apply, eval_mode, steps_per_epoch
from study.training.translation import BATCH_SIZE, PAIRED, SETTINGS, TASKS, make_pairs, train_translator

OBJECTIVE = "val/mae"
STEPS, STEPS_TO_GOAL = "generator/steps", "generator/steps_to_goal"
SOURCES = UNTRANSLATED, TRUE = "untranslated", "true translation"  # the floor and the ceiling
SHOWN = 10  # test images in every picture


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
        val, test = ((TASKS[task](split.images), split.images) for split in (data.val, data.test))
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
    about = {"task": settings.task, "method": method, "pairing": pairing, **SETTINGS[method]._asdict()}
    pairs = make_pairs(settings.task, data.train.images, pairing, context.seed_for(params["repeat"]))
    translator = Translator(data.image_shape).to(context.device)
    images = min(settings.images, len(data.train) // 2)  # the same for each pairing: as many steps for each model
    steps = steps_per_epoch(images, BATCH_SIZE)
    a, b = held_out.val

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        with eval_mode(translator):
            found = {OBJECTIVE: error(apply(translator, a), b), STEPS: float(epoch * steps)}
        trial.report(epoch, {**losses, **found})

    trial.log_params(SETTINGS[method]._asdict())
    report(0, {})
    started = time.monotonic()
    train_translator(translator, pairs, method, epochs=settings.epochs, images=images, report=report)
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
    at = int(below[0])
    if at == 0:
        return float(steps[0])
    return float(np.interp(-goal, [-errors[at - 1], -errors[at]], [steps[at - 1], steps[at]]))


def translated(translator: Translator, held_out: HeldOut) -> Tensor:
    """Return the translations of the shown images, floats [SHOWN, C, S, S]."""
    with eval_mode(translator):
        return translator(to_float(held_out.truth.a[held_out.shown]))


def _log_pictures(trial: Trial, translator: Translator, held_out: HeldOut) -> None:
    a, b = (to_float(images[held_out.shown]) for images in (held_out.truth.a, held_out.truth.b))
    sheet = to_pixels(torch.cat([a, translated(translator, held_out), b]))
    title = f"{trial.params['method']}, {trial.params['pairing']}"
    trial.log_image("samples", plots.grid(sheet, SHOWN), step=0)
    if trial.params["pairing"] == PAIRED:  # one of these is registered
        trial.log_figure("samples", plots.labelled_grid(sheet, ["input", "translated", "truth"], title))
    losses = {
        name: trial.history[metric]
        for name, metric in (("generator", "generator/loss"), ("discriminator", "discriminator/loss"))
        if metric in trial.history
    }
    panels = {"loss": losses, "mean absolute error, validation": {"translator": trial.history[OBJECTIVE]}}
    trial.log_figure("loss", plots.side_by_side(panels, "epoch", title))


def measure_source(trial: Trial, *, held_out: HeldOut) -> tuple[float]:
    """Measure and log the untranslated input or the true translation in a translator's place. Return `val/mae`."""
    place = SOURCES.index(trial.params["source"])
    truth = held_out.truth
    images = (truth.a, truth.b)[place]
    found = error(to_float(held_out.val[place]), held_out.val[1])
    trial.log({OBJECTIVE: found, **truth.measures(to_float(images))})
    trial.log_image("samples", plots.grid(to_pixels(images[held_out.shown]), SHOWN), step=0)
    return (found,)
