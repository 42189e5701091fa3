"""The trials of the latent GAN (given and searched settings, baselines, random recipes), and what is reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
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
from study.measures.interpolation import CANDIDATES, PATHS, Interpolation, class_pairs, interpolate, slerp
from study.measures.judges import PREFIXES, REPORTING, SELECTING
from study.results import Result, Row, Table, claim
from study.stages.generators import (
    LOSSES,
    MIXTURE,
    REAL,
    RECONSTRUCTIONS,
    TEST_RECONSTRUCTIONS,
    GanInputs,
    GanTraining,
    caution,
    gan_trial,
    row,
    weak_judges,
)
from study.stages.latent_gan.search import settings_of
from study.training import gan
from study.training.loops import Diverged, apply, eval_mode
from study.training.sampling import noise
from tracking.models import logged_model
from tracking.runs import metric_history

NAMED = {"paper": gan.PAPER, "reference": gan.REFERENCE, "vanilla": gan.VANILLA}
COLLAPSED = "collapse/last"  # 1 if a GAN has collapsed at the end, else 0
KINDS = ("vanilla GAN", "WGAN")  # of a random recipe
RECIPE_EPOCHS, RECIPE_CLIP = 20, 0.1
RATES, STEPS, DEPTHS = (5e-5, 5e-3), (1, 5), (1, 4)  # of random recipes
SEARCH, EQUAL_STEPS = "search", "equal steps"  # parts of the study
BEST, EQUAL, REFERENCE, PAPER, VANILLA = (
    *("WGAN, settings found", "WGAN, settings found, the reference's steps"),
    *("WGAN, reference settings", "WGAN, paper settings", "vanilla GAN"),
)
OTHERS = {REFERENCE: "reference", PAPER: "paper", VANILLA: "vanilla"}  # and their parameter `settings`
JUDGED = (
    *("fd", "intra_fd", "precision", "recall", "density", "coverage", "diversity"),
    *("modes", "class_kl", "low_confidence", "nearest"),
)
LATENT = ("two_sample_accuracy", "sliced_wasserstein", "nearest")
FORMS = {"modes": "{:.0f}", "class_kl": "{:.4f}"}
COPYING = 0.95  # the least distance to the nearest training latent, in units of test latents', that is no copying
RECALL = 0.97  # the fraction of the rival's recall that counts as no loss
FIGURE_PATHS = 4  # paths of each kind in the interpolation figure


def settings_list(repeats: Sequence[int]) -> list[Params]:
    """Return the trials with given settings."""
    return [{"settings": name, "repeat": repeat} for repeat in repeats for name in NAMED]


def train(trial: Trial, inputs: GanInputs, epochs: int) -> tuple[float]:
    """Train, measure and log the GAN of a trial's parameters: named settings, or found ones. Return `val/fd`."""
    every, name = inputs.context.settings.evaluate_every, trial.params.get("settings", "")
    settings = NAMED.get(name) or settings_of(trial.params)
    return gan_trial(trial, inputs, settings, epochs=epochs, evaluate_every=every)


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
        training.log_figures()
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
    parent.log_table("generators", generator_table(groups))
    paths = interpolations(study.context, inputs, min(finals, key=distance))
    parent.log(
        {f"interpolation/{name}/{key}": value for name, path in paths.items() for key, value in path.measures.items()}
    )
    _log_generators(study, groups)
    _log_losses(study, groups)
    log_search(study)
    _log_interpolations(study, paths)
    if len(recipes):
        parent.log_table("collapse", collapse_table(recipes))
    return rows(study.context, groups, recipes, paths)


def log_search(study: Study) -> None:
    """Log how the best of the search fell from trial to trial, and what its parameters explain."""
    least, curve = math.inf, ([], [])  # type: tuple[float, tuple[list[int], list[float]]]
    for trial in study.table().where(part=SEARCH):
        least = min(least, distance(trial))
        curve[0].append(trial.number)
        curve[1].append(least)
    title, y = "The search for WGAN settings", "least Frechet distance so far (judge 1, validation)"
    figure = plots.curves({study.context.settings.sampler: curve}, "trial", y, title, log_y=True, markers=True)
    study.parent.log_figure("search", figure, "Complete trials only; pruned ones were behind.")
    if importance := study.importances(SEARCH):
        title = "What the Frechet distance of a WGAN trial depends on (PED-ANOVA)"
        caption = "A long bar: this parameter decides most about a trial's rank, within the ranges searched."
        study.parent.log_figure("importances", plots.bars(importance, "fraction of the variance", title), caption)


