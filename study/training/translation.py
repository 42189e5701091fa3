"""Training translators of images: a plain GAN, CycleGAN, a conditional GAN (pix2pix), or the L1 loss alone.

Images are of two domains, A and B, with a known translation from A to B; training images are paired in three ways.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.translation import PatchDiscriminator, Translator
from study.data.dataset import to_float
from study.training.loops import Report, autocast, batches, check_finite, mean_of

Pairing = Literal["paired", "loosely paired", "unpaired"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
PAIRED, LOOSE, UNPAIRED = PAIRINGS

CHUNK = 5_000  # images that are floats at a time
LEVEL = 3
"""Misalignment of loosely paired images: the middle of the five levels of RegGAN (Kong et al. 2021,
https://arxiv.org/abs/2110.06465)."""


def dilate(images: Tensor) -> Tensor:
    """Return the largest value in each pixel's 3 x 3 neighbourhood, of images uint8 [N, C, S, S]."""
    return torch.cat([F.max_pool2d(part.float(), 3, 1, 1).to(torch.uint8) for part in images.split(CHUNK)])


TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "outline": lambda images: dilate(images) - images,
    "thicken": dilate,
    "rotate": lambda images: images.rot90(1, (2, 3)).contiguous(),
}
"""What turns images of domain B, uint8 [N, C, S, S], into their counterparts in A; a translator learns the way back.
The outline is the outer morphological gradient; its translation is like edges to photographs in pix2pix."""


