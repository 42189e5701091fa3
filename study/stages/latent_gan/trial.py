"""The trials of the latent GAN (given and searched settings, baselines, random recipes), and what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from operator import ge, lt
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from models.gan import LatentGenerator
from study import plots
from study.data.dataset import to_pixels
from study.engine.search import Params
from study.engine.stage import Context
from study.engine.study import Study
from study.engine.trial import Trial
from study.measures.interpolation import CANDIDATES, PATHS, class_pairs, interpolate, slerp
from study.measures.judges import REPORTING
from study.results import FD_MARGIN, Result, Row, Table, claim, compared, wide_table
from study.stages import generators
from study.stages.generators import MIXTURE, REAL, RECONSTRUCTIONS, TEST_RECONSTRUCTIONS, GanInputs, GanTraining
from study.stages.latent_gan.search import OBJECTIVE, settings_of
from study.training import gan
from study.training.loops import Diverged, apply, eval_mode
from study.training.sampling import noise
from tracking.models import logged_model
from tracking.runs import mean_histories

NAMED = {"paper": gan.PAPER, "reference": gan.REFERENCE, "vanilla": gan.VANILLA}
COMPARED = ("reference",)  # those that have all repeats
COLLAPSED = "collapse/last"  # 1 if a GAN has collapsed at the end, else 0
KINDS = ("vanilla GAN", "WGAN")  # of a random recipe
RECIPE_EPOCHS, RECIPE_CLIP = 20, 0.1
RATES, STEPS, DEPTHS = (5e-5, 5e-3), (1, 5), (1, 4)  # of random recipes
SEARCH, EQUAL_STEPS = "search", "equal steps"  # parts of the study
BEST, EQUAL, REFERENCE, PAPER, VANILLA = (
    *("WGAN, settings found", "WGAN, settings found, equal steps"),
    *("WGAN, reference settings", "WGAN, paper settings", "vanilla GAN"),
)
OTHERS = {REFERENCE: "reference", PAPER: "paper", VANILLA: "vanilla"}  # and their parameter `settings`
COPYING = 0.95  # the least distance to the nearest training latent, in units of test latents', that is no copying
RECALL = 0.97  # the fraction of the rival's recall that counts as no loss
FIGURE_PATHS = 4  # paths of each kind in the interpolation figure


def train(trial: Trial, inputs: GanInputs, epochs: int) -> tuple[float]:
    """Train, measure and log the GAN of a trial's parameters: named settings, or found ones. Return `val/fd`."""
    every, name = inputs.context.settings.evaluate_every, trial.params.get("settings", "")
    settings = NAMED.get(name) or settings_of(trial.params)
    return generators.gan_trial(trial, inputs, settings, epochs=epochs, evaluate_every=every)


def baseline_list(context: Context) -> list[Params]:
    """Return real images, reconstructions, and mixtures of at most as many components as there are latents; fits and
    draws of a mixture are repeated as often as trainings.
    """
    counts = [count for count in context.settings.mixture_components if count <= len(context.dataset.train)]
    mixtures: list[Params] = [
        {"source": MIXTURE, "components": count, "repeat": repeat} for repeat in context.repeats for count in counts
    ]
    return [{"source": source} for source in (REAL, RECONSTRUCTIONS, TEST_RECONSTRUCTIONS)] + mixtures


def recipe_list(count: int, seed: int) -> list[Params]:
    """Return random recipes, each as vanilla GAN and as WGAN; a longer list begins with the same recipes."""
    recipes: list[Params] = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        recipe = {
            "latents": str(random.choice(["standardised", "raw"])),
            "loss": str(random.choice(["saturating", "non-saturating"])),
            "critic_norm": bool(random.random() < 0.5),
            "learning_rate": float(np.exp(random.uniform(*np.log(RATES)))),
            "n_critic": int(random.integers(*STEPS, endpoint=True)),
            "depth": int(random.integers(*DEPTHS, endpoint=True)),
        }
        recipes += [{"kind": kind, "recipe": number, **recipe} for kind in KINDS]
    return recipes


def recipe_settings(params: Params) -> gan.GanSettings:
    """Return the settings of a recipe; a WGAN has no saturating loss, and clips its critic's weights."""
    wgan = params["kind"] == "WGAN"
    return replace(
        gan.VANILLA,
        clip_value=RECIPE_CLIP if wgan else None,
        saturating=params["loss"] == "saturating" and not wgan,
        **{name: params[name] for name in ("learning_rate", "n_critic", "depth", "critic_norm")},
    )


