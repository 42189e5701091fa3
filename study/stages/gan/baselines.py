"""What GANs are compared with, a trial each: real images, reconstructions, densities fitted to the same latents.

All of them are decoded, with the same tone curve, and measured as a GAN's samples are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from study import plots
from study.checks import MOST_REPEATS
from study.data.dataset import to_float, to_pixels
from study.engine.search import Params, Search, Trial, choice, integer, log_uniform, named
from study.measures.latents import max_abs_pcc
from study.stages.gan.inputs import GanInputs
from study.stages.gan.settings import KERNEL_DENSITY, REAL, SMOTE, TEST_RECONSTRUCTIONS, TRAIN_RECONSTRUCTIONS
from study.stages.gan.watch import SAMPLES_IN_ROW
from study.training.classifier import ClassifierSettings
from study.training.densities import Drawn, copying_bandwidth, kernel_density, mixture, smote
from study.training.sampling import labels_like, sample_count

MOST_COMPONENTS = 1000
BANDWIDTH_RANGE = (0.01, 2.0)
CLASS_COMPONENTS = 20  # of a class's mixture, beside a conditional GAN


def baseline_search(mixture_components: Sequence[int], latents: int) -> Search:
    """The baselines as trials, by the names that tables give them; no mixture of more components than latents."""
    sources = {REAL: "real", TRAIN_RECONSTRUCTIONS: "train", TEST_RECONSTRUCTIONS: "test", SMOTE: "smote"}
    fixed: dict[str, Params] = {name: {"source": source, "components": 0} for name, source in sources.items()}
    for count in filter(lambda count: count <= latents, mixture_components):
        fixed[mixture_name(count)] = {"source": "mixture", "components": count}
    space = {"source": choice(*sources.values(), "mixture"), "components": integer(0, MOST_COMPONENTS)}
    return Search({"val/fd": "minimize"}, space, fixed)


def redraw_search(baselines: Search, draws: range) -> Search:
    """The baselines that are sampled, fitted and drawn again: theirs is a spread as a GAN's seeds have one."""
    space = {**baselines.space, "draw": integer(0, MOST_REPEATS)}
    sampled = {name: params for name, params in baselines.fixed.items() if params["source"] in ("mixture", "smote")}
    fixed = {f"{name}, draw {draw}": {**params, "draw": draw} for draw in draws for name, params in sampled.items()}
    return Search(baselines.objectives, space, fixed, optional=True)


def mixture_name(components: int) -> str:
    """What tables call a mixture; one component is N(0, I) on whitened latents."""
    return "Gaussian (whitened latents)" if components == 1 else f"Gaussian mixture, {components}"


def kernel_search(inputs: GanInputs, nearest: float, seed: int) -> Search:
    """A kernel density at the bandwidth at which it copies no more than a GAN does.

    Args:
        nearest: How far the GAN's latents are from the nearest training latent.
    """

    def find() -> dict[str, np.ndarray]:
        found = copying_bandwidth(inputs.encoded.vectors, nearest, seed)
        return {"bandwidth": np.array(found)}

    kept = inputs.context.kept_arrays("autoencoder", find, KERNEL_DENSITY, nearest, seed)
    # By its parameters: another bandwidth is another trial.
    fixed = named([{"bandwidth": float(kept["bandwidth"])}])
    return Search({"val/fd": "minimize"}, {"bandwidth": log_uniform(*BANDWIDTH_RANGE)}, fixed)


def class_search() -> Search:
    """The baselines of a conditional GAN: each class's own images, reconstructions and mixture."""
    names = {REAL: "real", TRAIN_RECONSTRUCTIONS: "train", f"{mixture_name(CLASS_COMPONENTS)} a class": "mixture"}
    fixed: dict[str, Params] = {name: {"source": source} for name, source in names.items()}
    return Search({"val/fd": "minimize"}, {"source": choice(*names.values())}, fixed)


@dataclass(frozen=True)
class _Samples:
    """Images of a baseline, with what there is to say of them."""

    images: Tensor  # [M, C, S, S], floats
    latents: Tensor  # [M, latent_dim], standardised
    loss: float | None = None
    labels: Tensor | None = None  # [M]; None: not conditional


