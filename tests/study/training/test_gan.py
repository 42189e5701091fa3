from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from models.gan import Critic, Generator
from study.training import gan as gans
from study.training.gan import GanSettings
from study.training.loops import eval_mode

SETTINGS = GanSettings(batch_size=64, learning_rate=1e-3, clip_value=0.05, n_critic=3, width=32, noise_dim=4)
VANILLA: dict[str, Any] = {"clip_value": None, "n_critic": 1}


def train(
    settings: GanSettings, epochs: int, latents: torch.Tensor, conditions: torch.Tensor | None = None, **more: Any
) -> tuple[Generator, Critic, list[dict[str, float]]]:
    """A trained generator and critic, and what was reported, an entry an epoch."""
    torch.manual_seed(0)
    conditions = torch.empty(len(latents), 0) if conditions is None else conditions
    generator = Generator(settings.noise_dim + conditions.shape[1], latents.shape[1], settings.width)
    critic = Critic(latents.shape[1] + conditions.shape[1], settings.width, norm=settings.critic_norm)
    reported: dict[int, Any] = {}
    report = reported.__setitem__
    gans.train_gan(generator, critic, latents, conditions, settings, epochs=epochs, report=report, **more)
    return generator, critic, list(reported.values())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The number of weights and the learning rate of each step of RMSprop."""
    found: list[tuple[int, float]] = []
    plain = torch.optim.RMSprop.step

    def noted(self: torch.optim.RMSprop, *args: object) -> object:
        (group,) = self.param_groups
        found.append((sum(p.numel() for p in group["params"]), group["lr"]))
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.RMSprop, "step", noted)
    return found


@pytest.mark.parametrize(("count", "n", "expected"), [(640, 1, 10), (640, 3, 3), (640, 10, 1), (640, 11, 0), (5, 1, 1)])
def test_one_generator_step_every_n_critic_steps(count: int, n: int, expected: int, steps: list) -> None:
    settings = replace(SETTINGS, n_critic=n)
    generator, critic, reported = train(settings, 1, torch.randn(count, 5))
    sizes = [sum(p.numel() for p in module.parameters()) for module in (critic, generator)]
    assert [sum(weights == size for weights, _ in steps) for size in sizes] == [max(1, count // 64), expected]
    assert (gans.generator_steps(settings, count, 1), "generator/loss" in reported[0]) == (expected, expected > 0)


def test_a_decaying_rate_ends_near_zero(steps: list[tuple[int, float]]) -> None:
    train(replace(SETTINGS, lr_decay=True), 5, torch.randn(64, 5))
    rates = sorted({rate for _, rate in steps}, reverse=True)
    assert rates == pytest.approx([SETTINGS.learning_rate * part for part in (1, 0.8, 0.6, 0.4, 0.2)])


def test_wgan_losses_are_those_of_the_paper() -> None:
    """With a critic that does not move, the reported estimate is the mean score of real minus that of fake latents."""
    latents = torch.randn(640, 5)
    generator, critic, reported = train(replace(SETTINGS, learning_rate=1e-30, clip_value=9.0, n_critic=99), 1, latents)
    torch.manual_seed(1)
    generator.train()
    with torch.no_grad():
        real, fake = critic(latents).mean(), critic(generator(torch.randn(20_000, 4))).mean()
    assert reported[0]["critic/wasserstein"] == pytest.approx(float(real - fake), abs=0.02)
    assert reported[0]["critic/loss"] == -reported[0]["critic/wasserstein"]


@pytest.mark.parametrize(("changes", "epochs"), [({"clip_value": 0.1, "n_critic": 2}, 12), (VANILLA, 15)])
def test_generators_move_towards_the_data(changes: dict[str, Any], epochs: int) -> None:
    latents = torch.randn(2000, 2) * 0.3 + torch.tensor([2.0, -1.0])
    generator, critic, reported = train(replace(SETTINGS, **changes), epochs, latents)
    with eval_mode(generator):
        centre = generator(torch.randn(2000, 4)).mean(0)
    torch.testing.assert_close(centre, torch.tensor([2.0, -1.0]), atol=0.4, rtol=0)
    weights = nn.utils.parameters_to_vector(critic.parameters()).detach().abs()
    assert bool((weights <= torch.tensor(0.1)).all()) == (changes is not VANILLA), "it has no clip"
    if changes is VANILLA:
        assert set(reported[-1]) == {"critic/loss", "critic/gradient_norm", "generator/loss"}
    else:
        assert 0 < reported[-1]["critic/at_clip"] == pytest.approx(float((weights == weights.max()).float().mean()))


def test_conditional_wgan_obeys_its_condition() -> None:
    labels = torch.arange(2000) % 10
    latents = torch.stack([labels / 3 - 1.5, torch.zeros(2000)], 1) + 0.1 * torch.randn(2000, 2)
    conditions = nn.functional.one_hot(labels, 10).float()
    settings = replace(SETTINGS, clip_value=0.1, n_critic=2)
    generator, _, _ = train(settings, 20, latents, conditions)
    with eval_mode(generator):
        drawn = generator(torch.cat([torch.randn(2000, 4), conditions], 1))
    assert torch.corrcoef(torch.stack([drawn[:, 0], labels.float()]))[0, 1] > 0.9


def test_a_loss_that_is_not_finite_stops_the_training_with_its_name() -> None:
    with pytest.raises(FloatingPointError, match="critic/loss is nan after epoch 1"):
        train(SETTINGS, 3, torch.full((640, 5), float("nan")))


def test_the_online_generator_is_trained_and_the_generator_is_its_average() -> None:
    settings, latents = replace(SETTINGS, ema_decay=0.9), torch.randn(640, 5)
    torch.manual_seed(0)
    online = Generator(4, 5, 32)  # as `train` begins
    generator = train(settings, 2, latents, online=online)[0]
    plain = train(replace(settings, ema_decay=0.0), 2, latents)[0]
    for ours, theirs in zip(online.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.equal(generator[0].weight, online[0].weight)
    average, moved = nn.BatchNorm1d(2), nn.BatchNorm1d(2)  # weights of 1 and statistics of 0
    nn.init.constant_(moved.weight, 3.0)
    moved.running_mean += 4.0
    gans.update_average(average, moved, 0.75)
    assert (average.weight.tolist(), average.running_mean.tolist()) == ([1.5, 1.5], [1.0, 1.0])


def test_the_saturating_loss_is_the_papers_equation_and_saturates() -> None:
    """log(1 - D) and -log D, and their slopes where the discriminator is sure that the sample was made."""
    scores = torch.tensor([-8.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    made = torch.sigmoid(scores)
    losses = [gans.vanilla_generator_loss(scores, saturating) for saturating in (True, False)]
    torch.testing.assert_close(torch.stack(losses), torch.stack([torch.log(1 - made).mean(), -torch.log(made).mean()]))
    slopes = [torch.autograd.grad(loss, scores)[0][0].abs() for loss in losses]
    assert slopes[0] < slopes[1] / 1000


def test_statistics_of_batch_norm_are_never_of_real_and_made_vectors_together(monkeypatch) -> None:
    sizes: list[int] = []
    plain = Critic.forward
    monkeypatch.setattr(Critic, "forward", lambda self, x: sizes.append(len(x)) or plain(self, x))
    for norm in (False, True):
        train(replace(SETTINGS, critic_norm=norm, n_critic=100), 1, torch.randn(64, 5))
    assert sizes == [128, 64, 64]
