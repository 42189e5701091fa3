"""What both GAN stages share: their inputs, one GAN trial, one baseline trial, what both report."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import Critic, Generator, LatentGenerator, ToneCurve
from study import plots
from study.data.dataset import Dataset, Split, to_float, to_pixels
from study.engine.search import Params
from study.engine.stage import Context
from study.engine.study import Study
from study.engine.trial import Trial
from study.measures.judges import WEAK_ACCURACY, Evaluator, Judges, collapse, real_features
from study.measures.latents import EncodedImages, LatentFidelity, max_abs_pcc
from study.results import Row, Table, compared
from study.training import sampling
from study.training.autoencoder import fit_tone_curve
from study.training.classifier import ClassifierSettings, accuracy, train_judge
from study.training.gan import GanSettings, describe, generator_steps, train_gan
from study.training.loops import Diverged, apply, eval_mode
from study.training.sampling import SHEET_CLASSES, SHEET_ROW
from tracking.registry import Version
from tracking.runs import mean_histories

KINDS = ("judge", "second-judge", "third-judge")  # of the models that measure: judge1, judge2, judge3
WATCH_SEED, CHOICE_SEED, TEST_SEED = 0, 1, 2  # of the noise: at each evaluation, for the kept epoch, for the test
NOISES = 5  # draws of a generator, over which each measure is a mean: a single one has an error of its own
SETTLED = 4  # collapse counts after the first 1 / SETTLED of the epochs: at first every generator has collapsed
LAST_EPOCHS = 5  # of a conditional GAN; each is evaluated, to see whether the end of the training is stable
LOSSES = ("critic/loss", "generator/loss", "val/fd")  # of the figure of losses
REAL, RECONSTRUCTIONS, TEST_RECONSTRUCTIONS, MIXTURE = (
    *("real images", "reconstructions", "reconstructions of test images"),
    "Gaussian mixture",
)
"""The baselines, by their parameter `source`."""
MEASURES = (
    *("generator/steps", "judge1/fd", "judge2/fd", "judge3/fd", "judge3/intra_fd", "judge3/precision", "judge3/recall"),
    *("judge3/density", "judge3/coverage", "judge3/diversity", "judge3/modes", "judge3/class_kl", "judge3/nearest"),
    *("judge3/low_confidence", "judge3/label_accuracy", "judge3/label_accuracy_worst", "val/fd_range"),
    *("val/fd_online_range", "classification_accuracy_score", "latent/two_sample_accuracy"),
    *("latent/sliced_wasserstein", "latent/nearest"),
)
"""What a generator is measured by: the columns of the table of generators."""
FIGURES = {
    "judge3/label_accuracy": ("label accuracy, judge 3", "{:.1%}"),
    "judge3/fd": ("FD, judge 3", "{:.3f}"),
    "judge3/recall": ("recall, judge 3", "{:.3f}"),
    "judge3/diversity": ("diversity within a class, judge 3", "{:.3f}"),
    "judge3/low_confidence": ("images of no class, judge 3", "{:.1%}"),
    "classification_accuracy_score": ("classification accuracy score", "{:.1%}"),
    "val/fd_range": ("range of val/fd, last epochs", "{:.1%}"),
    "latent/two_sample_accuracy": ("latents: two-sample accuracy (50% is perfect)", "{:.1%}"),
    "latent/nearest": ("latents: distance to training latents (test latents 1)", "{:.3f}"),
}
"""Those that have a row, with names and formats: the third judge's, since the others select."""
Draw = tuple[Tensor, Tensor, Tensor | None]  # images [N, C, S, S], standardised latents [N, latent_dim], labels [N]