def groups_of(table: Table, finals: Sequence[Result]) -> dict[str, Table]:
    """Return trainings and baselines by title; repeats stand together, and a group may be empty."""
    best = {result.run_id for result in finals}
    groups = {BEST: Table([trial for trial in table if trial.run_id in best]), EQUAL: table.where(part=EQUAL_STEPS)}
    groups |= {title: table.where(part="settings", settings=name) for title, name in OTHERS.items()}
    baselines: dict[str, list[Result]] = {}
    for trial in table.where(part="baselines"):
        count = trial.params.get("components")
        title = trial.params["source"] if count is None else "one Gaussian" if count == 1 else f"GMM-{count}"
        baselines.setdefault(title, []).append(trial)
    return groups | {title: Table(trials) for title, trials in baselines.items()}


def best_mixture(groups: Mapping[str, Table]) -> str:
    """Return the title of the mixture with the least mean `val/fd`; "" if there is none."""
    distances = {title: trials.values("val/fd", source=MIXTURE) for title, trials in groups.items()}
    return min((title for title in distances if distances[title]), key=lambda title: mean(distances[title]), default="")


def generator_table(groups: Mapping[str, Table]) -> dict[str, list[str]]:
    """Return every measure of every generator and baseline by all judges, mean ± standard deviation over repeats."""
    found = {title: trials for title, trials in groups.items() if len(trials)}

    def cells(metric: str, form: str) -> list[str]:
        return [trials.cell(metric, form) or "-" for trials in found.values()]

    metrics = [f"{prefix}/fd" for prefix in PREFIXES[:SELECTING]] + [f"{REPORTING}/{name}" for name in JUDGED]
    metrics += [f"latent/{name}" for name in LATENT]
    table = {"generator": [*found], "repeats": [str(len(trials)) for trials in found.values()]}
    table["generator steps"] = cells("generator/steps", "{:.0f}")
    return table | {metric: cells(metric, FORMS.get(metric.partition("/")[2], "{:.3f}")) for metric in metrics}


def rows(
    context: Context, groups: Mapping[str, Table], recipes: Table, paths: Mapping[str, Interpolation]
) -> list[Row]:
    """Return the figures of the best settings beside the best mixture, real images and reconstructions; the claims."""
    rival, best = best_mixture(groups), groups[BEST]
    beside = {title: groups[title] for title in (rival, REAL, RECONSTRUCTIONS) if title in groups}

    def ours(figure: str, metric: str, form: str = "{:.3f}", text: str = "", **rule: Any) -> Row:
        its = groups[REFERENCE].cell(metric, form)
        text = text.format(rival=rival) if rival or "goal" in rule else ""
        return row(figure, metric, form, best, beside, reference=its and f"{its} (its settings)", text=text, **rule)

    fd, recall, unsure, within, diversity = (
        f"{REPORTING}/{name}" for name in ("fd", "recall", "low_confidence", "intra_fd", "diversity")
    )
    others = ", ".join(f"{title} {groups[title].cell(fd, '{:.2f}')}" for title in (rival, REAL) if title in groups)
    said = f"The WGAN on the latents draws at a Frechet distance of {best.cell(fd, '{:.2f}')} from the test images"
    found = f"{said} ({others}; less is nearer){caution(context)}"
    copies = (
        f"Its latents are no copies: they lie at least {COPYING} times as far from training latents as test latents"
    )
    more: Any = {"better": "more"}
    return [
        *weak_judges(context),
        _found_row(groups, fd),
        ours(
            "FD, judge 3", fd, text="The WGAN comes nearer to the test images than {rival}", found=found, primary=True
        ),
        ours("recall, judge 3", recall, text=f"Its recall is at least {RECALL} of {{rival}}'s", factor=RECALL, **more),
        ours("images of no class, judge 3", unsure, "{:.1%}", "Fewer of its images than of {rival}'s are of no class"),
        *(ours(f"FD, judge {number} (selects)", f"judge{number}/fd") for number in (1, 2)),
        ours("FD within a class, judge 3", within),
        ours("diversity within a class, judge 3", diversity),
        ours("latents: two-sample accuracy (50% is perfect)", "latent/two_sample_accuracy", "{:.1%}"),
        ours("latents: sliced Wasserstein distance (training latents 1)", "latent/sliced_wasserstein"),
        ours(
            "latents: distance to training latents (test latents 1)",
            "latent/nearest",
            text=copies,
            goal=COPYING,
            **more,
        ),
        *_other_rows(context, groups),
        *_collapse_rows(context, groups, recipes),
        *_interpolation_rows(paths),
    ]


