"""What a latent GAN is compared with: real images, reconstructions, Gaussian mixtures on the latents; a trial each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from study.data.dataset import to_float, to_pixels
from study.harness.search import Params, Search, Trial, choice, integer
from study.science.baselines import mixture_latents
from study.science.latents import max_abs_pcc
from study.science.loops import apply, eval_mode
from study.science.sampling import SAMPLES, VALIDATION_SAMPLES
from study.stages.gan.settings import REAL, TEST_RECONSTRUCTIONS, TRAIN_RECONSTRUCTIONS
from study.stages.gan.trial import SAMPLES_IN_ROW, GanInputs
from tracking import figures

MOST_COMPONENTS = 1000


def baseline_search(mixture_components: Sequence[int], latents: int) -> Search:
    """The baselines as trials, by the names that tables give them; no mixture of more components than latents."""
    names = {REAL: "real", TRAIN_RECONSTRUCTIONS: "train", TEST_RECONSTRUCTIONS: "test"}
    fixed: dict[str, Params] = {name: {"source": source, "components": 0} for name, source in names.items()}
    for count in filter(lambda count: count <= latents, mixture_components):
        name = "Gaussian (whitened latents)" if count == 1 else f"Gaussian mixture, {count}"
        fixed[name] = {"source": "mixture", "components": count}
    space = {"source": choice("real", "train", "test", "mixture"), "components": integer(0, MOST_COMPONENTS)}
    return Search({"val/fd": "minimize"}, space, fixed)


def run_baseline_trial(trial: Trial, *, inputs: GanInputs, seed_for: Callable[[int], int]) -> tuple[float]:
    """Measure and log a baseline. Returns `val/fd`."""
    source, data, autoencoder = trial.params["source"], inputs.data, inputs.autoencoder
    with eval_mode(autoencoder):
        if source == "mixture":
            latents = mixture_latents(inputs.encoded.latents, trial.params["components"], SAMPLES, seed_for(0))
            images = apply(autoencoder.decoder, latents)
        elif source == "test":
            latents = apply(autoencoder.encoder, data.test.images)
            images = apply(autoencoder.decoder, latents)
        else:
            latents = inputs.encoded.latents[:SAMPLES]
            real = to_float(data.train.images[:SAMPLES])
            images = apply(autoencoder.decoder, latents) if source == "train" else real
    measures = inputs.judges.val_measures(images[:VALIDATION_SAMPLES]) | inputs.judges.measures(images)
    trial.run.log(measures | {"latent/max_abs_pcc": max_abs_pcc(latents)})
    trial.run.log_image(
        "samples", figures.grid(to_pixels(images[: SAMPLES_IN_ROW * SAMPLES_IN_ROW]), SAMPLES_IN_ROW), step=0
    )
    return (measures["val/fd"],)
