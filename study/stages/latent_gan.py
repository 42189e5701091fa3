"""The latent GAN study: batch size, learning rate, weight clip and critic steps of a WGAN on the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.data import to_float, to_pixels
from study.gan_trial import LatentData, run_gan_trial, sitting_distance
from study.sampling import SAMPLES, Examiner, mixture_images, noise
from study.search import Result, Search, Trial, choice, integer, log_uniform
from study.stage import Context, Outcome, Row, Study, settings_of
from study.training import GanSettings, apply, eval_mode
from tracking import figures
from tracking.registry import Version
from tracking.runs import run_metrics, trial_metrics

BATCH_SIZES = (64, 128, 256, 512)
PAPER = {"batch_size": 64, "learning_rate": 5e-5, "clip_value": 0.01, "n_critic": 5}  # Arjovsky et al. 2017
REFERENCE = {"batch_size": 256, "learning_rate": 5e-4, "clip_value": 0.12, "n_critic": 5}
START = {
    "batch_size": 256,
    "learning_rate": 1e-3,
    "clip_value": 0.1,
    "n_critic": 1,
}  # where the search sets out from
VANILLA = {"batch_size": 256, "learning_rate": 2e-4, "clip_value": None, "n_critic": 1}
WIDTH = 256
AVERAGING = 0.999  # of all but the paper's, the reference's and the vanilla GAN's settings, which go without
MIXTURE_LATENTS = 20_000  # more of them change the baseline little and take long
STEPS, PATHS = 11, 6  # of the interpolation figure


def run(context: Context) -> Outcome:
    """Search WGAN settings for the least Frechet distance to the validation images; hopeless trials are pruned."""
    config = context.config.latent_gan
    inputs = {"judge": context.input("judge"), "autoencoder": context.input("autoencoder")}
    description = (
        "WGANs with weight clipping in the autoencoder's latent space, the WGAN paper's and the reference's settings "
        "among them; the objective is the Frechet distance to the validation images in the judge's features."
    )
    module = inputs["autoencoder"].config()["module"]
    data = LatentData.encode(context, context.rebuild(inputs["autoencoder"], Autoencoder), module)
    examiner = Examiner(context.rebuild(inputs["judge"], Judge), context.dataset)

    def train(trial: Trial, params: Mapping[str, Any]) -> tuple[float]:
        averaging = 0.0 if params in (PAPER, REFERENCE, VANILLA) else AVERAGING
        settings = GanSettings(**params, width=WIDTH, noise_dim=config.noise_dim, averaging=averaging)
        return (run_gan_trial(trial, study, data, examiner, settings, config.epochs, config.evaluate_every, False),)

    wgan = Search(
        objectives={"val/fd": "minimize"},
        space={
            "batch_size": choice(*(size for size in BATCH_SIZES if size <= len(data.labels))),
            "learning_rate": log_uniform(5e-5, 5e-3),
            "clip_value": log_uniform(0.01, 0.5),
            "n_critic": integer(1, 5),
        },
        fixed=[PAPER, REFERENCE, START],
        free=config.free_trials,
        prune_on="val/fd",
        prune_after=config.epochs // 4,
    )
    vanilla = Search(
        objectives={"val/fd": "minimize"},
        space={"repeat": integer(0, max(config.vanilla_seeds - 1, 0))},
        fixed=[{"repeat": repeat} for repeat in range(config.vanilla_seeds)],
    )

    def vanilla_objective(trial: Trial) -> tuple[float]:
        torch.manual_seed(context.config.seed + trial.params["repeat"])
        return train(trial, VANILLA)

    settings = settings_of(config, "free_trials", "vanilla_seeds", "mixture_components") | {
        "space": wgan.space,
        "width": WIDTH,
        "averaging": AVERAGING,
    }
    with context.study("latent-gan", description, settings, inputs) as study:
        results = study.search(wgan, lambda trial: train(trial, trial.params))
        vanillas = study.search(vanilla, vanilla_objective, "vanilla") if config.vanilla_seeds else []
        best = min(results, key=lambda result: result.values[0])

        def end() -> Outcome:
            sitting_value = sitting_distance(context, "latent-gan", inputs["judge"], examiner, conditional=False)
            champion = study.promote(
                best, "latent-gan", "val/fd", "minimize", description, sitting_value=sitting_value
            ).champion
            measured = trial_metrics(study.parent)
            baselines = _baselines(study, data, examiner, config.mixture_components)
            _log_figures(study, data, champion, results, measured)
            return Outcome("latent-gan", champion, _rows(champion, results, vanillas, measured, baselines))

        return study.close(end)


def _baselines(study: Study, data: LatentData, examiner: Examiner, components: Sequence[int]) -> dict[str, float]:
    """Frechet distances to the test images of what a latent GAN is held against, measured once a study."""
    images = study.context.dataset
    found = run_metrics(study.parent)
    decode = data.autoencoder.decoder
    with eval_mode(data.autoencoder):
        if "baseline/real_fd" not in found:
            real = images.train.images[:SAMPLES]
            study.parent.log(
                {
                    "baseline/real_fd": examiner.test_distance(real),
                    "baseline/reconstruction_fd": examiner.test_distance(apply(data.autoencoder, images.test.images)),
                }
            )
        for count in components:
            if f"baseline/gmm{count}_fd" not in found:
                latents = (data.standardised * data.std + data.mean)[:MIXTURE_LATENTS]
                sampled = mixture_images(latents, count, SAMPLES, decode, study.context.config.seed)
                study.parent.log({f"baseline/gmm{count}_fd": examiner.test_distance(sampled)})
    return run_metrics(study.parent)


def _log_figures(
    study: Study, data: LatentData, champion: Version, results: Sequence[Result], measured: Mapping[str, dict]
) -> None:
    def points(x: str) -> dict[str, list[tuple[float, float, str]]]:
        groups: dict[str, list[tuple[float, float, str]]] = {"paper": [], "reference": [], "searched": []}
        for result in results:
            group = {str(PAPER): "paper", str(REFERENCE): "reference"}.get(str(_ordered(result.params)), "searched")
            groups[group].append((result.params[x], result.values[0], str(result.number)))
        return groups

    for x, label in (("learning_rate", "learning rate"), ("clip_value", "clip value")):
        figure = figures.scatter(
            points(x),
            label,
            "Frechet distance to validation images",
            f"WGAN trials: {label}",
            log_x=True,
            log_y=True,
        )
        study.parent.log_figure(f"fd_against_{x}", figure)
    rows, title = _interpolations(study.context, data, champion)
    study.parent.log_figure(
        "interpolation", figures.labelled_grid(rows, ["noise"] * PATHS + ["latents"] * PATHS, title)
    )


def _ordered(params: Mapping[str, object]) -> dict[str, object]:
    return {name: params[name] for name in PAPER}


def _interpolations(context: Context, data: LatentData, champion: Version) -> tuple[np.ndarray, str]:
    """Straight lines between noise vectors through the generator, and between encoded images through the decoder."""
    model = champion.load().to(context.device)
    noise_dim = champion.config()["settings"]["noise_dim"]
    ends = noise(2 * PATHS, noise_dim, context.config.seed, context.device).split(PATHS)
    images = context.dataset.val.images[: 2 * PATHS]
    with eval_mode(data.autoencoder):
        latent_ends = data.autoencoder.encoder(to_float(images)).split(PATHS)
        generated = to_pixels(model(_lines(*ends)))
        decoded = to_pixels(data.autoencoder.decoder(_lines(*latent_ends)))
    return np.concatenate([generated, decoded]), "Interpolation between noise vectors, and between encoded images"


def _lines(starts: Tensor, ends: Tensor) -> Tensor:
    """Points on the lines from starts [P, D] to ends [P, D]: [P * STEPS, D]."""
    steps = torch.linspace(0, 1, STEPS, device=starts.device)[None, :, None]
    return torch.lerp(starts[:, None], ends[:, None], steps).flatten(0, 1)


def _rows(
    champion: Version,
    results: Sequence[Result],
    vanillas: Sequence[Result],
    measured: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, float],
) -> tuple[Row, ...]:
    def distances(chosen: Sequence[Result]) -> str | None:
        values = [f"{measured[result.run_id]['sample/fd']:.1f}" for result in chosen]
        return ", ".join(values) or None

    def named(params: Mapping[str, object]) -> str | None:
        return distances([result for result in results if _ordered(result.params) == params])

    mixtures = ", ".join(
        f"{name.removeprefix('baseline/').removesuffix('_fd').upper()} {value:.1f}"
        for name, value in sorted(baselines.items(), key=lambda item: len(item[0]))
        if name.startswith("baseline/gmm")
    )
    return (
        Row(
            "sample/fd, champion",
            f"{champion.metrics['sample/fd']:.1f}",
            f"{named(REFERENCE)} (its settings)",
            mixtures,
        ),
        Row("sample/fd, paper's settings", named(PAPER) or "failed"),
        Row("sample/fd, vanilla GAN", distances(vanillas) or "not run"),
        Row(
            "coverage, modes",
            f"{champion.metrics['sample/coverage']:.2f}, {champion.metrics['sample/modes']:.0f}",
            None,
            f"FD of reconstructions {baselines['baseline/reconstruction_fd']:.1f}",
        ),
    )
