"""Training a GAN on latents: a WGAN with weight clipping, or a vanilla GAN."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.gan import Critic, Generator
from study.training.loops import Report, autocast, batches, captured, check_finite, steps_per_epoch

AUTOCAST_BATCH = 128  # vectors from which on a GAN's multiplications outweigh the casts to bfloat16


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
    """Steps of the generator in so many epochs over `count` latents: one to `n_critic` batches."""
    return epochs * steps_per_epoch(count, settings.batch_size) // settings.n_critic


def describe(settings: GanSettings) -> str:
    """The settings in a line, for a figure's title."""
    kind = "vanilla GAN" if settings.clip_value is None else "WGAN"
    clip = "" if settings.clip_value is None else f", clip {settings.clip_value:.3g}"
    return (
        f"{kind}: batch {settings.batch_size}, lr {settings.learning_rate:.2g}{clip}, n_critic {settings.n_critic}, "
        f"width {settings.width}, depth {settings.depth}, noise {settings.noise_dim}"
        f"{', averaged' if settings.averaging else ''}"
    )


def train_gan(
    generator: Generator,
    critic: Critic,
    latents: Tensor,
    conditions: Tensor,
    settings: GanSettings,
    *,
    epochs: int,
    report: Report,
    learner: Generator | None = None,
) -> None:
    """Train a WGAN with weight clipping (Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875, algorithm 1) or a
    vanilla GAN (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661).

    Args:
        latents: Standardised latents [N, latent_dim].
        conditions: One-hot labels [N, classes], or [N, 0] for an unconditional GAN.
        epochs: Passes over the latents; each batch is one critic step.
        report: Gets `critic/loss`, `critic/gradient_norm`, `generator/loss` (in epochs with a generator step), and of a
            WGAN `critic/wasserstein` and `critic/at_clip`.
        learner: With `averaging`, a copy of the generator to be trained, to look at it beside its average; None: one
            that is not kept.

    With `averaging`, `generator` holds the moving average of the weights that are trained (Yazici et al. 2018,
    https://arxiv.org/abs/1806.04498).

    Raises:
        FloatingPointError: A loss is not finite.
    """
    if not settings.averaging:
        learner = generator
    elif learner is None:
        learner = copy.deepcopy(generator)
    learner.train()
    critic.train()
    with ExitStack() as stack:
        vectors: dict[nn.Module, nn.Parameter] = {
            module: stack.enter_context(one_vector(module)) for module in {critic, learner, generator}
        }
        _train(
            (generator, learner, critic), vectors, latents, conditions, settings=settings, epochs=epochs, report=report
        )


def _train(
    modules: tuple[Generator, Generator, Critic],
    vectors: Mapping[nn.Module, nn.Parameter],
    latents: Tensor,
    conditions: Tensor,
    *,
    settings: GanSettings,
    epochs: int,
    report: Report,
) -> None:
    """The training itself, on the parameters of each module as one vector."""
    generator, learner, critic = modules
    wgan, device = settings.clip_value is not None, latents.device
    optimizers = _optimizers(vectors[critic], vectors[learner], settings)
    critic_optimizer, generator_optimizer = optimizers
    averages, averaged = ([vectors[module], *_statistics(module)] for module in (generator, learner))

    def fakes(condition: Tensor) -> Tensor:
        noise = torch.randn(len(condition), settings.noise_dim, device=device)
        with _precision(len(condition), device):
            made = learner(torch.cat([noise, condition], 1))
        return torch.cat([made.float(), condition], 1)  # [B, latent_dim (+ classes)]

    def critic_gradients(index: Tensor) -> Tensor:
        condition = conditions[index]
        with torch.no_grad():
            fake = fakes(condition)
        real = torch.cat([latents[index], condition], 1)
        with _precision(len(index), device):
            # Statistics of BatchNorm are of real or of made vectors, never of both: DCGAN's way.
            groups = (real, fake) if settings.critic_norm else (torch.cat([real, fake]),)
            real_scores, fake_scores = torch.cat([critic(group) for group in groups]).float().chunk(2)
        return _gradients(critic_optimizer, _critic_loss(real_scores, fake_scores, wgan))

    def generator_gradients(index: Tensor) -> Tensor:
        critic.requires_grad_(False)  # spares the gradients of weights that do not move now
        fake = fakes(conditions[index])
        with _precision(len(index), device):
            scores = critic(fake).float()
        loss = -scores.mean() if wgan else _vanilla_generator_loss(scores, settings.saturating)
        loss = _gradients(generator_optimizer, loss)
        critic.requires_grad_(True)
        return loss

    of_critic, of_generator = (captured(each, device) for each in (critic_gradients, generator_gradients))
    critic_steps = generator_steps = 0
    for epoch in range(1, epochs + 1):
        if settings.falling:
            _set_rate(optimizers, settings.learning_rate * (1 - (epoch - 1) / epochs))
        critic_losses, generator_losses = [], []
        for index in batches(len(latents), settings.batch_size, device):
            critic_losses.append(of_critic(index))
            critic_optimizer.step()
            if settings.clip_value is not None:
                clip_weights(vectors[critic], settings.clip_value)
            critic_steps += 1
            if critic_steps % settings.n_critic:
                continue
            generator_losses.append(of_generator(index))
            generator_optimizer.step()
            generator_steps += 1
            if settings.averaging:
                warm = (1 + generator_steps) / (10 + generator_steps)  # early weights are soon forgotten
                move_averages(averages, averaged, min(settings.averaging, warm))
        metrics = _epoch_metrics(critic, critic_losses, generator_losses, settings.clip_value)
        check_finite(epoch, metrics)
        report(epoch, metrics)