@dataclass(frozen=True)
class GanInputs:
    """The inputs of all trials of a GAN stage. Each is loaded or computed when it is first needed."""

    context: Context

    @property
    def data(self) -> Dataset:
        return self.context.dataset

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The frozen autoencoder."""
        return self.context.module("autoencoder", Autoencoder)

    @cached_property
    def architecture(self) -> str:
        return self.context.inputs["autoencoder"].config()["module"]["architecture"]

    @cached_property
    def tone(self) -> ToneCurve:
        """The decoder's tone curve, fitted once a store."""

        def fit() -> dict[str, np.ndarray]:
            return {"tone": fit_tone_curve(self.autoencoder, self.data.train.images).cpu().numpy()}

        curve = ToneCurve().to(self.context.device)
        curve.levels.copy_(torch.from_numpy(self.context.cached_arrays("autoencoder", fit, "tone curve")["tone"]))
        return curve

    @cached_property
    def judges(self) -> Judges:
        """All judges; their features of the real images are cached in the store."""
        judges = {kind: self.context.module(kind, Judge) for kind in KINDS}
        make = {kind: partial(real_features, judge, self.data) for kind, judge in judges.items()}
        real = {kind: partial(self.context.cached_arrays, kind, make[kind], "real features") for kind in judges}
        return Judges([Evaluator(judge, self.data, real[kind]) for kind, judge in judges.items()])

    @cached_property
    def encoded(self) -> EncodedImages:
        """The standardised latents of the training images."""
        return EncodedImages.encode(self.autoencoder, self.data.train)

    @cached_property
    def latents(self) -> dict[str, Tensor]:
        """Standardised latents [N, latent_dim] of the validation and the test images."""
        splits, encoder = {"val": self.data.val, "test": self.data.test}, self.autoencoder.encoder
        with eval_mode(self.autoencoder):
            return {name: self.standardised(apply(encoder, split.images)) for name, split in splits.items()}

    @cached_property
    def latent_fidelity(self) -> LatentFidelity:
        """Measures of standardised latents against the test images' latents."""
        return LatentFidelity(self.encoded.vectors, self.latents["test"])

    def standardised(self, latents: Tensor) -> Tensor:
        """Bring latents [N, latent_dim] from the autoencoder's scale to that of the standardised training latents."""
        return (latents - self.encoded.mean) / self.encoded.std

    def decode(self, standardised: Tensor) -> Tensor:
        """Return images [N, C, S, S] of standardised latents, decoded as every generator and baseline does it."""
        latents = standardised * self.encoded.std + self.encoded.mean
        with eval_mode(self.autoencoder):
            return apply(lambda batch: self.tone(self.autoencoder.decoder(batch)), latents)

    def build(
        self, settings: GanSettings, encoded: EncodedImages, classes: int
    ) -> tuple[LatentGenerator, Critic, dict[str, object]]:
        """Return an untrained generator and critic, and the generator's constructor arguments; classes 0: no labels."""
        latent_dim = encoded.vectors.shape[1]
        module: dict[str, object] = {
            "input_dim": settings.noise_dim + classes,
            "latent_dim": latent_dim,
            "architecture": self.architecture,
            "image_shape": list(self.data.image_shape),
            "width": settings.width,
            "depth": settings.depth,
        }
        model = LatentGenerator(**module).to(self.context.device)  # type: ignore[arg-type]
        model.decoder.load_state_dict(self.autoencoder.decoder.state_dict())
        model.tone.load_state_dict(self.tone.state_dict())
        model.mean.copy_(encoded.mean)
        model.std.copy_(encoded.std)
        critic = Critic(latent_dim + classes, settings.width, norm=settings.critic_norm)
        return model, critic.to(self.context.device), module

    def measures(self, draws: Sequence[Draw]) -> dict[str, float]:
        """Return the judges' measures against the test images, each a mean over the draws, and the first's latents'."""
        found = [self.judges.measures(images, labels) for images, _, labels in draws]
        means = {name: mean(each[name] for each in found) for name in found[0]}
        return means | self.latent_fidelity.measures(draws[0][1])

    def accuracy_score(self, images: Tensor, labels: Tensor, settings: ClassifierSettings) -> dict[str, float]:
        """Return the accuracy on real test images of a classifier trained on images [N, C, S, S] and labels [N].

        Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887.
        """
        data, pixels = self.data, (images * 255).round().to(torch.uint8)
        classifier = Judge("conv", image_shape=data.image_shape, classes=len(data.classes)).to(images.device)
        train_judge(classifier, Split(pixels, labels), data.val, settings, lambda *_: None)
        return {"classification_accuracy_score": accuracy(classifier, data.test)}


