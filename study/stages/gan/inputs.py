"""What every training and every baseline of a GAN stage is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import Critic, LatentGenerator, ToneCurve
from study.data.dataset import Dataset, Split
from study.engine.stage import Context
from study.measures.judges import Judges, RealFeatures
from study.measures.latents import EncodedImages
from study.measures.two_sample import LatentFidelity
from study.stages.gan.settings import JUDGES
from study.training.classifier import ClassifierSettings, classification_accuracy_score
from study.training.gan import GanSettings
from study.training.loops import apply, eval_mode
from study.training.tone import fit_tone_curve


@dataclass(frozen=True)
class GanInputs:
    """Each part is loaded or computed when it is first needed."""

    context: Context

    @property
    def data(self) -> Dataset:
        return self.context.dataset

    @property
    def device(self) -> torch.device:
        return self.context.device

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

        def fit() -> dict[str, object]:
            return {"tone": fit_tone_curve(self.autoencoder, self.data.train.images).cpu().numpy()}

        curve = ToneCurve().to(self.device)
        curve.levels.copy_(torch.from_numpy(self.context.kept_arrays("autoencoder", fit)["tone"]))
        return curve

    @cached_property
    def encoded(self) -> EncodedImages:
        """The standardised latents of the training images."""
        return EncodedImages.encode(self.autoencoder, self.data.train)

    @cached_property
    def raw(self) -> EncodedImages:
        """The same before the encoder's last BatchNorm."""
        return self.encoded.raw(self.autoencoder)

    def standardised(self, latents: Tensor) -> Tensor:
        """Latents [N, latent_dim] of the autoencoder's scale in that of the standardised training latents."""
        return (latents - self.encoded.mean) / self.encoded.std

    def encode(self, split: Split) -> Tensor:
        """Standardised latents [N, latent_dim] of held-out images."""
        with eval_mode(self.autoencoder):
            return self.standardised(apply(self.autoencoder.encoder, split.images))

    @cached_property
    def val_latents(self) -> Tensor:
        return self.encode(self.data.val)

    @cached_property
    def test_latents(self) -> Tensor:
        return self.encode(self.data.test)

    def decode(self, standardised: Tensor) -> Tensor:
        """Images [N, C, S, S] of standardised latents, as every generator and baseline decodes them."""
        latents = standardised * self.encoded.std + self.encoded.mean
        with eval_mode(self.autoencoder):
            return apply(lambda batch: self.tone(self.autoencoder.decoder(batch)), latents)

    @cached_property
    def latent_fidelity(self) -> LatentFidelity:
        """How generated latents, standardised, differ from those of the test images."""
        return LatentFidelity(self.encoded.vectors, self.test_latents)

    @cached_property
    def judges(self) -> Judges:
        """All judges; their features of the real images are kept in the store."""

        def real(kind: str, judge: Judge) -> Callable[[], RealFeatures]:
            return lambda: RealFeatures.from_arrays(
                self.context.kept_arrays(kind, lambda: RealFeatures.of(judge, self.data).to_arrays()), self.device
            )

        judges = [self.context.module(kind, Judge) for kind in JUDGES]
        return Judges(judges, self.data, real=[real(*pair) for pair in zip(JUDGES, judges, strict=True)])

    def accuracy_score(self, images: Tensor, labels: Tensor, settings: ClassifierSettings) -> dict[str, float]:
        """Accuracy on real test images of a classifier that saw only these images [N, C, S, S] and labels [N]."""
        data, pixels = self.data, (images * 255).round().to(torch.uint8)
        classifier = Judge("conv", image_shape=data.image_shape, classes=len(data.classes)).to(self.device)
        score = classification_accuracy_score(Split(pixels, labels), classifier, settings, data.val, data.test)
        return {"sample/classification_accuracy_score": score}

    def build(
        self, settings: GanSettings, encoded: EncodedImages, classes: int
    ) -> tuple[LatentGenerator, Critic, dict[str, object]]:
        """An untrained generator and critic, and the generator's constructor arguments; classes 0: no labels."""
        latent_dim = encoded.vectors.shape[1]
        module: dict[str, object] = {
            "input_dim": settings.noise_dim + classes,
            "latent_dim": latent_dim,
            "architecture": self.architecture,
            "image_shape": list(self.data.image_shape),
            "width": settings.width,
            "depth": settings.depth,
        }
        model = LatentGenerator(**module).to(self.device)  # type: ignore[arg-type]
        model.decoder.load_state_dict(self.autoencoder.decoder.state_dict())
        model.tone.load_state_dict(self.tone.state_dict())
        model.mean.copy_(encoded.mean)
        model.std.copy_(encoded.std)
        critic = Critic(latent_dim + classes, settings.width, norm=settings.critic_norm)
        return model, critic.to(self.device), module