def train_recipe(trial: Trial, inputs: GanInputs) -> tuple[float]:
    """Train the GAN of a recipe. Return whether it has collapsed at the end; one that diverges counts as collapsed."""
    config, raw = inputs.context.settings, trial.params["latents"] == "raw"
    epochs = min(RECIPE_EPOCHS, config.epochs)
    encoded = inputs.encoded.raw(inputs.autoencoder) if raw else inputs.encoded
    training = GanTraining(trial, inputs, recipe_settings(trial.params), epochs, config.evaluate_every, encoded)
    try:
        training.run()
    except Diverged:
        training.collapses[epochs] = "diverged"
    trial.set_tags({"collapse": training.collapses[max(training.collapses)] or "none"})
    measures = training.collapse_measures()
    trial.log(measures)
    if "val/fd" in trial.history:  # else it diverged before it was evaluated
        training.log_samples()
    return (measures[COLLAPSED],)


def distance(trial: Result) -> float:
    """Return a trial's `val/fd`."""
    return trial.values[0]


def log_outcome(study: Study, inputs: GanInputs, finals: Sequence[Result]) -> list[Row]:
    """Log all tables and figures on the parent run, and return the rows.

    Args:
        finals: The trainings with the best settings.
    """
    parent, table = study.parent, study.table()
    groups, recipes = groups_of(table, finals), table.where(part="recipes")
    parent.log_table("generators", wide_table("generator", groups, generators.MEASURES))
    _log_generators(study, groups)
    generators.log_losses(study, {title: groups[title] for title in (BEST, REFERENCE, PAPER)}, "WGAN settings compared")
    searched = log_search(study)
    log_interpolations(study, inputs, min(finals, key=distance))
    if len(recipes):
        parent.log_table("collapse", collapse_table(recipes))
    return [*rows(study.context, groups, recipes), *searched]


def log_search(study: Study) -> list[Row]:
    """Log how the best of the search fell from trial to trial, and what its parameters explain. Return its rows."""
    trials, config = study.table().where(part=SEARCH), study.context.settings
    curve = [trial.number for trial in trials], list(accumulate(map(distance, trials), min))
    title, y = "The search for WGAN settings", "least Frechet distance so far (judge 1, validation)"
    figure = plots.curves({y: {config.sampler: curve}}, "trial", title, log_y=True, markers=True)
    study.parent.log_figure("search", figure, "Complete trials only; pruned ones were behind.")
    pruned = mean_histories({trial.run_id: [trial.run_id] for trial in study.pruned(SEARCH)}, OBJECTIVE)
    saved = sum(config.search_epochs - steps[-1] for steps, _ in pruned.values())
    cost = f"{saved:.0f} of {config.search_epochs * (len(trials) + len(pruned))} epochs saved"
    found = [Row("search: WGAN trials", f"{len(trials)} complete, {len(pruned)} pruned", None, cost)]
    if len(trials):
        found.append(Row("search: settings found", gan.describe(settings_of(min(trials, key=distance).params))))
    if importance := study.importances(SEARCH):
        title = "What the Frechet distance of a WGAN trial depends on (PED-ANOVA)"
        caption = "A long bar: this parameter decides most about a trial's rank, within the ranges searched."
        study.parent.log_figure("importances", plots.bars(importance, "fraction of the variance", title), caption)
        shown = ", ".join(f"{name.replace('_', ' ')} {fraction:.0%}" for name, fraction in importance.items())
        found.append(Row("search: fraction of the variance that a parameter explains", shown))
    return found


def groups_of(table: Table, finals: Sequence[Result]) -> dict[str, Table]:
    """Return trainings and baselines by title; repeats stand together, and a group may be empty."""
    best = {result.run_id for result in finals}
    groups = {BEST: Table([trial for trial in table if trial.run_id in best]), EQUAL: table.where(part=EQUAL_STEPS)}
    groups |= {title: table.where(part="settings", settings=name) for title, name in OTHERS.items()}
    baselines: dict[str, list[Result]] = {}
    for trial in table.where(part="baselines"):
        mixture = trial.params["source"] == MIXTURE
        title = f"GMM-{trial.params['components']}" if mixture else trial.params["source"]
        baselines.setdefault(title, []).append(trial)
    return groups | {title: Table(trials) for title, trials in baselines.items()}


