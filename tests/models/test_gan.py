import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.gan import KNOTS, Critic, Generator, LatentGenerator, ToneCurve


def test_generator_has_as_many_hidden_layers_as_asked_for() -> None:
    for depth in (1, 2, 4):
        shapes = [tuple(layer.weight.shape) for layer in Generator(10, 15, 32, depth) if isinstance(layer, nn.Linear)]
        assert shapes == [(32, 10), *[(32, 32)] * (depth - 1), (15, 32)]
    with pytest.raises(ValueError, match="but got 0"):
        Generator(10, 15, 32, 0)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32)])
def test_latent_generator_is_generator_scale_decoder_and_tone_curve(image_shape: tuple[int, int, int]) -> None:
    autoencoder = Autoencoder(15, "conv+fc", image_shape).eval()
    model = LatentGenerator(10, 15, architecture="conv+fc", image_shape=image_shape, width=32).eval()
    model.decoder.load_state_dict(autoencoder.decoder.state_dict())
    model.mean.copy_(torch.randn(15))
    model.std.copy_(torch.rand(15) + 0.5)
    noise = torch.randn(6, 10)
    expected = autoencoder.decoder(model.generator(noise) * model.std + model.mean)
    assert expected.shape == (6, *image_shape)
    assert torch.equal(model(noise), expected)
    assert not any(parameter.requires_grad for parameter in model.decoder.parameters())
    model.tone.levels.copy_(torch.linspace(0, 1, KNOTS).square())
    torch.testing.assert_close(model(noise), expected.square(), atol=1e-4, rtol=0)


def test_a_tone_curve_is_straight_between_its_knots() -> None:
    curve, values = ToneCurve(), torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(curve(values), values)
    levels = np.sort(np.random.default_rng(0).random(KNOTS)).astype(np.float32)
    curve.levels.copy_(torch.from_numpy(levels))
    values[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    expected = np.interp(values.numpy(), np.linspace(0, 1, KNOTS), levels)
    np.testing.assert_allclose(curve(values), expected, atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_only_a_critic_with_batch_norm_looks_at_the_whole_batch(norm: bool) -> None:
    critic, latents = Critic(15, 32, norm=norm), torch.randn(8, 15)
    assert torch.allclose(critic(latents)[:2], critic(latents[:2]), atol=1e-3 if norm else 1e-5) != norm