def affine(images: Tensor, degrees: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return images [N, C, S, S], each rotated about its centre (counterclockwise), scaled and then shifted.

    Args:
        degrees: [N].
        shift: To the right and down, as a fraction of the side, [N, 2].
        scale: Above 1 enlarges, [N].
    """
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # from output to input pixels
    back = -turn @ (2 * shift[:, :, None])  # grid_sample's images are 2 wide
    grid = F.affine_grid(torch.cat([turn, back], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def misalign(images: Tensor) -> Tensor:
    """Return images [N, C, S, S], each moved by a random affine map.

    Up to LEVEL degrees, 2 LEVEL % of the side in either direction, and a scale of 1 +- 2 LEVEL %.
    """
    degrees, right, down, scale = torch.rand(4, len(images), device=images.device) * 2 - 1
    return affine(images, LEVEL * degrees, 0.02 * LEVEL * torch.stack([right, down], 1), 1 + 0.02 * LEVEL * scale)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training images of both domains.

    Attributes:
        a: uint8 [N, C, S, S].
        b: uint8 [N or N + 1, C, S, S]; b[i] belongs to a[i], unless they are unpaired.
    """

    a: Tensor
    b: Tensor
    pairing: Pairing

    def batches(self, count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch of `count` pairs, at most N, in random order: floats [size, C, S, S] of A and B in [0, 1]."""
        in_a = in_b = torch.randperm(len(self.a), device=self.a.device)[:count]
        if self.pairing == UNPAIRED:
            in_b = torch.randperm(len(self.b), device=self.b.device)[: len(in_a)]
        for index in batches(len(in_a), size, self.a.device):
            a, b = to_float(self.a[in_a[index]]), to_float(self.b[in_b[index]])
            yield (misalign(a), misalign(b)) if self.pairing == LOOSE else (a, b)


def make_pairs(task: str, images: Tensor, pairing: Pairing, seed: int) -> Pairs:
    """Return pairs from the images of domain B, uint8 [N, C, S, S].

    paired: b is the true translation of a. loosely paired: both are moved by random affine maps of their own, anew in
    each epoch. unpaired: A and B are of disjoint halves of the images.

    Args:
        seed: Of the halves.
    """
    a = TASKS[task](images)
    if pairing != UNPAIRED:
        return Pairs(a, images, pairing)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(a.device)
    half = len(order) // 2
    return Pairs(a[order[:half]], images[order[half:]], pairing)


Method = Literal["plain GAN", "CycleGAN", "conditional GAN", "L1 alone"]
METHODS: tuple[Method, ...] = get_args(Method)
GAN, CYCLE_GAN, CONDITIONAL_GAN, L1 = METHODS


class Settings(NamedTuple):
    """Adam's learning rate, and the weight of the L1 or the cycle loss beside the adversarial loss (weight 1)."""

    learning_rate: float
    weight: float


SETTINGS: Mapping[Method, Settings] = {
    GAN: Settings(5e-4, 0.0),
    CYCLE_GAN: Settings(1e-3, 1.0),
    CONDITIONAL_GAN: Settings(1e-3, 100.0),
    L1: Settings(1e-3, 1.0),
}
"""For few epochs, chosen on MNIST's validation images (docs/log.md). Published (Isola et al. 2017,
https://arxiv.org/abs/1611.07004; Zhu et al. 2017, https://arxiv.org/abs/1703.10593) are a rate of 2e-4 for batches of
one image, an L1 weight of 100, and a cycle weight of 10 beside an identity loss, with which CycleGAN returns its input
for as many epochs as here."""
BATCH_SIZE = 32
BETAS = (0.5, 0.999)  # Adam's, in pix2pix and CycleGAN
POOL = 50  # images (CycleGAN, section 4)
Losses = dict[str, Tensor]
Loss = Callable[[Tensor, bool], Tensor]  # of scores, and whether they should be those of real images


def l1_loss(images: Tensor, others: Tensor) -> Tensor:
    """Return the mean absolute difference of pixels from -1 to 1 (as in the papers), of images in [0, 1]."""
    return 2 * F.l1_loss(images, others)


def log_loss(scores: Tensor, real: bool) -> Tensor:
    """Return the cross entropy of logits (pix2pix, eq. 1); with `real`, also the generator's non-saturating loss."""
    return F.softplus(-scores if real else scores).mean()


def least_squares(scores: Tensor, real: bool) -> Tensor:
    """Return the squared distance of scores to 1 for real, 0 for fake (Mao et al. 2016, arXiv 1611.04076)."""
    return (scores - float(real)).square().mean()


def translate(translator: Translator, images: Tensor) -> Tensor:
    """Return the translator's images, computed in bfloat16 but for the last layer, which keeps fine differences."""
    with autocast(images.device):
        features = translator.features(images)
    return translator.paint(features.float())


class ImagePool:
    """The last translations, so that a discriminator sees older ones too (Shrivastava et al. 2016, 1612.07828)."""

    def __init__(self, size: int = POOL) -> None:
        self.size = size
        self._kept: Tensor | None = None  # [size or fewer, C, S, S]

    def exchange(self, images: Tensor) -> Tensor:
        """Return images [B, C, S, S], each with probability 1/2 exchanged for a kept one."""
        kept = images[:0] if self._kept is None else self._kept
        new = min(self.size - len(kept), len(images))
        self._kept = kept = torch.cat([kept, images[:new]])
        swapped = new + (torch.rand(len(images) - new, device=images.device) < 0.5).nonzero()[:, 0]
        places = torch.randperm(len(kept), device=images.device)[: len(swapped)]
        swapped = swapped[: len(places)]
        shown = images.clone()
        shown[swapped] = kept[places]
        kept[places] = images[swapped]
        return shown


class _Direct:
    """The plain GAN, the conditional GAN or the L1 loss alone: one translator, at most one discriminator."""

    def __init__(self, translator: Translator, method: Method, channels: int, device: torch.device) -> None:
        self.translator, self.conditional = translator, method == CONDITIONAL_GAN
        self.weight = SETTINGS[method].weight
        seen = channels * (1 + self.conditional)
        self.discriminator = None if method == L1 else PatchDiscriminator(seen).to(device)
        self.optimizers = [_adam(method, each) for each in (translator, self.discriminator) if each is not None]

    def step(self, a: Tensor, b: Tensor) -> Losses:
        """Make one step of the translator, then one of the discriminator, on floats [B, C, S, S]."""
        fake, given = translate(self.translator, a), [a] if self.conditional else []
        losses: Losses = {}
        loss = fake.new_zeros(())
        if self.weight:
            losses["generator/l1"] = l1_loss(fake, b)
            loss = self.weight * losses["generator/l1"]
        if self.discriminator is not None:
            losses["generator/adversarial"] = _fooling(log_loss, self.discriminator, *given, fake)
            loss = loss + losses["generator/adversarial"]
        losses["generator/loss"] = loss
        _step(self.optimizers[0], loss)
        if self.discriminator is not None:
            sides = [*given, b], [*given, fake.detach()]
            losses["discriminator/loss"] = _discriminating(log_loss, self.discriminator, *sides)
            _step(self.optimizers[1], losses["discriminator/loss"])
        return losses


class _Cycle:
    """CycleGAN: a translator each way and a discriminator for each domain (Zhu et al. 2017, eq. 3)."""

    def __init__(self, translator: Translator, method: Method, channels: int, device: torch.device) -> None:
        self.translator, self.back = translator, copy.deepcopy(translator)
        self.weight = SETTINGS[method].weight
        for module in self.back.modules():  # weights of its own
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()
        self.of_a, self.of_b = (PatchDiscriminator(channels).to(device) for _ in range(2))
        self.pools = ImagePool(), ImagePool()
        self.optimizers = [_adam(method, translator, self.back), _adam(method, self.of_a, self.of_b)]

    def step(self, a: Tensor, b: Tensor) -> Losses:
        """Make one step of both translators, then one of both discriminators, on floats [B, C, S, S]."""
        fake_b, fake_a = translate(self.translator, a), translate(self.back, b)
        again_a, again_b = translate(self.back, fake_b), translate(self.translator, fake_a)
        adversarial = _fooling(least_squares, self.of_b, fake_b) + _fooling(least_squares, self.of_a, fake_a)
        cycle = l1_loss(again_a, a) + l1_loss(again_b, b)
        loss = adversarial + self.weight * cycle
        _step(self.optimizers[0], loss)
        sides = zip((self.of_a, self.of_b), self.pools, (a, b), (fake_a, fake_b), strict=True)
        halves = [
            _discriminating(least_squares, discriminator, [real], [pool.exchange(fake.detach())])
            for discriminator, pool, real, fake in sides
        ]
        judged = torch.stack(halves).sum()
        _step(self.optimizers[1], judged)
        parts = {"generator/adversarial": adversarial, "generator/cycle": cycle}
        return {**parts, "generator/loss": loss, "discriminator/loss": judged}


def train_translator(
    translator: Translator, pairs: Pairs, method: Method, *, epochs: int, images: int, report: Report
) -> None:
    """Train a translator from A to B.

    Args:
        images: Pairs per epoch.
        report: Gets the mean of each loss over the epoch: `generator/loss` and its parts, `discriminator/loss`.

    Raises:
        Diverged: A loss is not finite.
    """
    make = _Cycle if method == CYCLE_GAN else _Direct
    training = make(translator.train(), method, pairs.a.shape[1], pairs.a.device)
    for epoch in range(1, epochs + 1):
        for optimizer in training.optimizers:
            optimizer.param_groups[0]["lr"] = SETTINGS[method].learning_rate * lr_decay(epoch, epochs)
        steps = [training.step(a, b) for a, b in pairs.batches(images, BATCH_SIZE)]
        metrics = {name: mean_of([losses[name].detach() for losses in steps]) for name in steps[0]}
        check_finite(epoch, metrics)
        report(epoch, metrics)


def lr_decay(epoch: int, epochs: int) -> float:
    """Return the learning rate's factor: 1 in the first half of the epochs, then linear to 0 (CycleGAN, section 4)."""
    constant = (epochs + 1) // 2
    return 1.0 if epoch <= constant else (epochs + 1 - epoch) / (epochs + 1 - constant)


def _adam(method: Method, *modules: nn.Module) -> torch.optim.Optimizer:
    parameters = nn.ModuleList(modules).parameters()
    return torch.optim.Adam(parameters, lr=SETTINGS[method].learning_rate, betas=BETAS, fused=True)


def _score(discriminator: PatchDiscriminator, *images: Tensor) -> Tensor:
    with autocast(images[0].device):
        return discriminator(torch.cat(images, 1)).float()


def _fooling(loss: Loss, discriminator: PatchDiscriminator, *fake: Tensor) -> Tensor:
    """Return the translator's loss, without the gradients of the discriminator's weights, which this step keeps."""
    discriminator.requires_grad_(False)
    return loss(_score(discriminator, *fake), True)


def _discriminating(
    loss: Loss, discriminator: PatchDiscriminator, real: Sequence[Tensor], fake: Sequence[Tensor]
) -> Tensor:
    """Return the discriminator's loss, halved as in pix2pix and CycleGAN."""
    discriminator.requires_grad_(True)
    return (loss(_score(discriminator, *real), True) + loss(_score(discriminator, *fake), False)) / 2


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