def best_mixture(groups: Mapping[str, Table]) -> str:
    """Return the title of the mixture with the least mean `val/fd`; "" if there is none."""
    distances = {title: trials.values("val/fd", source=MIXTURE) for title, trials in groups.items()}
    return min((title for title in distances if distances[title]), key=lambda title: mean(distances[title]), default="")


def rows(context: Context, groups: Mapping[str, Table], recipes: Table) -> list[Row]:
    """Return the figures of the best settings beside the best mixture, real images and reconstructions; the claims."""
    rival, best = best_mixture(groups), groups[BEST]
    beside = {title: groups.get(title, Table([])) for title in (rival, REAL, RECONSTRUCTIONS, REFERENCE)}
    fd, recall = (f"{REPORTING}/{name}" for name in ("fd", "recall"))
    said = f"The WGAN on the latents draws at a Frechet distance of {best.cell(fd, '{:.2f}')} from the test images"
    cells = {title: beside[title].cell(fd, "{:.2f}") for title in (rival, REAL)}
    near = ", ".join(f"{title} {cell}" for title, cell in cells.items() if cell)
    copies = f"Its latents are at least {COPYING} times as far from training latents as test latents: no copies"
    nearer = f"The WGAN comes nearer to the test images than {rival}"
    claims: dict[str, dict[str, Any]] = {
        fd: {"text": nearer, "within": FD_MARGIN, "primary": True},
        recall: {"text": f"Its recall is at least {RECALL} of {rival}'s", "factor": RECALL, "better": "more"},
        "latent/nearest": {"text": copies, "goal": COPYING, "better": "more"},
    }
    claims[fd]["found"] = f"{said} ({near}; less is nearer){generators.caution(context)}"
    labels = {REFERENCE: "best by hand", PAPER: "poor", VANILLA: "collapses"} if context.has_reference else {}
    return [
        *generators.weak_judges(context.inputs),
        _found_row(groups, fd),
        *generators.measure_rows(best, beside, claims),
        *(
            compared(f"FD, judge 3, {title}", groups[title].values(fd), {BEST: best.values(fd)}, reference=label)
            for title, label in {**dict.fromkeys(OTHERS), **labels}.items()
        ),
        *_collapse_rows(context, groups, recipes),
    ]


def _found_row(groups: Mapping[str, Table], fd: str) -> Row:
    """Return the claim that the study was made for: the search against settings that were found by hand."""
    ours, rival = (groups[title].values(fd) for title in (EQUAL, REFERENCE))
    text = "The search finds better settings than the reference found by hand, at as many generator steps"
    title, beside = f"FD, judge 3, {EQUAL}", {REFERENCE: rival}
    return compared(title, ours, beside, text=text, metric=fd, within=FD_MARGIN, primary=True)


def _collapse_rows(context: Context, groups: Mapping[str, Table], recipes: Table) -> list[Row]:
    """Return how many vanilla GANs collapse, with one recipe, and with random recipes."""
    found, said = [], "collapses" if context.has_reference else None
    ended = [groups[title].values(COLLAPSED) for title in (VANILLA, BEST)]
    trained = 1, len(context.repeats)
    missing = [[1.0] * (count - len(values)) for count, values in zip(trained, ended, strict=True)]  # they diverged
    vanilla, wgan = (fraction([*values, *lost]) for values, lost in zip(ended, missing, strict=True))
    found.append(Row("collapsed: vanilla GANs of one recipe", vanilla, said, f"WGANs {wgan}"))
    pairs = [{trial.params["recipe"]: trial.values[0] for trial in recipes.where(kind=kind)} for kind in KINDS]
    both = sorted(pairs[0].keys() & pairs[1].keys())
    if both:
        ours, rival = ([values[recipe] for recipe in both] for values in pairs)
        text = "A vanilla GAN collapses more often than a WGAN of the same recipe"
        shown = f"WGANs {fraction(rival)}"
        decided = claim(text, ours, rival, better="more", paired=True, shown=shown)
        found.append(Row("collapsed: vanilla GANs of random recipes", fraction(ours), said, shown, decided))
    return found


