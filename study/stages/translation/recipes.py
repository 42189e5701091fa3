"""Which trainings there are: our recipe of each model, the search for better ones, the matrix of models and pairings.

Every training is known by its parameters: task, model, pairing, level, repeat, learning rates and loss weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace

from study.checks import MOST_REPEATS
from study.config import TranslationConfig
from study.engine.search import Objective, Params, Result, Search, choice, integer, log_uniform, named, uniform
from study.engine.study import Study
from study.training.translation_settings import (
    CONDITIONAL_GAN,
    CYCLE_GAN,
    GAN,
    L1,
    LEVELS,
    MATRIX,
    MATRIX_LEVEL,
    METHODS,
    PAIRINGS,
    PUBLISHED,
    TASKS,
    Method,
    Pairing,
    Task,
    TranslationSettings,
)

OURS: Mapping[Method, TranslationSettings] = {
    GAN: replace(PUBLISHED[GAN], learning_rate=5e-4, discriminator_rate=5e-4),
    CYCLE_GAN: replace(PUBLISHED[CYCLE_GAN], learning_rate=1e-3, discriminator_rate=1e-3, weight=1.0, identity=0.0),
    CONDITIONAL_GAN: replace(PUBLISHED[CONDITIONAL_GAN], learning_rate=1e-3, discriminator_rate=1e-3),
    L1: replace(PUBLISHED[L1], learning_rate=1e-3),
}
"""For batches of 32 and few epochs, chosen among a few on MNIST's validation images (docs/log.md): with the published
weights of cycle and identity loss, CycleGAN hands its input on for as long as that."""
RATES, WEIGHTS, MOST_WEIGHT = (1e-4, 1e-2), (0.1, 300.0), 1000.0
OBJECTIVE = "val/mae"
Cell = tuple[Task, Method, Pairing]


def settings_of(params: Params) -> TranslationSettings:
    """The settings among a trial's parameters."""
    return TranslationSettings(**{each.name: params[each.name] for each in fields(TranslationSettings)})


def matrix_search(trials: Sequence[Params]) -> Search:
    """Trainings with given settings; a rate or a weight of 0: the model has none."""
    space = {
        "task": choice(*TASKS),
        "method": choice(*METHODS),
        "pairing": choice(*PAIRINGS),
        "level": integer(0, LEVELS[-1]),
        "repeat": integer(0, MOST_REPEATS),
        "learning_rate": uniform(0, 1),
        "discriminator_rate": uniform(0, 1),
        "weight": uniform(0, MOST_WEIGHT),
        "identity": uniform(0, 1),
    }
    return Search({OBJECTIVE: "minimize"}, space, named(trials))


def matrix_trials(config: TranslationConfig, recipe: Callable[[Cell], TranslationSettings]) -> list[Params]:
    """The parameters of each training: the matrix first, then other levels and other pairings."""

    def trial(task: Task, method: Method, pairing: Pairing, level: int, repeat: int) -> Params:
        near: Pairing = {"class": "loosely paired", "shifted": "unpaired"}.get(pairing, pairing)  # type: ignore[assignment]
        settings = asdict(recipe((task, method, near)))
        return {"task": task, "method": method, "pairing": pairing, "level": level, "repeat": repeat, **settings}

    columns: list[tuple[Pairing, int, int]] = [(each, level_of(each), config.repeats) for each in MATRIX]
    columns += [("loosely paired", level, config.level_repeats) for level in config.levels]
    columns += [(each, 0, config.level_repeats) for each in config.pairings]
    return [
        trial(task, method, pairing, level, repeat)
        for task in config.tasks
        for pairing, level, repeats in columns
        for repeat in range(repeats)
        for method in METHODS
    ]


def level_of(pairing: Pairing) -> int:
    """The level of misalignment of a pairing in the matrix."""
    return MATRIX_LEVEL if pairing == "loosely paired" else 0


def cell_search(method: Method, free: int) -> Search:
    """A search over a model's learning rates and loss weights, which begins with our recipe and the published one."""
    published = PUBLISHED[method]
    space = {"learning_rate": log_uniform(*RATES)}
    if published.discriminator_rate:
        space["discriminator_rate"] = log_uniform(*RATES)
        if published.weight:
            space["weight"] = log_uniform(*WEIGHTS)
        if published.identity:
            space["identity"] = uniform(0, 1)
    fixed = {
        name: {key: asdict(settings)[key] for key in space}
        for name, settings in (("ours", OURS[method]), ("published", published))
    }
    return Search({OBJECTIVE: "minimize"}, space, fixed, free, prune_on=OBJECTIVE, prune_after=2)


def search_recipes(
    study: Study, config: TranslationConfig, objective: Callable[[Cell], Objective]
) -> Callable[[Cell], TranslationSettings]:
    """The recipe of each cell of the matrix: the best of a search of its own, all of the same size; else ours."""
    best: dict[Cell, TranslationSettings] = {}
    cells: list[Cell] = [(task, method, pairing) for task in config.tasks for method in METHODS for pairing in MATRIX]
    for cell in cells if config.free_trials else []:
        task, method, pairing = cell
        found: Sequence[Result] = study.search(
            cell_search(method, config.free_trials), objective(cell), f"recipes, {task}, {method}, {pairing}"
        )
        best[cell] = replace(OURS[method], **min(found, key=lambda result: result.values[0]).params)
    return lambda cell: best.get(cell, OURS[cell[1]])
