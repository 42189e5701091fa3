"""The latent GAN study: a search for WGAN settings on the latents, beside vanilla GANs and Gaussian mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study import metrics
from study.config import LatentGanConfig
from study.data import to_float, to_pixels
from study.gan_trial import SHOWN, LatentData, run_gan_trial, shown_inputs, sitting_distance
from study.interpolation import CANDIDATES, PATHS, Path, pairs, slerp, walk
from study.sampling import SAMPLES, VALIDATION_SAMPLES, Panel, mixture_latents, noise
from study.search import Params, Result, Search, Trial, choice, importances, integer, log_uniform, pruned
from study.stage import Context, Outcome, Row, Study, settings_of, with_spread
from study.training import GanSettings, apply, eval_mode
from tracking import figures
from tracking.registry import Version, logged_model
from tracking.runs import metric_history, trial_metrics

PAPER: Params = {"batch_size": 64, "learning_rate": 5e-5, "clip_value": 0.01, "n_critic": 5}  # Arjovsky et al. 2017
REFERENCE: Params = {"batch_size": 256, "learning_rate": 5e-4, "clip_value": 0.12, "n_critic": 5}
SIZES: Params = {"width": 256, "noise_dim": 10, "depth": 2}  # of both, and of the vanilla GANs
START: Params = {"batch_size": 256, "learning_rate": 5e-4, "clip_value": 0.1, "n_critic": 1} | SIZES | {"depth": 4}
PLAIN: Params = {"averaging": 0.0, "falling": False}  # as the paper and the reference train
OURS: Params = {"averaging": 0.999, "falling": True}
VANILLA: Params = {"batch_size": 256, "learning_rate": 2e-4, "clip_value": None, "n_critic": 1} | SIZES | PLAIN
ABLATIONS: dict[str, Params] = {
    "constant rate": {"falling": False},
    "not averaged": {"averaging": 0.0},
    "constant rate, not averaged": PLAIN,
    "generator of depth 2": {"depth": 2},
    "five critic steps": {"n_critic": 5},
}
"""What the best settings are tried without."""

COLLAPSED_MODES, COLLAPSED_KL = 8, 0.5
"""A GAN counts as collapsed if it makes fewer digits, or its class histogram's KL to uniform (nats) is above this."""
FIGURE_PATHS = 4  # ways of each kind in the interpolation figure
REPORTED = ("fd", "precision", "recall", "density", "coverage", "modes", "class_kl", "low_confidence", "nearest")

BEST, REFERENCE_SETTINGS, VANILLA_GAN = "WGAN, best settings", "WGAN, reference settings", "vanilla GAN"
REAL, TRAIN_RECONSTRUCTIONS, TEST_RECONSTRUCTIONS = (
    "real training images",
    "reconstructions, training",
    "reconstructions, test",
)


@dataclass(frozen=True)
class Bench:
    """What every training and every baseline of the study is made with."""

    study: Study
    config: LatentGanConfig
    data: LatentData
    panel: Panel

    def train(self, trial: Trial, settings: Params, repeat: int = 0) -> tuple[float]:
        torch.manual_seed(self.study.context.config.seed_for(repeat))
        how, config = GanSettings(**settings), self.config
        return (
            run_gan_trial(trial, self.study, self.data, self.panel, how, config.epochs, config.evaluate_every, False),
        )

    def repeat(self, part: str, settings: Params, repeats: Sequence[int]) -> list[Result]:
        """The same settings with several seeds; trainings that break down or collapse are missing."""
        fixed = [{"repeat": number} for number in repeats]
        search = Search({"val/fd": "minimize"}, {"repeat": integer(0, 999)}, fixed, optional=True)
        return self.study.search(search, lambda trial: self.train(trial, settings, trial.params["repeat"]), part)

    def repeats_of(self, result: Result, count: int) -> list[Result]:
        """The settings of a trial with so many new seeds."""
        how = result.params | _manner(result.params)
        return self.repeat(f"seeds of trial {result.number}", how, range(1, count + 1))

    def baselines(self) -> dict[str, list[Result]]:
        """What a latent GAN is held against: real images, reconstructions, Gaussian mixtures on the latents."""
        names = {REAL: "real", TRAIN_RECONSTRUCTIONS: "train", TEST_RECONSTRUCTIONS: "test"}
        wanted = {name: {"source": source, "components": 0} for name, source in names.items()}
        for count in self.config.mixture_components:
            name = "Gaussian (whitened latents)" if count == 1 else f"Gaussian mixture, {count}"
            wanted[name] = {"source": "mixture", "components": count}
        space = {"source": choice("real", "train", "test", "mixture"), "components": integer(0, 1000)}
        found = self.study.search(
            Search({"val/fd": "minimize"}, space, list(wanted.values())), self._baseline, "baselines"
        )
        return {name: [result for result in found if result.params == params] for name, params in wanted.items()}

    def _baseline(self, trial: Trial) -> tuple[float]:
        source, images = trial.params["source"], self.study.context.dataset
        data, decode = self.data, self.data.autoencoder.decoder
        latents = data.standardised * data.std + data.mean
        with eval_mode(data.autoencoder):
            if source == "mixture":
                seed = self.study.context.config.seed_for(0)
                drawn = mixture_latents(latents, trial.params["components"], SAMPLES, seed)
                shown = apply(decode, drawn)
            elif source == "test":
                drawn = apply(data.autoencoder.encoder, images.test.images)
                shown = apply(decode, drawn)
            else:
                drawn = latents[:SAMPLES]
                shown = apply(decode, drawn) if source == "train" else to_float(images.train.images[:SAMPLES])
        measures = self.panel.val_measures(shown[:VALIDATION_SAMPLES]) | self.panel.measures(shown)
        trial.run.log(measures | {"latent/max_abs_pcc": metrics.max_abs_pcc(drawn)})
        trial.run.log_image("samples", figures.grid(to_pixels(shown[: SHOWN * SHOWN]), SHOWN), step=0)
        return (measures["val/fd"],)


