import pytest
import torch
from torch import nn

from models.autoencoder import ARCHITECTURES, Autoencoder, Decoder, Encoder

DIGITS = (1, 28, 28)
ODD = [(1, 28, 32), (1, 30, 30), (1, 12, 12), (1, 68, 68), (0, 28, 28), (28, 28)]
IMPOSSIBLE = [(0, "conv", DIGITS), (15, "dense", DIGITS), *[(3, "conv", each) for each in ODD]]
SHAPES = [DIGITS, [3, 32, 32], (1, 16, 16), (3, 64, 64)]  # a list, as JSON has it


@pytest.mark.parametrize("image_shape", SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("latent_dim", [3, 100])
def test_shapes_and_range(latent_dim: int, architecture: str, image_shape: tuple[int, int, int]) -> None:
    model = Autoencoder(latent_dim, architecture, image_shape)
    images = torch.rand(4, *image_shape)
    assert {m.out_channels for m in model.encoder.modules() if isinstance(m, nn.Conv2d)} <= {16, 48, latent_dim}
    assert any(isinstance(m, nn.Linear) for m in model.modules()) == (architecture == "conv+fc")
    assert model.encoder(images).shape == (4, latent_dim)
    reconstructions = model(images)
    assert reconstructions.shape == images.shape
    assert 0 <= reconstructions.min() < reconstructions.max() <= 1


@pytest.mark.parametrize("module", [Encoder, Decoder, Autoencoder])
@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_impossible_arguments(module: type[nn.Module], arguments: tuple[int, str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        module(*arguments)


@pytest.mark.parametrize(("image_shape", "latent_dim"), [(DIGITS, 15), ((3, 32, 32), 3)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_turned_latents_give_the_same_images(latent_dim: int, architecture: str, image_shape: tuple) -> None:
    torch.manual_seed(0)
    model, images = Autoencoder(latent_dim, architecture, image_shape), torch.rand(64, *image_shape)
    for _ in range(20):  # statistics of its own in each BatchNorm
        model(images)
    model.eval()
    axes = torch.linalg.qr(torch.randn(latent_dim, latent_dim)).Q
    with torch.no_grad():
        latents, reconstructions = model.encoder(images), model(images)
        model.rotate_latents(axes)
        torch.testing.assert_close(model.encoder(images), latents @ axes, atol=1e-5, rtol=0)
        torch.testing.assert_close(model(images), reconstructions, atol=1e-5, rtol=0)
        model.rotate_latents(axes.T)  # and back
        torch.testing.assert_close(model.encoder(images), latents, atol=1e-5, rtol=0)
    for other in (torch.ones(latent_dim, latent_dim), torch.eye(latent_dim + 1), torch.eye(latent_dim)[1:]):
        with pytest.raises(ValueError, match="must hold, but got axes of shape"):
            model.rotate_latents(other)
