"""Training a GAN on latents: a WGAN with weight clipping, or a vanilla GAN."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm, parameters_to_vector
from torch.optim import Optimizer

from models.gan import Critic, Generator
from study.training.loops import Report, autocast, batches, check_finite, gradients_of, mean_of, steps_per_epoch

AUTOCAST_BATCH = 128  # from this batch size on, bfloat16 multiplications save more time than the casts cost


@dataclass(frozen=True)
class GanSettings:
    """The settings of one training; `clip_value` None makes it a vanilla GAN, else it is a WGAN."""

    batch_size: int
    learning_rate: float
    clip_value: float | None  # the critic's weights stay in [-clip_value, clip_value]
    n_critic: int  # critic steps per generator step
    width: int  # neurons of each hidden layer
    noise_dim: int
    depth: int = 2  # hidden layers of the generator
    ema_decay: float = 0.0  # of the moving average of the generator's weights; 0: no average
    lr_decay: bool = False  # the learning rate falls linearly to zero; False: it is constant
    saturating: bool = False  # a vanilla generator minimises log(1 - D) (Goodfellow et al. 2014, eq. 1)
    critic_norm: bool = False  # BatchNorm in the critic or discriminator


PAPER = GanSettings(batch_size=64, learning_rate=5e-5, clip_value=0.01, n_critic=5, width=256, noise_dim=10)
"""Batch, rate, clip and n_critic of Arjovsky et al. 2017 (https://arxiv.org/abs/1701.07875), algorithm 1."""
REFERENCE = GanSettings(batch_size=256, learning_rate=5e-4, clip_value=0.12, n_critic=5, width=256, noise_dim=10)
"""Batch, rate, clip and n_critic of the reference, the course report that the README is compared with."""
VANILLA = GanSettings(batch_size=256, learning_rate=2e-4, clip_value=None, n_critic=1, width=256, noise_dim=10)
"""The non-saturating loss of Goodfellow et al. 2014 (https://arxiv.org/abs/1406.2661); Adam's rate as in DCGAN (Radford
et al. 2015, https://arxiv.org/abs/1511.06434)."""


def generator_steps(settings: GanSettings, count: int, epochs: int) -> int:
    """Return the generator's steps in `epochs` over `count` latents: one per `n_critic` batches."""
    return epochs * steps_per_epoch(count, settings.batch_size) // settings.n_critic


def describe(settings: GanSettings) -> str:
    """Return the settings in a line, for a figure's title."""
    kind, clip = ("vanilla GAN", "") if settings.clip_value is None else ("WGAN", f", clip {settings.clip_value:.3g}")
    rate = f"batch {settings.batch_size}, lr {settings.learning_rate:.2g}{clip}, n_critic {settings.n_critic}"
    sizes = f"width {settings.width}, depth {settings.depth}, noise {settings.noise_dim}"
    return f"{kind}: {rate}, {sizes}{', EMA' if settings.ema_decay else ''}"


def train_gan(
    generator: Generator,
    critic: Critic,
    latents: Tensor,
    conditions: Tensor,
    settings: GanSettings,
    *,
    epochs: int,
    report: Report,
    online: Generator | None = None,
) -> None:
    """Train a WGAN with weight clipping (Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875, algorithm 1) or a
    vanilla GAN (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661).

    With `ema_decay`, gradient steps move the online generator, and `generator` holds the exponential moving average of
    its weights (Yazici et al. 2018, https://arxiv.org/abs/1806.04498).

    Args:
        latents: Standardised latents [N, latent_dim].
        conditions: One-hot labels [N, classes], or [N, 0] for an unconditional GAN.
        epochs: Passes over the latents; each batch is one critic step.
        report: Gets `critic/loss`, `critic/gradient_norm`, `generator/loss` (in epochs with a generator step), and of a
            WGAN `critic/wasserstein` and `critic/at_clip`.
        online: With `ema_decay`, a copy of the generator that becomes the online generator; None: one is made.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    online = online or copy.deepcopy(generator) if settings.ema_decay else generator
    losses, device = _Losses(online.train(), critic.train(), latents, conditions, settings), latents.device
    optimizers = of_critic, of_generator = [_optimizer(each, settings) for each in (critic, online)]
    critic_gradients = gradients_of(losses.of_critic, of_critic, device)
    generator_gradients = gradients_of(losses.of_generator, of_generator, device)
    critic_steps = generator_steps = 0
    for epoch in range(1, epochs + 1):
        if settings.lr_decay:
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - (epoch - 1) / epochs)
        critic_losses, generator_losses = [], []
        for index in batches(len(latents), settings.batch_size, device):
            critic_losses.append(critic_gradients(index))
            of_critic.step()
            if settings.clip_value is not None:
                for weights in critic.parameters():
                    weights.data.clamp_(-settings.clip_value, settings.clip_value)
            critic_steps += 1
            if critic_steps % settings.n_critic:
                continue
            generator_losses.append(generator_gradients(index))
            of_generator.step()
            generator_steps += 1
            if settings.ema_decay:
                warm = (1 + generator_steps) / (10 + generator_steps)  # early weights are soon forgotten
                update_average(generator, online, min(settings.ema_decay, warm))
        norm = get_total_norm([p.grad for p in critic.parameters() if p.grad is not None])  # after the last step
        metrics = {"critic/loss": mean_of(critic_losses), "critic/gradient_norm": float(norm)}
        if generator_losses:  # with few batches an epoch and a large n_critic, not every epoch has one
            metrics["generator/loss"] = mean_of(generator_losses)
        if settings.clip_value is not None:
            metrics["critic/wasserstein"] = -metrics["critic/loss"]
            # The fraction of weights on the bound; near 1 the critic has no freedom left.
            magnitudes = parameters_to_vector(critic.parameters()).abs()
            metrics["critic/at_clip"] = float((magnitudes >= settings.clip_value).float().mean())
        check_finite(epoch, metrics)
        report(epoch, metrics)


@dataclass(frozen=True)
class _Losses:
    """The losses of both players on a batch, given by the indices [B] of its latents."""

    generator: Generator
    critic: Critic
    latents: Tensor
    conditions: Tensor
    settings: GanSettings

    def of_critic(self, index: Tensor) -> list[Tensor]:
        """WGAN: minus the estimate of the Wasserstein distance (up to the critic's Lipschitz constant). Vanilla GAN:
        binary cross entropy on logits.
        """
        with torch.no_grad():
            fake = self._fakes(index)
        real = torch.cat([self.latents[index], self.conditions[index]], 1)
        # BatchNorm sees batches of real or of fake vectors, never of both: DCGAN's way.
        groups = (real, fake) if self.settings.critic_norm else (torch.cat([real, fake]),)
        real_scores, fake_scores = self._compute(self.critic, *groups).chunk(2)
        if self.settings.clip_value is not None:
            return [fake_scores.mean() - real_scores.mean()]
        return [F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()]

    def of_generator(self, index: Tensor) -> list[Tensor]:
        self.critic.requires_grad_(False)  # spares the gradients of weights that do not move now
        scores = self._compute(self.critic, self._fakes(index))
        self.critic.requires_grad_(True)
        if self.settings.clip_value is not None:
            return [-scores.mean()]
        return [vanilla_generator_loss(scores, self.settings.saturating)]

    def _fakes(self, index: Tensor) -> Tensor:
        """Generated latents beside the conditions that they were asked for, [B, latent_dim (+ classes)]."""
        condition = self.conditions[index]
        noise = torch.randn(len(index), self.settings.noise_dim, device=index.device)
        return torch.cat([self._compute(self.generator, torch.cat([noise, condition], 1)), condition], 1)

    def _compute(self, module: nn.Module, *groups: Tensor) -> Tensor:
        large = min(self.settings.batch_size, len(self.latents)) >= AUTOCAST_BATCH
        with autocast(self.latents.device, large):
            return torch.cat([module(group) for group in groups]).float()


def vanilla_generator_loss(scores: Tensor, saturating: bool) -> Tensor:
    """log(1 - D) as in the paper's equation, or its non-saturating form -log D; D is the sigmoid of the scores."""
    return -F.softplus(scores).mean() if saturating else F.softplus(-scores).mean()


def _optimizer(module: nn.Module, settings: GanSettings) -> Optimizer:
    """RMSprop as in the WGAN paper's algorithm; Adam with beta_1 = 0.5 as in DCGAN (Radford et al. 2015)."""
    if settings.clip_value is not None:
        return torch.optim.RMSprop(module.parameters(), lr=settings.learning_rate, foreach=True)
    return torch.optim.Adam(module.parameters(), lr=settings.learning_rate, betas=(0.5, 0.999), foreach=True)


@torch.no_grad()
def update_average(average: nn.Module, online: nn.Module, decay: float) -> None:
    """Move each weight and BatchNorm statistic of `average` to decay * average + (1 - decay) * online."""
    states = average.state_dict(), online.state_dict()
    averages, values = ([each for each in state.values() if each.is_floating_point()] for state in states)
    torch._foreach_lerp_(averages, values, 1 - decay)