def run(context: Context) -> Outcome:
    """Search WGAN settings for the least Frechet distance to the validation images; hopeless trials are pruned."""
    config = context.config.latent_gan
    inputs = {kind: context.input(kind) for kind in ("judge", "second-judge", "autoencoder")}
    description = (
        "WGANs with weight clipping in the autoencoder's latent space, the WGAN paper's and the reference's settings "
        "among them; the objective is the Frechet distance to the validation images in the judge's features."
    )
    module = inputs["autoencoder"].config()["module"]
    data = LatentData.encode(context, context.rebuild(inputs["autoencoder"], Autoencoder), module)
    panel = Panel(
        context.rebuild(inputs["judge"], Judge), context.rebuild(inputs["second-judge"], Judge), context.dataset
    )
    wgan = Search(
        objectives={"val/fd": "minimize"},
        space={
            "batch_size": choice(*(size for size in (64, 128, 256, 512) if size <= len(data.labels))),
            "learning_rate": log_uniform(5e-5, 5e-3),
            "clip_value": log_uniform(0.01, 0.5),
            "n_critic": integer(1, 5),
            "width": choice(128, 256, 384),
            "depth": integer(2, 5),
            "noise_dim": choice(10, 16, 32),
        },
        fixed=[PAPER | SIZES, REFERENCE | SIZES, START],
        free=config.free_trials,
        prune_on="val/fd",
        prune_after=config.epochs // 4,
    )
    counts = ("free_trials", "repeats", "vanilla_seeds", "ablations", "mixture_components")
    settings = settings_of(config, *counts) | {"space": wgan.space, "ours": OURS, "kept": "best evaluated epoch"}
    with context.study("latent-gan", description, settings, inputs) as study:
        bench = Bench(study, config, data, panel)
        results = study.search(wgan, lambda trial: bench.train(trial, trial.params | _manner(trial.params)))
        best = min(results, key=lambda result: result.values[0])
        groups = {
            BEST: [best],
            REFERENCE_SETTINGS: _of(results, REFERENCE),
            "WGAN, paper settings": _of(results, PAPER),
        }
        if config.repeats > 1:
            # The best trial was picked for its luck too: new seeds stand for its settings.
            groups[BEST] = bench.repeats_of(best, config.repeats) or [best]
            groups[REFERENCE_SETTINGS] = [
                each
                for result in groups[REFERENCE_SETTINGS]
                for each in (result, *bench.repeats_of(result, config.repeats - 1))
            ]
        if config.vanilla_seeds:
            groups[VANILLA_GAN] = bench.repeat(VANILLA_GAN, VANILLA, range(config.vanilla_seeds))
        for name, change in ABLATIONS.items() if config.ablations else ():
            how = best.params | _manner(best.params) | change
            groups[f"best settings, {name}"] = bench.repeat(f"trial {best.number}, {name}", how, range(config.repeats))
        groups |= bench.baselines()

        def end() -> Outcome:
            sitting_value = sitting_distance(context, "latent-gan", inputs["judge"], panel, conditional=False)
            champion = study.promote(
                best, "latent-gan", "val/fd", "minimize", description, sitting_value=sitting_value
            ).champion
            measured = trial_metrics(study.parent)
            study.parent.log_table("generators", _table(groups, measured))
            walks = _walks(context, data, champion, panel)
            study.parent.log(
                {
                    f"interpolation/{name}/{key}": value
                    for name, path in walks.items()
                    for key, value in path.measures.items()
                }
            )
            _log_figures(study, results, groups, walks)
            return Outcome("latent-gan", champion, _rows(config, groups, measured, walks))

        return study.close(end)


