import json

import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import ARCHITECTURES, Autoencoder, Decoder, Encoder

DIGITS = (1, 28, 28)
SHAPES = [DIGITS, (3, 32, 32), (1, 16, 16), (3, 64, 64)]


@pytest.mark.parametrize("image_shape", SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("latent_dim", [3, 100])
def test_shapes_and_range(latent_dim: int, architecture: str, image_shape: tuple[int, int, int]) -> None:
    model = Autoencoder(latent_dim, architecture, image_shape, channels=(4, 8))
    images = torch.rand(4, *image_shape)
    assert {m.out_channels for m in model.encoder.modules() if isinstance(m, nn.Conv2d)} <= {4, 8, latent_dim}
    assert model.encoder(images).shape == (4, latent_dim)
    reconstructions = model(images)
    assert reconstructions.shape == images.shape
    assert bool(((reconstructions >= 0) & (reconstructions <= 1)).all())


def test_the_shape_may_come_from_json() -> None:
    model = Autoencoder(3, "conv", json.loads("[3, 32, 32]"), channels=[4, 8])
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3, 32, 32)


def test_latents_are_standardised_over_a_batch() -> None:
    latents = Autoencoder(15, "conv+fc", DIGITS).encoder(torch.rand(256, 1, 28, 28))
    torch.testing.assert_close(latents.mean(0), torch.zeros(15), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.var(0, correction=0), torch.ones(15), atol=1e-2, rtol=0)


def test_only_conv_fc_has_linear_layers() -> None:
    linear = {a: any(isinstance(m, nn.Linear) for m in Autoencoder(15, a, DIGITS).modules()) for a in ARCHITECTURES}
    assert linear == {"conv": False, "conv+fc": True}


@pytest.mark.parametrize("module", [Encoder, Decoder, Autoencoder])
@pytest.mark.parametrize(("latent_dim", "architecture"), [(0, "conv"), (15, "dense")])
def test_impossible_arguments(module: type[nn.Module], latent_dim: int, architecture: str) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        module(latent_dim, architecture, DIGITS)


@pytest.mark.parametrize("module", [Encoder, Decoder, Autoencoder])
@pytest.mark.parametrize("shape", [(1, 28, 32), (1, 30, 30), (1, 12, 12), (1, 68, 68), (0, 28, 28), (28, 28)])
def test_impossible_images(module: type[nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        module(3, "conv", shape)


@pytest.mark.parametrize(("image_shape", "latent_dim"), [(DIGITS, 15), ((3, 32, 32), 3)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_turned_latents_give_the_same_reconstructions(
    latent_dim: int, architecture: str, image_shape: tuple[int, int, int]
) -> None:
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


def test_principal_axes_of_the_latents_leave_no_correlation() -> None:
    torch.manual_seed(0)
    model, images = Autoencoder(8, "conv+fc", DIGITS).eval(), torch.rand(256, 1, 28, 28)
    with torch.no_grad():
        before = np.corrcoef(model.encoder(images).double().T)
        model.rotate_latents(torch.from_numpy(np.linalg.eigh(np.cov(model.encoder(images).double().T)).eigenvectors))
        after = np.corrcoef(model.encoder(images).double().T)
    assert np.abs(before - np.eye(8)).max() > 0.1
    np.testing.assert_allclose(after, np.eye(8), atol=1e-4)


@pytest.mark.parametrize("axes", [torch.ones(3, 3), torch.eye(4), torch.eye(3)[:2]])
def test_only_a_rotation_can_be_folded_in(axes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must hold, but got axes of shape"):
        Autoencoder(3, "conv+fc", DIGITS).rotate_latents(axes)
