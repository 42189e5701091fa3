"""Training translators of images: a plain GAN, CycleGAN, a conditional GAN (pix2pix), or the L1 loss alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.translation import PatchDiscriminator, Translator
from study.training.domains import Pairs
from study.training.loops import Report, autocast, check_finite
from study.training.translation_settings import CONDITIONAL_GAN, CYCLE_GAN, TranslationSettings

BETAS = (0.5, 0.999)  # Adam's, in pix2pix and CycleGAN
POOL = 50  # images (CycleGAN, section 4)
Losses = dict[str, Tensor]


def l1_loss(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of images in [0, 1], for pixels from -1 to 1 as in the papers: twice as much."""
    return 2 * F.l1_loss(images, others)


def log_loss(scores: Tensor, real: bool) -> Tensor:
    """Cross entropy of scores read as logits (pix2pix, eq. 1); with `real`, the generator's non-saturating form too."""
    return F.softplus(-scores if real else scores).mean()


def least_squares(scores: Tensor, real: bool) -> Tensor:
    """Squared distance of scores to 1 for real and 0 for fake (Mao et al. 2016, https://arxiv.org/abs/1611.04076)."""
    return (scores - float(real)).square().mean()


def translate(translator: Translator, images: Tensor) -> Tensor:
    """The translator's images, in bfloat16 but for the last layer: rounded outputs would keep it from hiding anything
    in fine differences, which is among what is measured.
    """
    with autocast(images.device):
        features = translator.features(images)
    return translator.paint(features.float())