def fraction(values: Sequence[float]) -> str:
    """Return "k of n" of values 0 and 1, with Wilson's 95 % interval (1927, https://doi.org/10.2307/2276774)."""
    count = round(sum(values))
    if not values:
        return "0 of 0"
    interval = binomtest(count, len(values)).proportion_ci(0.95, method="wilson")
    return f"{count} of {len(values)} ({interval.low:.0%} to {interval.high:.0%})"


def collapse_table(recipes: Table) -> dict[str, list[str]]:
    """Return how many trainings collapsed with each choice of a recipe, a column for each kind of GAN; numbers are
    halved at their median.
    """
    choices: dict[str, dict[str, Any]] = {"all recipes": {}}
    for name in ("latents", "loss", "critic_norm", "learning_rate", "n_critic", "depth"):
        values, label = [trial.params[name] for trial in recipes], name.replace("_", " ")
        if isinstance(values[0], str | bool):
            choices |= {f"{label} {value}": {name: value} for value in sorted(set(values))}
        else:
            middle = median(values)
            choices[f"{label} <= {middle:.2g}"] = {name: partial(ge, middle)}
            choices[f"{label} > {middle:.2g}"] = {name: partial(lt, middle)}
    return {"choice": [*choices]} | {
        f"{kind}, collapsed": [fraction(recipes.values(COLLAPSED, kind=kind, **each)) for each in choices.values()]
        for kind in KINDS
    }


def _log_generators(study: Study, groups: Mapping[str, Table]) -> None:
    x, y = f"{REPORTING}/fd", f"{REPORTING}/recall"
    points = {title: [(each.metrics[x], each.metrics[y], "") for each in trials] for title, trials in groups.items()}
    title = "Generators and baselines\n(judge 3, which took no part in any choice; test images)"
    figure = plots.scatter(points, "Frechet distance (less is better)", "recall (more is better)", title, log_x=True)
    caption = (
        "The upper left is better: near to the real images, and no kind of them left out. Real images are the floor of "
        "the distance, reconstructions what the decoder can do at best."
    )
    study.parent.log_figure("generators", figure, caption)


def log_interpolations(study: Study, inputs: GanInputs, best: Result) -> None:
    """Log a figure and a table of paths between the same pairs of classes: straight and spherical through the noise of
    the best generator, straight through the autoencoder's latents.
    """
    context, stored = study.context, logged_model(best.run_id)
    model = stored.rebuild(LatentGenerator).to(context.device)
    vectors = noise(CANDIDATES, stored.config()["settings"]["noise_dim"], context.session.seed, context.device)
    names, judge = context.dataset.classes, inputs.judges.first
    wanted = class_pairs(PATHS, len(names), context.session.seed)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return inputs.tone(inputs.autoencoder.decoder(latents))

    with eval_mode(inputs.autoencoder, model):
        latents = apply(inputs.autoencoder.encoder, context.dataset.val.images[:CANDIDATES])
        paths = {
            "noise, linear": interpolate(vectors, model, torch.lerp, wanted, judge),
            "noise, spherical": interpolate(vectors, model, slerp, wanted, judge),
            "latents, linear": interpolate(latents, decode, torch.lerp, wanted, judge),
        }
    columns = {"no_class": "{:.1%}", "third_class": "{:.0%}", "smoothness": "{:.2f}"}
    cells = {key: [form.format(path.measures[key]) for path in paths.values()] for key, form in columns.items()}
    study.parent.log_table("interpolation", {"path": [*paths], **cells})
    pairs = wanted[:FIGURE_PATHS].tolist()
    labels = [f"{kind}, {names[start]} to {names[end]}" for kind in paths for start, end in pairs]
    images = torch.cat([path.images[:FIGURE_PATHS].flatten(0, 1) for path in paths.values()])
    title = "Interpolation between the same classes, through noise and through latents"
    caption = (
        "Each row goes from one class to another in ten equal steps, through the generator's noise or through the "
        "autoencoder's latents. The table says how many images are of no class, how many paths pass a third one, and "
        "how equal the steps are (1: all are): a path that jumps has few images of no class, but is not smooth."
    )
    study.parent.log_figure("interpolation", plots.labelled_grid(to_pixels(images), labels, title), caption)