def run_baseline_trial(trial: Trial, *, inputs: GanInputs, seed_for: Callable[[int], int]) -> tuple[float]:
    """Measure and log a baseline. Returns `val/fd`."""
    source, train, seed = trial.params.get("source"), inputs.encoded.vectors, seed_for(trial.params.get("draw", 0))
    val, count = inputs.val_latents, sample_count(len(inputs.data.test))
    if source == "real":
        samples = _Samples(to_float(inputs.data.train.images[:count]), train[:count])
    elif source in ("train", "test"):
        samples = _reconstructions(inputs, train[:count] if source == "train" else inputs.test_latents)
    elif source == "smote":
        samples = _decoded(inputs, smote(train, count, seed))
    elif source == "mixture":
        samples = _decoded(inputs, mixture(train, val, trial.params["components"], count, seed))
    else:
        samples = _decoded(inputs, kernel_density(train, val, trial.params["bandwidth"], count, seed))
    return _measure(trial, inputs, samples)


def run_class_trial(
    trial: Trial, *, inputs: GanInputs, seed_for: Callable[[int], int], score: ClassifierSettings
) -> tuple[float]:
    """Measure and log a baseline of a conditional GAN, asked for the same labels. Returns `val/fd`."""
    source, train, data = trial.params["source"], inputs.encoded, inputs.data

    def samples(labels: Tensor) -> _Samples:
        """As many as labels [M], of these classes."""
        if source == "mixture":
            points, loss = torch.empty(len(labels), train.vectors.shape[1]).to(train.vectors), 0.0
            for each in labels.unique().tolist():
                ours, wanted = train.vectors[train.labels == each], labels == each
                held_out = inputs.val_latents[data.val.labels == each]
                drawn = mixture(ours, held_out, CLASS_COMPONENTS, int(wanted.sum()), seed_for(each))
                points[wanted] = drawn.points
                loss += (drawn.loss or 0.0) * int(wanted.sum()) / len(labels)
            return _decoded(inputs, Drawn(points, loss), labels)
        places = _places(train.labels, labels)
        if source == "real":
            return _Samples(to_float(data.train.images[places]), train.vectors[places], labels=labels)
        return _reconstructions(inputs, train.vectors[places], labels)

    found = samples(labels_like(data.test.labels, sample_count(len(data.test))))
    many = samples(train.labels)
    assert many.labels is not None
    trial.run.log(inputs.accuracy_score(many.images, many.labels, score))
    return _measure(trial, inputs, found)


def _places(labels: Tensor, wanted: Tensor) -> Tensor:
    """Places [M] of labels [N] at which the wanted ones [M] stand, each place once until all of a class were used."""
    places = torch.empty_like(wanted)
    for each in wanted.unique().tolist():
        slots, ours = (wanted == each).nonzero()[:, 0], (labels == each).nonzero()[:, 0]
        places[slots] = ours[torch.arange(len(slots), device=ours.device) % len(ours)]
    return places


def _decoded(inputs: GanInputs, drawn: Drawn, labels: Tensor | None = None) -> _Samples:
    return _Samples(inputs.decode(drawn.points), drawn.points, drawn.loss, labels)


def _reconstructions(inputs: GanInputs, latents: Tensor, labels: Tensor | None = None) -> _Samples:
    """Their loss is that of the validation images' reconstructions, tone curve and all: MSE per pixel."""
    val = inputs.data.val
    loss = float(F.mse_loss(inputs.decode(inputs.val_latents), to_float(val.images)))
    return _decoded(inputs, Drawn(latents, loss), labels)


def _measure(trial: Trial, inputs: GanInputs, samples: _Samples) -> tuple[float]:
    measures = inputs.judges.val_measures(samples.images[: sample_count(len(inputs.data.val))])
    measures |= inputs.judges.measures(samples.images, samples.labels)
    measures |= inputs.latent_fidelity.measures(samples.latents)
    measures["latent/max_abs_pcc"] = max_abs_pcc(samples.latents)
    if samples.loss is not None:
        measures["val/loss"] = samples.loss
    trial.run.log(measures)
    images = to_pixels(samples.images[: SAMPLES_IN_ROW * SAMPLES_IN_ROW])
    trial.run.log_image("samples", plots.grid(images, SAMPLES_IN_ROW), step=0)
    return (measures["val/fd"],)