def _of(results: Sequence[Result], settings: Params) -> list[Result]:
    return [result for result in results if settings.items() <= result.params.items()]


def _manner(params: Params) -> Params:
    plain = any((settings | SIZES).items() <= params.items() for settings in (PAPER, REFERENCE))
    return PLAIN if plain else OURS


def _table(groups: Mapping[str, Sequence[Result]], measured: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Every measure of every generator and baseline, mean ± standard deviation over seeds, by both judges."""
    table: dict[str, list[str]] = {"generator": [], "seeds": []}
    for name, results in groups.items():
        if not results:
            continue
        table["generator"].append(name)
        table["seeds"].append(str(len(results)))
        for judge in ("sample", "second"):
            for measure in REPORTED:
                values = [measured[result.run_id][f"{judge}/{measure}"] for result in results]
                form = "{:.0f}" if measure == "modes" else "{:.4f}" if measure == "class_kl" else "{:.3f}"
                table.setdefault(f"{judge}/{measure}", []).append(with_spread(values, form))
    return table


def _walks(context: Context, data: LatentData, champion: Version, panel: Panel) -> dict[str, Path]:
    """Interpolation between the same pairs of digits: between noises through the generator, and between encoded
    images through the decoder.
    """
    model = champion.load().to(context.device)
    vectors = noise(CANDIDATES, champion.config()["settings"]["noise_dim"], context.config.seed, context.device)
    wanted = pairs(PATHS, context.config.seed)
    with eval_mode(data.autoencoder):
        latents = apply(data.autoencoder.encoder, context.dataset.val.images[:CANDIDATES])
        return {
            "noise linear": walk(vectors, model, torch.lerp, wanted, panel),
            "noise spherical": walk(vectors, model, slerp, wanted, panel),
            "latents linear": walk(latents, data.autoencoder.decoder, torch.lerp, wanted, panel),
        }


def _log_figures(
    study: Study,
    results: Sequence[Result],
    groups: Mapping[str, Sequence[Result]],
    walks: Mapping[str, Path],
) -> None:
    named = {name: found[0] for name, found in list(groups.items())[:3] if found}
    curves = {
        metric: {name: metric_history(result.run_id, metric) for name, result in named.items()}
        for metric in ("critic/loss", "generator/loss", "val/fd")
    }
    caption = (
        "Losses of critic and generator, and the distance of the samples to the validation images, as training goes on."
    )
    study.parent.log_figure("loss_curves", figures.panels(curves, "epoch", "WGAN settings compared"), caption)

    stopped = pruned(study.name, study.context.store)

    def points(x: str) -> dict[str, list[tuple[float, float, str]]]:
        kinds = {"paper": _of(results, PAPER), "reference": _of(results, REFERENCE)}
        kinds["searched"] = [result for result in results if result not in kinds["paper"] + kinds["reference"]]
        kinds["pruned (when stopped)"] = stopped
        return {
            kind: [(result.params[x], result.values[0], str(result.number)) for result in found]
            for kind, found in kinds.items()
        }

    for x, label in (("learning_rate", "learning rate"), ("clip_value", "clip value")):
        title = f"WGAN trials by number: {label}"
        figure = figures.scatter(
            points(x), label, "Frechet distance to validation images", title, log_x=True, log_y=True
        )
        caption = "Each point is a trial; less is better. A pruned one stands where it was when it was stopped."
        study.parent.log_figure(f"fd_against_{x}", figure, caption)
    importance = importances(study.name, study.context.store)
    if importance:
        title = "What the Frechet distance of a WGAN trial depends on (fANOVA)"
        caption = "A long bar: changing this parameter changes the distance most, within the ranges searched."
        study.parent.log_figure("importances", figures.bars(importance, "share of the variance", title), caption)
    ranked = sorted(results, key=lambda result: result.values[0])
    sheet = [_samples_of(result) for result in ranked]
    rows = [f"trial {result.number}: {result.values[0]:.1f}" for result in ranked]
    title = "Trials by Frechet distance to validation images, same noise"
    caption = "Ten samples of each complete trial, the best on top; the number is its Frechet distance."
    study.parent.log_figure("contact_sheet", figures.labelled_grid(np.concatenate(sheet), rows, title), caption)
    ways = [f"{start} to {end}" for start, end in pairs(PATHS, study.context.config.seed)[:FIGURE_PATHS].tolist()]
    rows = [f"{name}, {way}" for name in walks for way in ways]
    images = torch.cat([path.images[:FIGURE_PATHS].flatten(0, 1) for path in walks.values()])
    title = "Interpolation between the same digits, through noise and through latents"
    caption = (
        "Each row goes from one digit to another in ten equal steps. Through the generator's noise, in-between images "
        "tend to stay digits; through the autoencoder's latents they are often none."
    )
    study.parent.log_figure("interpolation", figures.labelled_grid(to_pixels(images), rows, title), caption)


def _samples_of(result: Result) -> np.ndarray:
    inputs = shown_inputs(result.params["noise_dim"], False, torch.device("cpu"))  # where models are loaded
    with torch.no_grad():
        return to_pixels(logged_model(result.run_id).load()(inputs[:SHOWN]))


def _rows(
    config: LatentGanConfig,
    groups: Mapping[str, Sequence[Result]],
    measured: Mapping[str, Mapping[str, float]],
    walks: Mapping[str, Path],
) -> tuple[Row, ...]:
    def value(name: str, measure: str, form: str = "{:.2f}") -> str | None:
        found = [measured[result.run_id][measure] for result in groups.get(name, ())]
        return with_spread(found, form) if found else None

    def distance(name: str, asked: int) -> str:
        """`sample/fd`, and how many of the trainings that were asked for came to an end, if not all did."""
        if not asked:
            return "not run"
        ended = len(groups[name])
        missing = "" if ended == asked else f" ({ended} of {asked} seeds)"
        return f"{value(name, 'sample/fd') or 'none'}{missing}"

    def several(name: str, *measures: str) -> str | None:
        found = [value(name, measure, "{:.0f}" if measure.endswith("modes") else "{:.2f}") for measure in measures]
        return ", ".join(map(str, found)) if all(found) else None

    def baselines(measure: str) -> str:
        short = {name: name.replace("Gaussian mixture, ", "GMM-") for name in groups if name.startswith("Gaussian mix")}
        return ", ".join(f"{label} {value(name, measure)}" for name, label in short.items())

    vanillas = [measured[result.run_id] for result in groups.get(VANILLA_GAN, ())]
    fallen = [m for m in vanillas if m["sample/modes"] < COLLAPSED_MODES or m["sample/class_kl"] > COLLAPSED_KL]
    collapsed = f"{len(fallen)} of {len(vanillas)} collapsed" if vanillas else None
    reference = groups[REFERENCE_SETTINGS] and distance(REFERENCE_SETTINGS, config.repeats)
    quality = ("sample/precision", "sample/recall", "sample/density", "sample/coverage")
    return (
        Row(
            "sample/fd, best settings",
            distance(BEST, config.repeats),
            f"{reference} (its settings)" if reference else None,
            baselines("sample/fd"),
        ),
        Row(
            "the same, second judge",
            value(BEST, "second/fd") or "",
            value(REFERENCE_SETTINGS, "second/fd"),
            baselines("second/fd"),
        ),
        Row("sample/fd, paper's settings", value("WGAN, paper settings", "sample/fd") or "pruned"),
        Row("sample/fd, vanilla GAN", distance(VANILLA_GAN, config.vanilla_seeds), "collapses", collapsed),
        *(
            Row(f"sample/fd, {name}", distance(name, config.repeats))
            for name in groups
            if name.startswith("best settings, ")
        ),
        Row(
            "sample/fd, reconstructions, training / test",
            "-",
            None,
            f"{value(TRAIN_RECONSTRUCTIONS, 'sample/fd')} / {value(TEST_RECONSTRUCTIONS, 'sample/fd')}",
        ),
        Row(
            "precision, recall, density, coverage",
            several(BEST, *quality) or "",
            several(REFERENCE_SETTINGS, *quality),
            f"reconstructions, training {several(TRAIN_RECONSTRUCTIONS, *quality)}",
        ),
        Row(
            "modes, class KL, low confidence",
            several(BEST, "sample/modes", "sample/class_kl", "sample/low_confidence") or "",
        ),
        Row("distance to nearest training image", value(BEST, "sample/nearest") or "", None, "real test images 1"),
        Row(
            "interpolation, steps that are no digit",
            f"{walks['noise linear'].measures['no_digit']:.1%}"
            f" (spherical {walks['noise spherical'].measures['no_digit']:.1%})",
            None,
            f"latents {walks['latents linear'].measures['no_digit']:.1%}",
        ),
    )