@contextmanager
def one_vector(module: nn.Module) -> Iterator[nn.Parameter]:
    """All parameters of a module as one vector inside, and their gradients as another.

    An optimiser, a clip or an average is then one operation in place of one a layer, with the same result to the last
    digit; at these sizes the calls cost more than the numbers. Afterwards each parameter has memory of its own again.
    """
    parameters = list(module.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    vector.grad = torch.zeros_like(vector)
    parts = zip(parameters, vector.detach().split(sizes), vector.grad.split(sizes), strict=True)
    for parameter, values, gradient in parts:
        parameter.data, parameter.grad = values.view_as(parameter), gradient.view_as(parameter)
    try:
        yield vector
    finally:
        for parameter in parameters:
            parameter.data, parameter.grad = parameter.data.clone(), None


def _statistics(module: nn.Module) -> list[Tensor]:
    """BatchNorm's running means and variances, and not its counts of batches."""
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def _optimizers(
    critic: nn.Parameter, learner: nn.Parameter, settings: GanSettings
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """RMSprop as in the WGAN paper's algorithm; Adam with beta_1 = 0.5 as in DCGAN (Radford et al. 2015)."""
    wgan = settings.clip_value is not None
    optimizer = torch.optim.RMSprop if wgan else partial(torch.optim.Adam, betas=(0.5, 0.999))
    rate = settings.learning_rate
    return optimizer([critic], lr=rate), optimizer([learner], lr=rate)


def _set_rate(optimizers: tuple[torch.optim.Optimizer, ...], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _precision(batch_size: int, device: torch.device) -> AbstractContextManager[object]:
    return autocast(device) if batch_size >= AUTOCAST_BATCH else nullcontext()


def _gradients(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    optimizer.zero_grad(set_to_none=False)  # the gradients lie in one vector
    loss.backward()
    return loss.detach()


def _critic_loss(real: Tensor, fake: Tensor, wgan: bool) -> Tensor:
    """WGAN: minus the estimate of the Wasserstein distance (up to the critic's Lipschitz constant)."""
    if wgan:
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()  # binary cross entropy on logits


def _vanilla_generator_loss(fake: Tensor, saturating: bool) -> Tensor:
    """log(1 - D) as in the paper's equation, or its non-saturating form -log D; D is the sigmoid of the scores."""
    return -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()


def _epoch_metrics(
    critic: Critic, critic_losses: list[Tensor], generator_losses: list[Tensor], clip_value: float | None
) -> dict[str, float]:
    metrics = {
        "critic/loss": float(torch.stack(critic_losses).mean()),
        "critic/gradient_norm": gradient_norm(critic),  # of the epoch's last step
    }
    if generator_losses:  # with few batches an epoch and a large n_critic, not every epoch has one
        metrics["generator/loss"] = float(torch.stack(generator_losses).mean())
    if clip_value is not None:
        metrics["critic/wasserstein"] = -metrics["critic/loss"]
        metrics["critic/at_clip"] = share_at_clip(critic, clip_value)
    return metrics


@torch.no_grad()
def move_averages(averages: Sequence[Tensor], values: Sequence[Tensor], decay: float) -> None:
    """Move each average to decay * average + (1 - decay) * value."""
    torch._foreach_lerp_(list(averages), list(values), 1 - decay)


@torch.no_grad()
def clip_weights(weights: Tensor, clip_value: float) -> None:
    """Put every weight back into [-clip_value, clip_value]."""
    weights.clamp_(-clip_value, clip_value)


def gradient_norm(module: nn.Module) -> float:
    """Euclidean norm of the gradients of all parameters."""
    return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def share_at_clip(critic: nn.Module, clip_value: float) -> float:
    """Share of the parameters that lie on the bound; near 1 the critic has no freedom left."""
    weights = torch.cat([parameter.detach().flatten() for parameter in critic.parameters()])
    return float((weights.abs() >= clip_value).float().mean())
