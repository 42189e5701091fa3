"""What the best settings are held against: other seeds, other settings, vanilla GANs, recipes, baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

import torch

from study.checks import MOST_REPEATS
from study.config import LatentGanConfig
from study.engine.search import Objective, Result, Search, Trial, integer
from study.engine.study import Study
from study.stages.gan import settings as named
from study.stages.gan.baselines import baseline_search, kernel_search, redraw_search, run_baseline_trial
from study.stages.gan.collapse import recipe_search, run_recipe_trial
from study.stages.gan.inputs import GanInputs
from study.stages.gan.trial import run_gan_trial
from study.training.gan import REFERENCE, VANILLA, GanSettings, generator_steps
from study.training.loops import steps_per_epoch
from tracking.runs import trial_metrics


@dataclass(frozen=True)
class Found:
    """What the study has found.

    Attributes:
        results: The trials of the search.
        best: The best of them.
        groups: Trainings and baselines by the names that tables give them; repeats stand together.
        mixtures: The names of those among them that are Gaussian mixtures.
        recipes: The random recipes' trainings.
    """

    results: Sequence[Result]
    best: Result
    groups: dict[str, list[Result]]
    mixtures: Sequence[str]
    recipes: Sequence[Result]

    @property
    def rival(self) -> str | None:
        """The mixture with the least mean `val/fd`: the best baseline that copies nothing."""
        known = [name for name in self.mixtures if self.groups[name]]
        return min(known, key=lambda name: mean(draw.values[0] for draw in self.groups[name]), default=None)


def search_and_compare(study: Study, inputs: GanInputs, search: Search, objective: Objective) -> Found:
    """Search the settings; train and measure all that the best are held against.

    What does not depend on the best is named before the search: no process waits while another ends the last trial.
    """
    context = study.context
    config: LatentGanConfig = context.config

    def seeds(part: str, settings: GanSettings, repeats: range, epochs: int) -> Callable[[], list[Result]]:
        """The same settings with several seeds; trainings that break down are missing."""

        def train(trial: Trial) -> tuple[float]:
            torch.manual_seed(context.seed_for(trial.params["repeat"]))
            every = config.evaluate_every
            return run_gan_trial(trial, settings, inputs=inputs, epochs=epochs, evaluate_every=every)

        fixed = {f"repeat {number}": {"repeat": number} for number in repeats}
        space = {"repeat": integer(0, MOST_REPEATS)}
        return study.ahead(Search({"val/fd": "minimize"}, space, fixed, optional=True), train, part)

    trials = study.ahead(search, objective)
    more = seeds("reference settings", REFERENCE, range(1, config.repeats), config.epochs)
    vanilla = seeds(named.VANILLA_GAN, VANILLA, range(config.vanilla_seeds), config.epochs)
    baselines = baseline_search(config.mixture_components, len(context.dataset.train))
    measure = partial(run_baseline_trial, inputs=inputs, seed_for=context.seed_for)
    measured = study.ahead(baselines, measure, "baselines")
    redrawn = study.ahead(redraw_search(baselines, range(1, config.repeats)), measure, "baselines drawn again")
    recipe = partial(run_recipe_trial, inputs=inputs, epochs=config.recipe_epochs, evaluate_every=config.evaluate_every)
    recipes: Callable[[], list[Result]] = list
    if config.recipes:
        recipes = study.ahead(recipe_search(config.recipes, context.session.seed), recipe, "recipes")

    results = trials()
    best = min(results, key=lambda result: result.values[0])
    settings = named.settings_of(best.slot, best.params)
    part = named.part_of(settings)
    # The best trial was picked for its luck too: new seeds stand for its settings.
    again = seeds(part, settings, range(1, config.repeats + 1), config.final_epochs)
    # With as many steps of the generator as the reference's settings take, which spend five batches on one.
    count = len(context.dataset.train)
    wanted = generator_steps(REFERENCE, count, config.epochs) * settings.n_critic
    few = max(1, round(wanted / steps_per_epoch(count, settings.batch_size)))
    few_steps = seeds(f"{part}, few steps", settings, range(1, 2), few)
    ablations = {
        f"best settings, {name}": seeds(f"{part}, {name}", without, range(config.repeats), config.final_epochs)
        for name, without in (named.ablations(settings) if config.ablations else {}).items()
    }
    by_slot = {result.slot: result for result in results}
    groups = {named.BEST: again() or [best], named.FEW_STEPS: few_steps()}
    if "reference" in by_slot:
        groups[named.REFERENCE_SETTINGS] = [by_slot["reference"], *more()]
    groups[named.PAPER_SETTINGS] = [by_slot["paper"]] if "paper" in by_slot else []
    groups[named.VANILLA_GAN] = vanilla()
    groups |= {name: trained() for name, trained in ablations.items()}
    drawn = [*measured(), *redrawn()]
    groups |= {name: [each for each in drawn if each.slot.partition(", draw ")[0] == name] for name in baselines.fixed}
    known = trial_metrics(study.parent)
    nearest = mean(known[result.run_id]["latent/nearest"] for result in groups[named.BEST])
    # As a distance: the test latents are its unit only, and have no part in the choice.
    kernels = kernel_search(inputs, nearest * inputs.latent_fidelity.unseen, context.seed_for(0))
    groups[named.KERNEL_DENSITY] = study.search(kernels, measure, "kernel density")
    mixtures = [name for name, params in baselines.fixed.items() if params["source"] == "mixture"]
    return Found(results, best, groups, mixtures, recipes())