class ImagePool:
    """The last translations: a discriminator sees older ones too (CycleGAN, section 4, after Shrivastava et al. 2016,
    https://arxiv.org/abs/1612.07828).
    """

    def __init__(self, size: int = POOL) -> None:
        self.size = size
        self._kept: Tensor | None = None  # [size or fewer, C, S, S]

    def exchange(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S], each by even chance replaced by a kept one, whose place it takes."""
        kept = images[:0] if self._kept is None else self._kept
        new = min(self.size - len(kept), len(images))
        kept = torch.cat([kept, images[:new]])
        swapped = new + (torch.rand(len(images) - new, device=images.device) < 0.5).nonzero()[:, 0]
        places = torch.randperm(len(kept), device=images.device)[: len(swapped)]
        swapped = swapped[: len(places)]
        shown = images.clone()
        shown[swapped] = kept[places]
        kept[places] = images[swapped]
        self._kept = kept
        return shown


class _Direct:
    """The plain GAN, the conditional GAN or the L1 loss alone: one translator, at most one discriminator."""

    def __init__(self, translator: Translator, settings: TranslationSettings, channels: int, device: torch.device):
        self.settings, self.translator = settings, translator
        self.conditional = settings.method == CONDITIONAL_GAN
        self.discriminator: PatchDiscriminator | None = None
        self.optimizers = [_adam([translator], settings.learning_rate)]
        if settings.discriminator_rate:
            self.discriminator = PatchDiscriminator(channels * (1 + self.conditional)).to(device)
            self.optimizers.append(_adam([self.discriminator], settings.discriminator_rate))

    def step(self, a: Tensor, b: Tensor) -> Losses:
        """One step of the translator, then one of the discriminator, on floats [B, C, S, S]."""

        def score(images: Tensor) -> Tensor:
            assert self.discriminator is not None
            return _score(self.discriminator, torch.cat([a, images], 1) if self.conditional else images)

        fake = translate(self.translator, a)
        losses: Losses = {}
        loss = fake.new_zeros(())
        if self.settings.weight:
            losses["generator/l1"] = l1_loss(fake, b)
            loss = loss + self.settings.weight * losses["generator/l1"]
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)  # spares the gradients of weights that do not move now
            losses["generator/adversarial"] = log_loss(score(fake), real=True)
            loss = loss + losses["generator/adversarial"]
        losses["generator/loss"] = loss
        _step(self.optimizers[0], loss)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(True)
            right, wrong = score(b), score(fake.detach())
            losses["discriminator/loss"] = (log_loss(right, real=True) + log_loss(wrong, real=False)) / 2
            _step(self.optimizers[1], losses["discriminator/loss"])
        return losses


class _Cycle:
    """CycleGAN: translators there and back, a discriminator for each domain (Zhu et al. 2017, eq. 3, section 5.2)."""

    def __init__(self, translator: Translator, settings: TranslationSettings, channels: int, device: torch.device):
        self.settings, self.there, self.back = settings, translator, copy.deepcopy(translator)
        for module in self.back.modules():  # weights of its own
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()
        self.of_a, self.of_b = (PatchDiscriminator(channels).to(device) for _ in range(2))
        self.pools = ImagePool(), ImagePool()
        self.optimizers = [
            _adam([self.there, self.back], settings.learning_rate),
            _adam([self.of_a, self.of_b], settings.discriminator_rate),
        ]

    def step(self, a: Tensor, b: Tensor) -> Losses:
        """One step of both translators, then one of both discriminators, on floats [B, C, S, S]."""
        count, weight, identity = len(a), self.settings.weight, self.settings.identity
        both = (torch.cat([a, b]), torch.cat([b, a])) if identity else (a, b)
        fake_b, *same_b = translate(self.there, both[0]).split(count)
        fake_a, *same_a = translate(self.back, both[1]).split(count)
        again_a, again_b = translate(self.back, fake_b), translate(self.there, fake_a)
        for discriminator in (self.of_a, self.of_b):
            discriminator.requires_grad_(False)
        adversarial = least_squares(_score(self.of_b, fake_b), real=True)
        adversarial = adversarial + least_squares(_score(self.of_a, fake_a), real=True)
        cycle = l1_loss(again_a, a) + l1_loss(again_b, b)
        losses = {"generator/adversarial": adversarial, "generator/cycle": cycle}
        loss = adversarial + weight * cycle
        if identity:
            losses["generator/identity"] = l1_loss(same_a[0], a) + l1_loss(same_b[0], b)
            loss = loss + weight * identity * losses["generator/identity"]
        _step(self.optimizers[0], loss)

        halves = []
        for discriminator, pool, real, fake in zip(
            (self.of_a, self.of_b), self.pools, (a, b), (fake_a, fake_b), strict=True
        ):
            discriminator.requires_grad_(True)
            right, wrong = _score(discriminator, real), _score(discriminator, pool.exchange(fake.detach()))
            halves.append((least_squares(right, real=True) + least_squares(wrong, real=False)) / 2)
        discriminators = torch.stack(halves).sum()
        _step(self.optimizers[1], discriminators)
        return {**losses, "generator/loss": loss, "discriminator/loss": discriminators}


def train_translator(
    translator: Translator,
    pairs: Pairs,
    settings: TranslationSettings,
    *,
    epochs: int,
    images: int,
    batch_size: int,
    report: Report,
) -> Translator | None:
    """Train a translator from A to B. The discriminators' loss is halved, as in pix2pix and CycleGAN.

    Args:
        images: Pairs an epoch.
        report: Gets the mean of each loss over the epoch: `generator/loss` and its parts, `discriminator/loss`.

    Returns:
        CycleGAN's translator from B to A; None of the others, which have none.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    channels, device = pairs.a.shape[1], pairs.a.device
    make = _Cycle if settings.method == CYCLE_GAN else _Direct
    training = make(translator.train(), settings, channels, device)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in training.optimizers]
    for epoch in range(1, epochs + 1):
        for optimizer, rate in zip(training.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * falling(epoch, epochs)
        steps = [
            {name: loss.detach() for name, loss in training.step(a, b).items()}
            for a, b in pairs.batches(images, batch_size)
        ]
        metrics = {name: float(torch.stack([losses[name] for losses in steps]).mean()) for name in steps[0]}
        check_finite(epoch, metrics)
        report(epoch, metrics)
    return training.back.eval() if isinstance(training, _Cycle) else None


def falling(epoch: int, epochs: int) -> float:
    """The learning rate of an epoch as a share of the first one's: constant in the first half of the epochs, then in a
    straight line towards zero after the last (CycleGAN, section 4).
    """
    constant = (epochs + 1) // 2
    return 1.0 if epoch <= constant else (epochs + 1 - epoch) / (epochs + 1 - constant)


def _adam(modules: Iterable[nn.Module], rate: float) -> torch.optim.Optimizer:
    parameters = itertools.chain.from_iterable(module.parameters() for module in modules)
    return torch.optim.Adam(parameters, lr=rate, betas=BETAS, fused=True)


def _score(discriminator: PatchDiscriminator, images: Tensor) -> Tensor:
    with autocast(images.device):
        scores = discriminator(images)
    return scores.float()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