def _found_row(groups: Mapping[str, Table], fd: str) -> Row:
    """Return the claim that the study was made for: the search against settings that were found by hand."""
    ours, rival = groups[EQUAL], groups[REFERENCE]
    text = "The search finds better settings than the reference found by hand, at as many generator steps"
    shown, values = rival.cell(fd) or "failed", rival.values(fd)
    margin = mean(values) / 10 if values else None  # a tenth of a Frechet distance counts as no difference
    decided = claim(text, ours.values(fd), values, margin=margin, shown=shown, primary=True)
    return Row(f"FD, judge 3, {EQUAL}", ours.cell(fd) or "failed", None, f"{REFERENCE} {shown}", decided, fd)


def _other_rows(context: Context, groups: Mapping[str, Table]) -> list[Row]:
    """Return the other settings' Frechet distances by judge 3, with the steps that their generators took."""

    def cell(title: str) -> str:
        steps = groups[title].values("generator/steps")
        return f"{groups[title].cell(f'{REPORTING}/fd')} ({steps[0]:,.0f} generator steps)" if steps else "failed"

    said = {REFERENCE: "best by hand", PAPER: "poor", VANILLA: "collapses"} if context.has_reference else {}
    return [
        Row(f"FD, judge 3, {title}", cell(title), said.get(title), f"best settings {cell(BEST)}") for title in OTHERS
    ]


def _collapse_rows(context: Context, groups: Mapping[str, Table], recipes: Table) -> list[Row]:
    """Return how many vanilla GANs collapse, with one recipe and several seeds, and with random recipes."""
    found, said = [], "collapses" if context.has_reference else None
    ended = [groups[title].values(COLLAPSED) for title in (VANILLA, BEST)]
    missing = [[1.0] * (len(context.repeats) - len(values)) for values in ended]  # diverged: they count as collapsed
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


def _interpolation_rows(paths: Mapping[str, Interpolation]) -> list[Row]:
    """Return the figures of the paths: a path that jumps has few images of no class, but is not smooth."""
    figures = {
        "interpolation, images of no class": ("no_class", "{:.1%}"),
        "interpolation, paths through a third class": ("third_class", "{:.0%}"),
        "interpolation, smoothness (1: equal steps)": ("smoothness", "{:.2f}"),
    }
    found = []
    for figure, (key, form) in figures.items():
        straight, arc, latents = (form.format(path.measures[key]) for path in paths.values())
        found.append(Row(figure, f"{straight} (spherical {arc})", None, f"through latents {latents}"))
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


def interpolations(context: Context, inputs: GanInputs, best: Result) -> dict[str, Interpolation]:
    """Return paths between the same pairs of classes: straight and spherical through the noise of the best generator,
    straight through the autoencoder's latents.
    """
    stored = logged_model(best.run_id)
    model = stored.rebuild(LatentGenerator).to(context.device)
    vectors = noise(CANDIDATES, stored.config()["settings"]["noise_dim"], context.session.seed, context.device)
    wanted = class_pairs(PATHS, len(context.dataset.classes), context.session.seed)
    judge = inputs.judges.first

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return inputs.tone(inputs.autoencoder.decoder(latents))

    with eval_mode(inputs.autoencoder, model):
        latents = apply(inputs.autoencoder.encoder, context.dataset.val.images[:CANDIDATES])
        return {
            "noise linear": interpolate(vectors, model, torch.lerp, wanted, judge),
            "noise spherical": interpolate(vectors, model, slerp, wanted, judge),
            "latents linear": interpolate(latents, decode, torch.lerp, wanted, judge),
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


def _log_losses(study: Study, groups: Mapping[str, Table]) -> None:
    first = {title: next(iter(groups[title])) for title in (BEST, REFERENCE, PAPER) if len(groups[title])}
    curves = {
        metric: {title: metric_history(each.run_id, metric) for title, each in first.items()} for metric in LOSSES
    }
    caption = "Losses of critic and generator, and the distance of the samples to the validation images, by epoch."
    study.parent.log_figure("loss_curves", plots.side_by_side(curves, "epoch", "WGAN settings compared"), caption)


def _log_interpolations(study: Study, paths: Mapping[str, Interpolation]) -> None:
    names = study.context.dataset.classes
    pairs = class_pairs(PATHS, len(names), study.context.session.seed)[:FIGURE_PATHS].tolist()
    labels = [f"{kind}, {names[start]} to {names[end]}" for kind in paths for start, end in pairs]
    images = torch.cat([path.images[:FIGURE_PATHS].flatten(0, 1) for path in paths.values()])
    title = "Interpolation between the same classes, through noise and through latents"
    caption = (
        "Each row goes from one class to another in ten equal steps, through the generator's noise or through the "
        "autoencoder's latents. The table says how many images are of no class, and how many paths pass a third one."
    )
    study.parent.log_figure("interpolation", plots.labelled_grid(to_pixels(images), labels, title), caption)
