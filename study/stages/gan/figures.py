"""Figures of the GAN stages, on their parent runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from models.gan import LatentGenerator
from study import plots
from study.data.dataset import to_pixels
from study.engine.search import Result, Search
from study.engine.stage import Context
from study.engine.study import Study
from study.engine.table import spread
from study.measures.interpolation import CANDIDATES, PATHS, Interpolation, class_pairs, interpolate, slerp
from study.measures.judges import PARTS
from study.stages.gan.collapse import ALL_RECIPES, KINDS, collapse_shares, collapse_table
from study.stages.gan.comparisons import Found
from study.stages.gan.inputs import GanInputs
from study.stages.gan.settings import BEST, PAPER_SETTINGS, REFERENCE_SETTINGS
from study.stages.gan.trial import class_metric
from study.stages.gan.watch import SAMPLES_IN_ROW, shown_inputs
from study.training.loops import apply, eval_mode
from study.training.sampling import noise
from tracking.runs import Measured, metric_history
from tracking.stored import LoggedModel, kept_model, logged_model

FIGURE_PATHS = 4  # paths of each kind in the interpolation figure
MOST_SHOWN = 100  # trials on the contact sheet
LOSSES = ("critic/loss", "generator/loss", "val/fd")


def interpolations(context: Context, inputs: GanInputs, best: Result) -> dict[str, Interpolation]:
    """Paths between the same pairs of classes: through the best generator's noise, and through the latents."""
    stored = logged_model(best.run_id)
    model = stored.rebuild(LatentGenerator).to(context.device)
    noise_dim = stored.config()["settings"]["noise_dim"]
    seed = context.session.seed
    vectors = noise(CANDIDATES, noise_dim, seed, context.device)
    wanted = class_pairs(PATHS, len(context.dataset.classes), seed)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return inputs.tone(inputs.autoencoder.decoder(latents))

    with eval_mode(inputs.autoencoder, model):
        latents = apply(inputs.autoencoder.encoder, context.dataset.val.images[:CANDIDATES])
        return {
            "noise linear": interpolate(vectors, model, torch.lerp, wanted, inputs.judges.first),
            "noise spherical": interpolate(vectors, model, slerp, wanted, inputs.judges.first),
            "latents linear": interpolate(latents, decode, torch.lerp, wanted, inputs.judges.first),
        }


def log_figures(
    study: Study,
    search: Search,
    results: Sequence[Result],
    *,
    found: Found,
    measured: Measured,
    paths: Mapping[str, Interpolation],
) -> None:
    """Log all figures of the search."""
    groups = found.groups
    firsts = {name: groups[name][0] for name in (BEST, REFERENCE_SETTINGS, PAPER_SETTINGS) if groups.get(name)}
    _log_generators(study, groups, measured)
    _log_collapse(study, found.recipes, measured)
    curves = {
        metric: {name: metric_history(result.run_id, metric) for name, result in firsts.items()} for metric in LOSSES
    }
    caption = (
        "Losses of critic and generator, and the distance of the samples to the validation images, as training goes on."
    )
    study.parent.log_figure("loss_curves", plots.side_by_side(curves, "epoch", "WGAN settings compared"), caption)
    _log_scatter(study, search, results)
    importance = study.importances(search)
    if importance:
        title = "What the Frechet distance of a WGAN trial depends on (fANOVA)"
        caption = "A long bar: changing this parameter changes the distance most, within the ranges searched."
        study.parent.log_figure("importances", plots.bars(importance, "share of the variance", title), caption)
    ranked = sorted(results, key=lambda result: result.values[0])[:MOST_SHOWN]
    models = [(result, model) for result in ranked if (model := kept_model(result.run_id))]
    sheet = [_samples_of(result, model) for result, model in models]
    rows = [f"trial {result.number}: {result.values[0]:.1f}" for result, _ in models]
    title = "Trials by Frechet distance to validation images, same noise"
    shown = f"the best on top, {MOST_SHOWN} at most"
    caption = f"Ten samples of each complete trial, {shown}; the number is its Frechet distance."
    if sheet:
        study.parent.log_figure("contact_sheet", plots.labelled_grid(np.concatenate(sheet), rows, title), caption)
    _log_interpolations(study, paths)


def _log_generators(study: Study, groups: Mapping[str, Sequence[Result]], measured: Measured) -> None:
    """All generators and baselines, by the judge that chose none of them."""
    points = {
        name: [(run[f"{PARTS[-1]}/fd"], run[f"{PARTS[-1]}/recall"], "") for run in runs]
        for name, results in groups.items()
        if (runs := [measured[result.run_id] for result in results])
    }
    title = "Generators and what they are held against\n(judge 3, which took no part in any choice; test images)"
    figure = plots.scatter(points, "Frechet distance (less is better)", "recall (more is better)", title, log_x=True)
    caption = (
        "The upper left is better: near to the real images, and no kind of them left out. Real images are the floor of "
        "the distance, reconstructions what the decoder can do at best."
    )
    study.parent.log_figure("generators", figure, caption)


