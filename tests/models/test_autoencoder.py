import pytest
import torch
from torch import nn

from models.autoencoder import ARCHITECTURES, Autoencoder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("latent_dim", [3, 15, 100])
def test_shapes_and_range(latent_dim: int, architecture: str) -> None:
    model = Autoencoder(latent_dim, architecture)
    images = torch.rand(4, 1, 28, 28)
    assert model.encoder(images).shape == (4, latent_dim)
    reconstructions = model(images)
    assert reconstructions.shape == images.shape
    assert bool(((reconstructions >= 0) & (reconstructions <= 1)).all())


def test_latents_are_standardised_over_a_batch() -> None:
    latents = Autoencoder(15).encoder(torch.rand(256, 1, 28, 28))
    torch.testing.assert_close(latents.mean(0), torch.zeros(15), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.var(0, correction=0), torch.ones(15), atol=1e-2, rtol=0)


def test_only_conv_fc_has_linear_layers() -> None:
    linear = {a: any(isinstance(m, nn.Linear) for m in Autoencoder(15, a).modules()) for a in ARCHITECTURES}
    assert linear == {"conv": False, "conv+fc": True}


@pytest.mark.parametrize(("latent_dim", "architecture"), [(0, "conv"), (15, "dense")])
def test_impossible_arguments(latent_dim: int, architecture: str) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        Autoencoder(latent_dim, architecture)
