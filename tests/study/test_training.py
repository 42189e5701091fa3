import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import Critic, Generator
from study import metrics, training
from study.data import Dataset, Split, to_float
from study.training import GanSettings

SETTINGS = GanSettings(batch_size=64, learning_rate=1e-3, clip_value=0.05, n_critic=3, width=32, noise_dim=4)


class Recorder:
    """A report that remembers."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.metrics: list[dict[str, float]] = []

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append(epoch)
        self.metrics.append(dict(metrics))


def train_gan(settings: GanSettings, epochs: int, latents: torch.Tensor, conditions: torch.Tensor | None = None):
    torch.manual_seed(0)
    conditions = torch.empty(len(latents), 0) if conditions is None else conditions
    generator = Generator(settings.noise_dim + conditions.shape[1], latents.shape[1], settings.width)
    critic, recorder = Critic(latents.shape[1] + conditions.shape[1], settings.width), Recorder()
    training.train_gan(generator, critic, latents, conditions, settings, epochs, recorder)
    return generator, critic, recorder


def test_batches_are_a_shuffled_epoch_without_the_rest() -> None:
    found = list(training.batches(10, 3, torch.device("cpu")))
    assert [len(batch) for batch in found] == [3, 3, 3]
    assert len(set(torch.cat(found).tolist())) == 9
    with pytest.raises(ValueError, match="11 and 10"):
        next(training.batches(10, 11, torch.device("cpu")))


def test_eval_mode_restores_each_module() -> None:
    modes = nn.Linear(1, 1).train(), nn.Linear(1, 1).eval()
    with training.eval_mode(*modes):
        assert not any(module.training for module in modes)
        assert not modes[0](torch.ones(1)).requires_grad
    assert [module.training for module in modes] == [True, False]


def test_reconstruction_loss_is_the_mean_over_all_pixels(tiny: Dataset) -> None:
    model = Autoencoder(5).eval()
    images = tiny.train.images.repeat(2, 1, 1, 1)  # more than one batch, the last one smaller
    with torch.no_grad():
        expected = (model(to_float(images)) - to_float(images)).square().mean()
    assert training.reconstruction_loss(model, images) == pytest.approx(float(expected), rel=1e-5)


def test_autoencoder_learns_and_reports_each_epoch(tiny: Dataset) -> None:
    torch.manual_seed(0)
    model, recorder = Autoencoder(5), Recorder()
    before = training.reconstruction_loss(model, tiny.val.images)
    training.train_autoencoder(model, tiny.train.images, tiny.val.images, 4, 64, 4e-3, recorder)
    assert recorder.epochs == [1, 2, 3, 4]
    assert recorder.metrics[-1]["val/loss"] < before / 3
    assert recorder.metrics[-1]["val/loss"] == pytest.approx(training.reconstruction_loss(model, tiny.val.images))


def test_the_same_seed_trains_the_same_autoencoder(tiny: Dataset) -> None:
    def train(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = Autoencoder(5)
        training.train_autoencoder(model, tiny.train.images, tiny.val.images, 2, 64, 4e-3, Recorder())
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


def test_judge_learns_easy_classes(tiny: Dataset) -> None:
    torch.manual_seed(0)
    judge = Judge(4, 8)
    training.train_judge(judge, tiny.train, tiny.val, 12, 32, 1e-2, Recorder())
    assert training.accuracy(judge, tiny.test) > 0.9


def test_classifier_learns_what_is_not_frozen(tiny: Dataset) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 784), nn.Linear(784, 10))
    model[1].requires_grad_(False)
    kept, recorder = model[1].weight.clone(), Recorder()
    few = Split(tiny.train.images[:100], tiny.train.labels[:100])
    training.train_classifier(model, few, 30, 20, 5e-3, recorder)
    assert torch.equal(model[1].weight, kept)
    assert recorder.metrics[-1]["train/accuracy"] > 0.7
    assert len(recorder.epochs) == 30


def test_head_learns_clusters_from_noisy_mixed_copies() -> None:
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(10)
    centres = 3 * torch.eye(10)
    copies = centres[labels] + 0.1 * torch.randn(5, 100, 10)
    head, recorder = nn.Linear(10, 10), Recorder()
    training.train_head(head, copies, labels, 20, 4, 20, 2e-2, recorder)
    assert recorder.epochs == list(range(1, 21))
    assert (head(centres).argmax(1) == torch.arange(10)).all()
    assert recorder.metrics[-1]["train/loss"] < recorder.metrics[0]["train/loss"] / 2


def test_jitter_turns_shifts_and_scales_within_its_bounds() -> None:
    square = torch.zeros(500, 1, 29, 29)
    square[:, :, 12:17, 12:17] = 1
    torch.testing.assert_close(training.jitter(square, 0, 0, 0), square, atol=1e-5, rtol=0)
    place = torch.arange(29.0) - 14
    for shifted, axis in ((training.jitter(square, 0, 3, 0), 2), (training.jitter(square, 0, 3, 0), 3)):
        offset = (shifted.sum(5 - axis)[:, 0] * place).sum(1) / shifted.sum((1, 2, 3))
        assert 2.5 < float(offset.abs().max()) <= 3.001
        assert abs(float(offset.mean())) < 0.3
    area = training.jitter(square, 0, 0, 0.2).sum((1, 2, 3)) / 25
    assert 1 / 1.2**2 - 0.05 < float(area.min()) < 0.8
    assert 1.3 < float(area.max()) < 1 / 0.8**2 + 0.05
    turned = training.jitter(square, 45, 0, 0)
    torch.testing.assert_close(turned.sum((1, 2, 3)), square.sum((1, 2, 3)), atol=1.5, rtol=0)
    assert float((turned - square).abs().amax((1, 2, 3)).max()) > 0.5


def test_wgan_weights_stay_within_the_clip_after_every_epoch() -> None:
    _, critic, recorder = train_gan(SETTINGS, 3, torch.randn(640, 5))
    weights = nn.utils.parameters_to_vector(critic.parameters()).detach().abs()
    assert bool((weights <= torch.tensor(0.05)).all())
    at_clip = recorder.metrics[-1]["critic/at_clip"]
    assert at_clip == pytest.approx(float((weights == weights.max()).float().mean()))
    assert 0 < at_clip <= 1


@pytest.mark.parametrize(("n_critic", "generator_steps"), [(1, 10), (3, 3), (10, 1), (11, 0)])
def test_one_generator_step_every_n_critic_steps(
    n_critic: int, generator_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    plain = torch.optim.RMSprop.step

    def counted(self: torch.optim.RMSprop, *args: object) -> object:
        steps.append(sum(p.numel() for group in self.param_groups for p in group["params"]))
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.RMSprop, "step", counted)
    generator, critic, recorder = train_gan(replace(SETTINGS, n_critic=n_critic), 1, torch.randn(640, 5))
    sizes = [sum(p.numel() for p in module.parameters()) for module in (critic, generator)]
    assert [steps.count(size) for size in sizes] == [10, generator_steps]
    assert ("generator/loss" in recorder.metrics[0]) == (generator_steps > 0)


def test_wgan_losses_are_those_of_the_paper() -> None:
    """With a critic that does not move, the reported estimate is the mean score of real minus that of fake latents."""
    latents = torch.randn(640, 5)
    generator, critic, recorder = train_gan(
        replace(SETTINGS, learning_rate=1e-30, clip_value=9.0, n_critic=99), 1, latents
    )
    torch.manual_seed(1)
    generator.train()
    with torch.no_grad():
        real, fake = critic(latents).mean(), critic(generator(torch.randn(20_000, 4))).mean()
    assert recorder.metrics[0]["critic/wasserstein"] == pytest.approx(float(real - fake), abs=0.02)
    assert recorder.metrics[0]["critic/loss"] == -recorder.metrics[0]["critic/wasserstein"]


def test_wgan_moves_towards_the_data() -> None:
    latents = torch.randn(2000, 2) * 0.3 + torch.tensor([2.0, -1.0])
    settings = replace(SETTINGS, clip_value=0.1, n_critic=2)
    generator, _, _ = train_gan(settings, 12, latents)
    with training.eval_mode(generator):
        centre = generator(torch.randn(2000, 4)).mean(0)
    torch.testing.assert_close(centre, torch.tensor([2.0, -1.0]), atol=0.4, rtol=0)


def test_conditional_wgan_obeys_its_condition() -> None:
    labels = torch.arange(2000) % 10
    latents = torch.stack([labels / 3 - 1.5, torch.zeros(2000)], 1) + 0.1 * torch.randn(2000, 2)
    conditions = nn.functional.one_hot(labels, 10).float()
    settings = replace(SETTINGS, clip_value=0.1, n_critic=2)
    generator, _, _ = train_gan(settings, 20, latents, conditions)
    with training.eval_mode(generator):
        drawn = generator(torch.cat([torch.randn(2000, 4), conditions], 1))
    assert torch.corrcoef(torch.stack([drawn[:, 0], labels.float()]))[0, 1] > 0.9


def test_averaged_weights_lag_behind() -> None:
    average, module = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(module.weight, 3.0)
    module.running_mean += 4.0
    training.average_weights(average, module, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [1.0, 1.0]
    latents = torch.randn(640, 5)
    averaged, _, _ = train_gan(replace(SETTINGS, averaging=0.9), 6, latents)
    plain, _, _ = train_gan(SETTINGS, 6, latents)
    assert all(bool(parameter.isfinite().all()) for parameter in averaged.parameters())
    assert not torch.equal(averaged[0].weight, plain[0].weight)


def test_a_falling_rate_ends_near_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    plain = torch.optim.RMSprop.step

    def noted(self: torch.optim.RMSprop, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.RMSprop, "step", noted)
    train_gan(replace(SETTINGS, falling=True), 5, torch.randn(64, 5))
    rate = SETTINGS.learning_rate
    np.testing.assert_allclose(sorted(set(rates), reverse=True), [rate * share for share in (1, 0.8, 0.6, 0.4, 0.2)])


def test_gradient_norm_is_that_of_all_gradients() -> None:
    module = nn.Linear(2, 1)
    (3 * module(torch.tensor([[4.0, 0.0]])).sum()).backward()  # gradients: weights (12, 0), bias 3
    assert training.gradient_norm(module) == pytest.approx(math.hypot(12, 3))


def test_vanilla_gan_has_no_clip_and_learns_too() -> None:
    latents = torch.randn(2000, 2) * 0.3 + torch.tensor([2.0, -1.0])
    settings = replace(SETTINGS, clip_value=None, n_critic=1)
    generator, critic, recorder = train_gan(settings, 15, latents)
    assert set(recorder.metrics[-1]) == {"critic/loss", "critic/gradient_norm", "generator/loss"}
    assert bool((nn.utils.parameters_to_vector(critic.parameters()).abs() > 0.1).any())
    with training.eval_mode(generator):
        centre = generator(torch.randn(2000, 4)).mean(0)
    torch.testing.assert_close(centre, torch.tensor([2.0, -1.0]), atol=0.5, rtol=0)


def test_a_loss_that_is_not_finite_stops_the_training_with_its_name() -> None:
    with pytest.raises(FloatingPointError, match="critic/loss is nan after epoch 1"):
        train_gan(SETTINGS, 3, torch.full((640, 5), float("nan")))


def test_covariance_penalty_is_that_of_numpy() -> None:
    latents = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    squares = np.cov(latents.double().T) ** 2
    expected = (squares.sum() - np.trace(squares)) / 6
    assert float(training.covariance_penalty(latents)) == pytest.approx(expected, rel=1e-5)


def test_covariance_penalty_takes_correlation_away(tiny: Dataset) -> None:
    def train(weight: float) -> float:
        torch.manual_seed(0)
        model = Autoencoder(5)
        images = tiny.train.images
        training.train_autoencoder(model, images, tiny.val.images, 6, 64, 4e-3, Recorder(), weight)
        with training.eval_mode(model):
            return metrics.max_abs_pcc(training.apply(model.encoder, images))

    assert train(1.0) < train(0.0) / 2
