"""Which GANs collapse? Random recipes of a vanilla GAN, and each of them again as a WGAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import binomtest

from study.engine.search import Params, Result, Search, Trial, choice, integer, log_uniform
from study.engine.stage import Verdict
from study.stages.gan.inputs import GanInputs
from study.stages.gan.watch import Watch
from study.training.gan import VANILLA, GanSettings, describe, train_gan
from study.training.loops import Diverged
from tracking.runs import Measured

KINDS = ("vanilla GAN", "WGAN")
CLIP_VALUE = 0.1
RATES, DEPTHS, STEPS = (5e-5, 5e-3), (1, 4), (1, 5)
BROKE_DOWN = "broke down"  # its numbers were no longer finite
CONFIDENCE = 0.95
ALL_RECIPES = "all recipes"


def recipe_search(recipes: int, seed: int) -> Search:
    """Random recipes, each as a vanilla GAN and as a WGAN; if more are asked for, the first stay the same."""
    space = {
        "kind": choice(*KINDS),
        "recipe": integer(0, 9999),
        "latents": choice("standardised", "raw"),
        "loss": choice("saturating", "non-saturating"),
        "critic_norm": choice(False, True),
        "learning_rate": log_uniform(*RATES),
        "n_critic": integer(*STEPS),
        "depth": integer(*DEPTHS),
    }
    fixed: dict[str, Params] = {}
    for number in range(recipes):
        for kind in KINDS:
            fixed[f"recipe {number}, {kind}"] = {"kind": kind, "recipe": number, **_random_recipe(number, seed)}
    return Search({"collapse/last": "minimize"}, space, fixed, optional=True)


def _random_recipe(number: int, seed: int) -> Params:
    random = np.random.default_rng([seed, number])
    low, high = np.log(RATES)
    return {
        "latents": str(random.choice(["standardised", "raw"])),
        "loss": str(random.choice(["saturating", "non-saturating"])),
        "critic_norm": bool(random.random() < 0.5),
        "learning_rate": float(np.exp(random.uniform(low, high))),
        "n_critic": int(random.integers(STEPS[0], STEPS[1] + 1)),
        "depth": int(random.integers(DEPTHS[0], DEPTHS[1] + 1)),
    }


def recipe_settings(params: Params) -> GanSettings:
    """The settings of a recipe; a WGAN has no saturating loss, and clips its critic's weights."""
    wgan = params["kind"] == "WGAN"
    return replace(
        VANILLA,
        clip_value=CLIP_VALUE if wgan else None,
        learning_rate=params["learning_rate"],
        n_critic=params["n_critic"],
        depth=params["depth"],
        critic_norm=params["critic_norm"],
        saturating=params["loss"] == "saturating" and not wgan,
    )


def run_recipe_trial(trial: Trial, *, inputs: GanInputs, epochs: int, evaluate_every: int) -> tuple[float]:
    """Train a GAN by a recipe and watch it. Returns `collapse/last`: 1 if it has collapsed at the end, else 0.

    A training whose numbers are no longer finite has made nothing in the end: it counts as collapsed.
    """
    settings = recipe_settings(trial.params)
    encoded = inputs.encoded if trial.params["latents"] == "standardised" else inputs.raw
    model, critic, _ = inputs.build(settings, encoded, 0)
    watch = Watch(inputs, model, settings, 0, epochs)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        if epoch % evaluate_every and epoch < epochs:
            trial.report(epoch, losses)
            return
        watch.show(trial, epoch)
        measures = watch.measures(model.generator)
        watch.has_collapsed(epoch, measures)
        trial.report(epoch, {**losses, **measures})

    trial.run.log_params({"batch_size": settings.batch_size, "epochs": epochs, "clip_value": settings.clip_value})
    no_labels = torch.empty(len(encoded.vectors), 0, device=inputs.device)
    try:
        train_gan(model.generator, critic, encoded.vectors, no_labels, settings, epochs=epochs, report=report)
        way = watch.collapses[max(watch.collapses)]
    except Diverged:
        way, watch.collapses[epochs] = BROKE_DOWN, BROKE_DOWN
    trial.run.set_tags({"collapse": way or "none", "what": describe(settings)})
    found = watch.collapse_measures()
    trial.run.log(found)
    if "val/fd" in trial.history:  # else it broke down before it was looked at
        watch.log_figures(trial, describe(settings))
    return (found["collapse/last"],)


