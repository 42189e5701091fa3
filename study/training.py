"""The training loops. They report each epoch through a callback and know of no tracker and no search."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import Critic, Generator
from study.data import Split, to_float

Report = Callable[[int, Mapping[str, float]], None]
"""Called with the epoch, from 1, and its metrics; it may raise to stop the training."""

EVAL_BATCH = 200  # small enough that activations stay in the processor's cache
HALF_BATCH = 128  # vectors from which on a GAN's multiplications outweigh the casts to bfloat16
AUTOENCODER_BETA2 = 0.95  # 0.999 takes a fifth more steps to the same loss
HEAD_NOISE = 0.5  # standard deviation, of latents of variance 1


# --- What the loops share ------------------------------------------------------------------------------


def batches(count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Indices [size] of the shuffled batches of one epoch; the incomplete last batch is left out.

    Raises:
        ValueError: There are fewer than `size` images.
    """
    if size > count:
        raise ValueError(f"`batch_size <= number of training images` must hold, but got {size} and {count}")
    order = torch.randperm(count, device=device)
    yield from order[: count - count % size].split(size)


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside, the modules' own modes after."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.train(mode)


def apply(module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The module's outputs in batches; uint8 images are turned into floats batch by batch."""
    parts = inputs.split(EVAL_BATCH)
    return torch.cat([module(to_float(part) if part.dtype == torch.uint8 else part) for part in parts])


def reconstruction_loss(autoencoder: Autoencoder, images: Tensor) -> float:
    """Mean squared error per pixel on [0, 1], of uint8 images [N, 1, 28, 28]."""
    with eval_mode(autoencoder):
        errors = [F.mse_loss(autoencoder(x), x, reduction="sum") for x in map(to_float, images.split(EVAL_BATCH))]
    return float(torch.stack(errors).sum()) / images.numel()


def accuracy(classifier: nn.Module, split: Split) -> float:
    """Share of the images whose largest logit is their label's."""
    with eval_mode(classifier):
        return float((apply(classifier, split.images).argmax(1) == split.labels).float().mean())


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the processor multiplies it natively, else float32."""
    native = device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(native))


def check_finite(epoch: int, metrics: Mapping[str, float]) -> None:
    """FloatingPointError, with the metric's name, if one of them is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value} after epoch {epoch}")


def one_cycle(
    model: nn.Module, learning_rate: float, steps: int, beta2: float = 0.999
) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    """AdamW under the one-cycle schedule (Smith & Topin 2017, https://arxiv.org/abs/1708.07120), and its step.

    Args:
        beta2: Decay of AdamW's average of squared gradients; a small one forgets the large gradients of the beginning.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, beta2), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2))

    def step() -> None:
        optimizer.step()
        schedule.step()

    return optimizer, step


# --- Autoencoder and classifiers -----------------------------------------------------------------------


def train_autoencoder(
    model: Autoencoder,
    train: Tensor,
    val: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    report: Report,
    covariance_weight: float = 0.0,
) -> None:
    """Minimise the mean squared error per pixel of uint8 images [N, 1, 28, 28].

    Args:
        covariance_weight: That of `covariance_penalty` in what is minimised; the losses reported are without it.
    """
    optimizer, step = one_cycle(model, learning_rate, epochs * (len(train) // batch_size), AUTOENCODER_BETA2)
    model.train()
    for epoch in range(1, epochs + 1):
        losses = []
        for index in batches(len(train), batch_size, train.device):
            images = to_float(train[index])
            with autocast(train.device):
                latents = model.encoder(images)
                reconstructions = model.decoder(latents)
            loss = F.mse_loss(reconstructions.float(), images)
            losses.append(loss.detach())
            if covariance_weight:
                loss = loss + covariance_weight * covariance_penalty(latents.float())
            optimizer.zero_grad()
            loss.backward()
            step()
        metrics = {
            "train/loss": float(torch.stack(losses).mean()),
            "val/loss": reconstruction_loss(model, val),
        }
        check_finite(epoch, metrics)
        report(epoch, metrics)


def covariance_penalty(latents: Tensor) -> Tensor:
    """Sum of the squared off-diagonal covariances of latents [N, D], over D.

    VICReg's third term (Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eq. 3-4). Our latents are standardised
    by BatchNorm, so that covariance is correlation, as in Barlow Twins (https://arxiv.org/abs/2103.03230).
    """
    covariance = torch.cov(latents.T)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / latents.shape[1]


def train_judge(
    model: Judge, train: Split, val: Split, epochs: int, batch_size: int, learning_rate: float, report: Report
) -> None:
    """Minimise the cross entropy of images shifted by up to two pixels, each batch by the same shift."""
    optimizer, step = one_cycle(model, learning_rate, epochs * (len(train) // batch_size))
    model.train()
    for epoch in range(1, epochs + 1):
        losses = []
        for index in batches(len(train), batch_size, train.images.device):
            down, right = torch.randint(-2, 3, (2,)).tolist()
            images = torch.roll(to_float(train.images[index]), (down, right), dims=(2, 3))
            with autocast(images.device):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
        metrics = {"train/loss": float(torch.stack(losses).mean()), "val/accuracy": accuracy(model, val)}
        check_finite(epoch, metrics)
        report(epoch, metrics)


def train_classifier(
    model: nn.Module,
    few: Split,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    report: Report,
) -> None:
    """Minimise the cross entropy of a few labelled images, each jittered anew each time.

    Args:
        model: Images to logits [N, 10]; left in the mode it comes in, so that BatchNorm can keep its statistics.
        few: The labelled images; each is used once an epoch but for an incomplete last batch.
    """
    batch_size = min(batch_size, len(few))
    optimizer, step = one_cycle(model, learning_rate, epochs * (len(few) // batch_size))
    images = to_float(few.images)
    for epoch in range(1, epochs + 1):
        losses, right = [], []
        for index in batches(len(few), batch_size, images.device):
            logits = model(jitter(images[index]))
            loss = F.cross_entropy(logits, few.labels[index])
            optimizer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
            right.append((logits.argmax(1) == few.labels[index]).float().mean())
        _report_classifier(epoch, losses, right, report)


def train_head(
    head: nn.Module,
    copies: Tensor,
    labels: Tensor,
    epochs: int,
    passes: int,
    batch_size: int,
    learning_rate: float,
    report: Report,
) -> None:
    """Minimise the cross entropy of a head on a frozen encoder's latents, under noise and mixup.

    Mixup: Zhang et al. 2018, https://arxiv.org/abs/1710.09412, with Beta(1, 1) and the larger share first.

    Args:
        head: Latents to logits [N, 10].
        copies: The latents [K, N, D] of K jittered copies of N images; each time, one of an image's copies is drawn.
        labels: [N].
        passes: How often an epoch takes each image.
    """
    count = copies.shape[1]
    batch_size = min(batch_size, count)
    optimizer, step = one_cycle(head, learning_rate, epochs * passes * (count // batch_size))
    targets = F.one_hot(labels, 10).float()
    for epoch in range(1, epochs + 1):
        losses, right = [], []
        for _ in range(passes):
            for index in batches(count, batch_size, labels.device):
                latents = copies[torch.randint(len(copies), (batch_size,), device=index.device), index]
                latents = latents + HEAD_NOISE * torch.randn_like(latents)
                share = torch.rand(batch_size, 1, device=index.device)
                share = torch.maximum(share, 1 - share)
                other = torch.randperm(batch_size, device=index.device)
                logits = head(share * latents + (1 - share) * latents[other])
                loss = F.cross_entropy(logits, share * targets[index] + (1 - share) * targets[index[other]])
                optimizer.zero_grad()
                loss.backward()
                step()
                losses.append(loss.detach())
                right.append((logits.argmax(1) == labels[index]).float().mean())
        _report_classifier(epoch, losses, right, report)


def _report_classifier(epoch: int, losses: list[Tensor], right: list[Tensor], report: Report) -> None:
    metrics = {
        "train/loss": float(torch.stack(losses).mean()),
        "train/accuracy": float(torch.stack(right).mean()),
    }
    check_finite(epoch, metrics)
    report(epoch, metrics)


def jitter(images: Tensor, degrees: float = 15, pixels: float = 2.5, scale: float = 0.15) -> Tensor:
    """Images [N, 1, H, W], each turned, shifted and scaled by a random amount, up to these in either direction."""
    angle, stretch, down, right = torch.rand(4, len(images), device=images.device).mul_(2).sub_(1)
    angle, stretch = angle * math.radians(degrees), 1 + stretch * scale
    shift = 2 * pixels / images.shape[-1]  # grid_sample's images are 2 wide
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    rows = [torch.stack([cos, -sin, shift * right], 1), torch.stack([sin, cos, shift * down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


# --- Latent GANs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GanSettings:
    """What a latent GAN is trained with; `clip_value` None makes it a vanilla GAN, else it is a WGAN."""

    batch_size: int
    learning_rate: float
    clip_value: float | None  # the critic's weights stay in [-clip_value, clip_value]
    n_critic: int  # critic steps per generator step
    width: int  # neurons of each hidden layer
    noise_dim: int
    depth: int = 2  # hidden layers of the generator
    averaging: float = 0.0  # decay of the generator's weight average; 0: none
    falling: bool = False  # the learning rate falls linearly to zero, else it is constant


def train_gan(
    generator: Generator,
    critic: Critic,
    latents: Tensor,
    conditions: Tensor,
    settings: GanSettings,
    epochs: int,
    report: Report,
) -> None:
    """Train a WGAN with weight clipping (Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875, algorithm 1) or a
    vanilla GAN with the non-saturating loss (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661).

    Args:
        latents: Standardised latents [N, latent_dim].
        conditions: One-hot labels [N, 10], or [N, 0] for an unconditional GAN.
        epochs: Passes over the latents; each batch is one critic step.

    With `averaging`, `generator` holds the moving average of the weights that are trained (Yazici et al. 2018,
    https://arxiv.org/abs/1806.04498).
    """
    wgan, rate, device = settings.clip_value is not None, settings.learning_rate, latents.device
    # RMSprop as in the WGAN paper's algorithm; Adam with beta_1 = 0.5 as in DCGAN (Radford et al. 2015).
    optimizer = torch.optim.RMSprop if wgan else partial(torch.optim.Adam, betas=(0.5, 0.999))
    critic_optimizer = optimizer(critic.parameters(), lr=rate)
    learner = copy.deepcopy(generator) if settings.averaging else generator
    generator_optimizer = optimizer(learner.parameters(), lr=rate)
    learner.train()
    critic.train()

    def half() -> AbstractContextManager[object]:
        return autocast(device) if settings.batch_size >= HALF_BATCH else nullcontext()

    def fakes(condition: Tensor) -> Tensor:
        noise = torch.randn(len(condition), settings.noise_dim, device=device)
        with half():
            made = learner(torch.cat([noise, condition], 1))
        return torch.cat([made.float(), condition], 1)  # [B, latent_dim (+ 10)]

    def scores(inputs: Tensor) -> Tensor:
        with half():
            return critic(inputs).float()

    critic_steps = generator_steps = 0
    for epoch in range(1, epochs + 1):
        if settings.falling:
            for group in (*critic_optimizer.param_groups, *generator_optimizer.param_groups):
                group["lr"] = rate * (1 - (epoch - 1) / epochs)
        critic_losses, generator_losses = [], []
        for index in batches(len(latents), settings.batch_size, device):
            condition = conditions[index]
            with torch.no_grad():
                fake = fakes(condition)
            real = torch.cat([latents[index], condition], 1)
            real_scores, fake_scores = scores(torch.cat([real, fake])).chunk(2)
            critic_loss = _critic_loss(real_scores, fake_scores, wgan)
            critic_optimizer.zero_grad()
            critic_loss.backward()
            critic_optimizer.step()
            if settings.clip_value is not None:
                clip_weights(critic, settings.clip_value)
            critic_losses.append(critic_loss.detach())
            critic_steps += 1
            if critic_steps % settings.n_critic == 0:
                critic.requires_grad_(False)  # spares the gradients of weights that do not move now
                generator_loss = _generator_loss(scores(fakes(condition)), wgan)
                generator_optimizer.zero_grad()
                generator_loss.backward()
                generator_optimizer.step()
                critic.requires_grad_(True)
                generator_losses.append(generator_loss.detach())
                generator_steps += 1
                if settings.averaging:
                    warm = (1 + generator_steps) / (10 + generator_steps)  # early weights are soon forgotten
                    average_weights(generator, learner, min(settings.averaging, warm))
        metrics = {
            "critic/loss": float(torch.stack(critic_losses).mean()),
            "critic/gradient_norm": gradient_norm(critic),  # of the epoch's last step
        }
        if generator_losses:  # with few batches an epoch and a large n_critic, not every epoch has one
            metrics["generator/loss"] = float(torch.stack(generator_losses).mean())
        if settings.clip_value is not None:
            metrics["critic/wasserstein"] = -metrics["critic/loss"]
            metrics["critic/at_clip"] = share_at_clip(critic, settings.clip_value)
        check_finite(epoch, metrics)
        report(epoch, metrics)


@torch.no_grad()
def average_weights(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move parameters and BatchNorm statistics of `average` to decay * average + (1 - decay) * module."""
    pairs = list(zip(average.state_dict().values(), module.state_dict().values(), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]  # and not BatchNorm's count of batches
    torch._foreach_lerp_([mean for mean, _ in moving], [value for _, value in moving], 1 - decay)


@torch.no_grad()
def clip_weights(critic: nn.Module, clip_value: float) -> None:
    """Put every parameter back into [-clip_value, clip_value]."""
    for parameter in critic.parameters():
        parameter.clamp_(-clip_value, clip_value)


def gradient_norm(module: nn.Module) -> float:
    """Euclidean norm of the gradients of all parameters."""
    return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def share_at_clip(critic: nn.Module, clip_value: float) -> float:
    """Share of the parameters that lie on the bound; near 1 the critic has no freedom left."""
    weights = torch.cat([parameter.detach().flatten() for parameter in critic.parameters()])
    return float((weights.abs() >= clip_value).float().mean())


def _critic_loss(real: Tensor, fake: Tensor, wgan: bool) -> Tensor:
    """WGAN: minus the estimate of the Wasserstein distance (up to the critic's Lipschitz constant)."""
    if wgan:
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()  # binary cross entropy on logits


def _generator_loss(fake: Tensor, wgan: bool) -> Tensor:
    return -fake.mean() if wgan else F.softplus(-fake).mean()