@dataclass
class GanTraining:
    """One GAN in training, and what is measured and shown of its generator on the way.

    Attributes:
        encoded: The latents that it is trained on.
        classes: 0: an unconditional GAN.
        collapses: By evaluated epoch, in which way the generator has collapsed; None: it has not.
    """

    trial: Trial
    inputs: GanInputs
    settings: GanSettings
    epochs: int
    evaluate_every: int
    encoded: EncodedImages
    classes: int = 0

    def __post_init__(self) -> None:
        self.model, self.critic, self.module = self.inputs.build(self.settings, self.encoded, self.classes)
        generator = self.model.generator
        self.online = copy.deepcopy(generator) if self.settings.ema_decay else generator
        self.best_epoch, self.best_distance, self.best_weights = 0, math.inf, generator.state_dict()
        self.collapses: dict[int, str | None] = {}

    def run(self) -> None:
        """Train, and keep the weights of the evaluated epoch with the least `val/fd`.

        Raises:
            Diverged: A loss or a generated latent is not finite.
        """
        others = {name: value for name, value in asdict(self.settings).items() if name not in self.trial.params}
        steps = generator_steps(self.settings, len(self.encoded.labels), self.epochs)
        self.trial.log_params(others | {"epochs": self.epochs, "generator_steps": steps})
        self.show(0)  # the step slider of MLflow opens at step 0
        one_hot = F.one_hot(self.encoded.labels, len(self.inputs.data.classes)).float()
        train_gan(
            self.model.generator,
            self.critic,
            self.encoded.vectors,
            one_hot[:, : self.classes],
            self.settings,
            epochs=self.epochs,
            report=self.report,
            online=self.online,
        )

    def report(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Report the losses of an epoch, and the validation measures if the epoch is evaluated."""
        last = epoch > self.epochs - (LAST_EPOCHS if self.classes else 1)
        if epoch % self.evaluate_every and not last:
            self.trial.report(epoch, losses)
            return
        self.show(epoch)
        measures = self.val_measures(self.model.generator)
        if self.classes and last and self.settings.ema_decay:
            measures["val/fd_online"] = self.val_measures(self.online)["val/fd"]
        self.collapses[epoch] = collapse(measures, len(self.inputs.data.classes))
        self.trial.report(epoch, {**losses, **measures})
        if measures["val/fd"] < self.best_distance:
            self.best_epoch, self.best_distance = epoch, measures["val/fd"]
            self.best_weights = copy.deepcopy(self.model.generator.state_dict())

    def val_measures(self, generator: Generator, seed: int = WATCH_SEED) -> dict[str, float]:
        """Return the `val/` measures of about as many samples as there are validation images."""
        labels = self.inputs.data.val.labels
        vectors, _ = sampling.generator_inputs(self.settings.noise_dim, self.classes, labels, seed)
        latents = self.latents(generator, vectors)
        return self.inputs.judges.val_measures(self.inputs.decode(latents)) | correlation(latents)

    def latents(self, generator: Generator, vectors: Tensor) -> Tensor:
        """Return standardised latents of noise; they must be finite."""
        with eval_mode(generator):
            latents = self.inputs.standardised(generator(vectors) * self.model.std + self.model.mean)
        if not bool(torch.isfinite(latents).all()):
            raise Diverged("the generated latents are not finite")
        return latents

    def collapse_measures(self) -> dict[str, float]:
        """Return whether the generator has collapsed at the end, and at which fraction of the settled evaluations."""
        settled = [way is not None for epoch, way in self.collapses.items() if epoch * SETTLED >= self.epochs]
        return {"collapse/last": float(settled[-1]), "collapse/epochs": float(np.mean(settled))} if settled else {}

    def log_samples(self) -> None:
        """Log the samples at the end; MLflow itself draws losses and distances, and shows samples by epoch."""
        title = f"{'Conditional ' * bool(self.classes)}{describe(self.settings)}, {self.epochs} epochs"
        more = f"; the first {SHEET_CLASSES} of {self.classes} classes" if self.classes > SHEET_CLASSES else ""
        rows = self.inputs.data.classes[:SHEET_CLASSES] if self.classes else [""] * SHEET_ROW
        self.trial.log_figure("samples", plots.labelled_grid(self._sheet(), rows, title + more))

    def _sheet(self) -> np.ndarray:
        with eval_mode(self.model):
            vectors = sampling.sheet_inputs(self.settings.noise_dim, self.classes, self.model.mean.device)
            return to_pixels(self.model(vectors))

    def show(self, epoch: int) -> None:
        """Log the sample sheet for the step slider."""
        self.trial.log_image("samples", plots.grid(self._sheet(), SHEET_ROW), step=epoch)


def correlation(latents: Tensor) -> dict[str, float]:
    """Return the largest |off-diagonal PCC|; nothing of a generator whose output is constant: it has collapsed."""
    with suppress(FloatingPointError):
        return {"latent/max_abs_pcc": max_abs_pcc(latents)}
    return {}


def gan_trial(
    trial: Trial,
    inputs: GanInputs,
    settings: GanSettings,
    *,
    epochs: int,
    evaluate_every: int,
    score: ClassifierSettings | None = None,
) -> tuple[float]:
    """Train, measure and log a latent GAN. Return `val/fd`, the Frechet distance to the validation images.

    The evaluated epoch with the least distance is kept, and measured again on fresh noise: the least of several
    distances is too good by luck.

    Args:
        score: How a classifier is trained on samples, for the classification accuracy score of a conditional GAN;
            None: the GAN is unconditional.
    """
    data, classes = inputs.data, len(inputs.data.classes) if score else 0
    training = GanTraining(trial, inputs, settings, epochs, evaluate_every, inputs.encoded, classes)
    training.run()
    model = training.model
    model.generator.load_state_dict(training.best_weights)
    chosen = training.val_measures(model.generator, CHOICE_SEED)
    trial.log(chosen, step=epochs)
    measures = {"val/best_epoch": float(training.best_epoch), **training.collapse_measures()}
    measures["generator/steps"] = float(generator_steps(settings, len(data.train), epochs))
    draws: list[Draw] = []
    for number in range(NOISES):
        vectors, labels = sampling.generator_inputs(settings.noise_dim, classes, data.test.labels, TEST_SEED + number)
        with eval_mode(model):
            draws.append((apply(model, vectors), inputs.standardised(apply(model.latents, vectors)), labels))
    measures |= inputs.measures(draws)
    images, _, labels = draws[0]
    if score and labels is not None:
        measures |= _stability(trial) | _label_accuracies(trial, inputs, images, labels)
        wanted, count = data.train.labels, len(data.train)
        many, _ = sampling.generator_inputs(settings.noise_dim, classes, wanted, TEST_SEED + NOISES, count)
        with eval_mode(model):
            more = apply(model, many)
        measures |= inputs.accuracy_score(more, wanted, score)
    trial.log(measures)
    training.log_samples()
    trial.log_model(model, vectors[:2], {"module": training.module, "settings": asdict(settings)})
    return (chosen["val/fd"],)


def _stability(trial: Trial) -> dict[str, float]:
    """Return the range of `val/fd` over the last epochs as a fraction of its minimum, with and without the EMA."""
    found = {}
    for metric in ("val/fd", "val/fd_online"):
        last = trial.history.get(metric, ([], []))[1][-LAST_EPOCHS:]
        if last:
            found[f"{metric}_range"] = (max(last) - min(last)) / min(last) if min(last) else math.nan
    return found


def _label_accuracies(trial: Trial, inputs: GanInputs, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Log the confusion matrix of the third judge, and return the label accuracy of each class that was asked for."""
    guesses, names = inputs.judges.all[-1].probabilities(images).argmax(1), inputs.data.classes
    fractions = confusion_matrix(labels.cpu(), guesses.cpu(), labels=range(len(names)), normalize="true")
    title = "What judge 3 takes the samples for"
    trial.log_figure("confusion", plots.confusion(fractions, names, "asked for", "taken for", title))
    return {f"label_accuracy/{label}": float(fractions[label, label]) for label in labels.unique().tolist()}


def champion_distance(version: Version, inputs: GanInputs, classes: int) -> float | None:
    """Return the champion's `val/fd` by today's judges if other judges measured it; None: its run's value holds."""
    today = {f"input.{kind}.weights": inputs.context.inputs[kind].weights_digest for kind in KINDS}
    if today.items() <= version.tags.items():
        return None
    model = version.rebuild(LatentGenerator).to(inputs.context.device)
    noise_dim = version.config()["settings"]["noise_dim"]
    vectors, _ = sampling.generator_inputs(noise_dim, classes, inputs.data.val.labels, CHOICE_SEED)
    with eval_mode(model):
        return inputs.judges.val_measures(apply(model, vectors))["val/fd"]


def baseline_trial(trial: Trial, inputs: GanInputs, score: ClassifierSettings | None = None) -> tuple[float]:
    """Measure and log a baseline of latent GANs, decoded and measured as their samples are. Return `val/fd`.

    Args:
        score: As of `gan_trial`; with it, the baseline is asked for labels as a conditional GAN is.
    """
    data, count = inputs.data, sampling.sample_count(len(inputs.data.test))
    number = 1 if trial.params["source"] == TEST_RECONSTRUCTIONS else NOISES
    labels = sampling.labels_like(data.test.labels, count).repeat(number) if score else None
    images, latents, loss = _baseline_samples(trial.params, inputs, count * number, labels)
    parts = [images.chunk(number), latents.chunk(number), [None] * number if labels is None else labels.chunk(number)]
    measures = {} if loss is None else {"val/loss": loss}
    if score:
        many, *_ = _baseline_samples(trial.params, inputs, len(data.train), data.train.labels)
        measures |= inputs.accuracy_score(many, data.train.labels, score)
    measures |= inputs.judges.val_measures(images[: sampling.sample_count(len(data.val))])
    measures |= inputs.measures(list(zip(*parts, strict=True)))
    measures["latent/max_abs_pcc"] = max_abs_pcc(latents)
    trial.log(measures)
    trial.log_image("samples", plots.grid(to_pixels(images[: SHEET_ROW * SHEET_ROW]), SHEET_ROW), step=0)
    return (measures["val/fd"],)


def _baseline_samples(
    params: Params, inputs: GanInputs, count: int, labels: Tensor | None
) -> tuple[Tensor, Tensor, float | None]:
    """Return images [count, C, S, S], standardised latents [count, latent_dim], and the baseline's validation loss: of
    reconstructions the MSE per pixel, of a mixture the mean negative log-likelihood.
    """
    source, data, train, val = params["source"], inputs.data, inputs.encoded, inputs.latents["val"]
    if source == MIXTURE:
        components, repeat, seed_for = params["components"], params["repeat"], inputs.context.seed_for
        if labels is None:
            latents, loss = sampling.draw_mixture(train.vectors, val, components, count, seed_for(repeat))
        else:
            known, held_out, classes = (train.vectors, train.labels), (val, data.val.labels), len(data.classes)
            seed_of = lambda label: seed_for(repeat * classes + label)  # noqa: E731
            latents, loss = sampling.draw_class_mixtures(known, held_out, components, labels, seed_of)
        return inputs.decode(latents), latents, loss
    if source == TEST_RECONSTRUCTIONS:
        latents = inputs.latents["test"]
    else:
        places = torch.arange(count) % len(train.labels) if labels is None else sampling.places_of(labels, train.labels)
        latents = train.vectors[places]
        if source == REAL:
            return to_float(data.train.images[places]), latents, None
    return inputs.decode(latents), latents, float(F.mse_loss(inputs.decode(val), to_float(data.val.images)))


def log_losses(study: Study, groups: Mapping[str, Table], title: str) -> None:
    """Log a figure of the losses and distances of these groups of trainings by epoch, means over each group."""
    runs = {name: trials.run_ids for name, trials in groups.items()}
    curves = {metric: mean_histories(runs, metric) for metric in LOSSES}
    caption = "Losses of critic and generator, and the distance of the samples to the validation images, by epoch."
    study.parent.log_figure("loss_curves", plots.curves(curves, "epoch", title), caption)


def measure_rows(ours: Table, beside: Mapping[str, Table], claims: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return a row for each measure that our generator has, beside the rival's, the floor's and the ceiling's.

    Args:
        beside: By title, the rival first.
        claims: By metric, further arguments of `study.results.compared`.
    """
    rows = []
    for metric, (figure, form) in FIGURES.items():
        if values := ours.values(metric):
            about = {"metric": metric, **claims[metric]} if metric in claims else {}
            others = {title: trials.values(metric) for title, trials in beside.items()}
            rows.append(compared(figure, values, others, form, **about))
    return rows


def weak_judges(versions: Mapping[str, Version]) -> list[Row]:
    """Return a note on each judge among these versions whose measures say little."""
    accuracies = {kind: versions[kind].metrics["val/accuracy"] for kind in KINDS if kind in versions}
    remark = f"{{:.1%}} on validation, under {WEAK_ACCURACY:.0%}: its measures are weak"
    weak = {kind: accuracy for kind, accuracy in accuracies.items() if accuracy < WEAK_ACCURACY}
    return [Row(f"note: {kind}", remark.format(accuracy)) for kind, accuracy in weak.items()]


def caution(context: Context) -> str:
    """Return the end of a sentence on the third judge's measures: "" unless that judge is weak."""
    accuracy = context.inputs[KINDS[-1]].metrics["val/accuracy"]
    return f"; but judge 3 reads only {accuracy:.1%} of real images right" if accuracy < WEAK_ACCURACY else ""