def _log_collapse(study: Study, recipes: Sequence[Result], measured: Measured) -> None:
    """Which choices of a recipe make a GAN collapse."""
    if not recipes:
        return
    study.parent.log_table("collapse", collapse_table(recipes, measured))
    shares = collapse_shares(recipes, measured)
    values = {
        choice if kind == KINDS[0] else f"the same as {kind}s": share.k / share.n
        for choice, kind, share in shares
        if share.n and (kind == KINDS[0] or choice == ALL_RECIPES)
    }
    title = f"Vanilla GANs that end collapsed, of {len(recipes) // len(KINDS)} random recipes, by the recipe's choices"
    caption = (
        "Too few classes, or nearly the same images of each. The table collapse.csv has the numbers, Wilson's "
        "intervals, and the WGANs of the same recipes."
    )
    study.parent.log_figure("collapse", plots.bars(values, "share that collapses", title), caption)


def _log_scatter(study: Study, search: Search, results: Sequence[Result]) -> None:
    """The objective against single parameters."""
    kinds: dict[str, list[Result]] = {"paper": [], "reference": [], "searched": []}
    for result in results:
        kinds[result.slot if result.slot in kinds else "searched"].append(result)
    kinds["pruned (when stopped)"] = study.pruned(search)
    for x, label in (("learning_rate", "learning rate"), ("clip_value", "clip value")):
        points = {
            kind: [(result.params[x], result.values[0], str(result.number)) for result in found]
            for kind, found in kinds.items()
        }
        title = f"WGAN trials by number: {label}"
        figure = plots.scatter(points, label, "Frechet distance to validation images", title, log_x=True, log_y=True)
        caption = "Each point is a trial; less is better. A pruned one stands where it was when it was stopped."
        study.parent.log_figure(f"fd_against_{x}", figure, caption)


def _log_interpolations(study: Study, paths: Mapping[str, Interpolation]) -> None:
    names = study.context.dataset.classes
    pairs = class_pairs(PATHS, len(names), study.context.session.seed)[:FIGURE_PATHS].tolist()
    rows = [f"{kind}, {names[start]} to {names[end]}" for kind in paths for start, end in pairs]
    images = torch.cat([path.images[:FIGURE_PATHS].flatten(0, 1) for path in paths.values()])
    title = "Interpolation between the same classes, through noise and through latents"
    caption = (
        "Each row goes from one class to another in ten equal steps, through the generator's noise or through the "
        "autoencoder's latents. The table says how many images are of no class, and how many paths pass a third one."
    )
    study.parent.log_figure("interpolation", plots.labelled_grid(to_pixels(images), rows, title), caption)


def _samples_of(result: Result, model: LoggedModel) -> np.ndarray:
    inputs = shown_inputs(result.params["noise_dim"], 0, torch.device("cpu"))  # where models are loaded
    with torch.no_grad():
        return to_pixels(model.rebuild(LatentGenerator)(inputs[:SAMPLES_IN_ROW]))


def log_conditional_figures(
    study: Study, results: Sequence[Result], measured: Mapping[str, Mapping[str, float]]
) -> None:
    """Log all figures of the conditional stage."""
    seeds = {f"seed {result.number}": result.run_id for result in results}
    curves = {metric: {name: metric_history(run_id, metric) for name, run_id in seeds.items()} for metric in LOSSES}
    caption = (
        "Losses of critic and generator, and the distance of the samples to the validation images; a curve a seed."
    )
    study.parent.log_figure("loss_curves", plots.side_by_side(curves, "epoch", "Conditional WGAN"), caption)
    names = study.context.dataset.classes
    accuracies = [
        spread([measured[result.run_id][class_metric(names, label)] for result in results])
        for label in range(len(names))
    ]
    caption = "How often the judge sees the class that was asked for."
    title = "Conditional WGAN: label accuracy of each class"
    if list(names) == [str(label) for label in range(len(names))]:
        middle, width = zip(*accuracies, strict=True)
        series = {"samples that the judge takes for the digit asked for": (list(range(len(names))), middle, width)}
        figure = plots.curves(series, "digit", "share", f"{title}, mean and spread over seeds", markers=True)
    else:
        shares = {name: middle for name, (middle, _) in zip(names, accuracies, strict=True)}
        figure = plots.bars(shares, "share", f"{title}, mean over seeds")
    study.parent.log_figure("label_accuracy", figure, caption)