@dataclass(frozen=True)
class Share:
    """k of n trainings, with Wilson's interval of the share (Wilson 1927, https://doi.org/10.2307/2276774)."""

    k: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """At 95 % confidence; all of [0, 1] of no trainings."""
        if not self.n:
            return 0.0, 1.0
        found = binomtest(self.k, self.n).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.k} of {self.n} ({low:.0%} to {high:.0%})"


def collapsed(measured: Measured, results: Sequence[Result], asked: int = 0) -> Share:
    """How many of these trainings have collapsed at the end; those that broke down, of so many, among them."""
    broken = max(0, asked - len(results))
    return Share(
        sum(measured[result.run_id]["collapse/last"] > 0 for result in results) + broken, len(results) + broken
    )


def collapse_shares(results: Sequence[Result], measured: Measured) -> list[tuple[str, str, Share]]:
    """How many collapse with each choice of a recipe, by kind of GAN; numbers are halved at their middle."""
    options: dict[str, list[Result]] = {ALL_RECIPES: list(results)}
    for name in ("latents", "loss", "critic_norm", "learning_rate", "n_critic", "depth"):
        values = [result.params[name] for result in results]
        halved = isinstance(values[0], int | float) and not isinstance(values[0], bool)
        middle = float(np.median(values)) if halved else 0.0
        for result in results:
            value = result.params[name]
            option = f"{'<=' if value <= middle else '>'} {middle:.2g}" if halved else str(value)
            options.setdefault(f"{name} {option}".replace("_", " "), []).append(result)
    return [
        (option, kind, collapsed(measured, [result for result in ours if result.params["kind"] == kind]))
        for option, ours in options.items()
        for kind in KINDS
    ]


def collapse_table(results: Sequence[Result], measured: Measured) -> dict[str, list[str]]:
    """`collapse_shares`, a row a choice, a column a kind of GAN, with Wilson's intervals."""
    shares = collapse_shares(results, measured)
    table = {"choice": [option for option, kind, _ in shares if kind == KINDS[0]]}
    return table | {f"{kind}, collapsed": [str(share) for _, each, share in shares if each == kind] for kind in KINDS}


def share_verdict(ours: Share, against: Share | float) -> Verdict:
    """Whether our share is above another, or above a fixed one: held or not if the intervals are apart."""
    low, high = ours.interval
    other_low, other_high = against.interval if isinstance(against, Share) else (against, against)
    if low > other_high:
        return "held"
    return "did not hold" if high < other_low else "undecided"


def collapsed_alone(recipes: Sequence[Result], measured: Measured) -> tuple[int, int]:
    """Of how many recipes only the first of KINDS has collapsed, and of how many only the second."""
    ended: dict[int, dict[str, bool]] = {}
    for result in recipes:
        ended.setdefault(result.params["recipe"], {})[result.params["kind"]] = (
            measured[result.run_id]["collapse/last"] > 0
        )
    pairs = [tuple(each[kind] for kind in KINDS) for each in ended.values() if len(each) == len(KINDS)]
    return pairs.count((True, False)), pairs.count((False, True))


def paired_verdict(ours: int, others: int) -> Verdict:
    """Whether ours collapse more often than the others by the same recipes: McNemar's exact test of the recipes with
    which only one of them does (1947, https://doi.org/10.1007/BF02295996), at a level of 5 %.
    """
    if not ours + others or binomtest(ours, ours + others).pvalue >= 1 - CONFIDENCE:
        return "undecided"
    return "held" if ours > others else "did not hold"
