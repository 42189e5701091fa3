import numpy as np
import pytest
import torch
from conftest import easy
from torch import nn

from models.autoencoder import ARCHITECTURES, Autoencoder
from models.gan import KNOTS, ToneCurve
from study.data.dataset import Dataset, to_float
from study.measures.latents import max_abs_pcc, rotate_to_principal_axes
from study.training import autoencoder as autoencoders
from study.training.autoencoder import train_autoencoder
from study.training.loops import Schedule, apply, eval_mode

DIGITS = (1, 28, 28)
SETTINGS = Schedule(epochs=4, batch_size=64, learning_rate=4e-3)


def test_reconstruction_loss_is_the_mean_over_all_pixels(tiny: Dataset) -> None:
    model = Autoencoder(5, "conv+fc", DIGITS).eval()
    images = tiny.train.images.repeat(2, 1, 1, 1)  # more than one batch, the last one smaller
    with torch.no_grad():
        expected = (model(to_float(images)) - to_float(images)).square().mean()
    assert autoencoders.reconstruction_loss(model, images) == pytest.approx(float(expected), rel=1e-5)


def test_autoencoder_learns_and_reports_each_epoch(tiny: Dataset) -> None:
    def trained() -> tuple[Autoencoder, dict[int, dict[str, float]]]:
        torch.manual_seed(0)
        model, reported = Autoencoder(5, "conv+fc", DIGITS), {}
        train_autoencoder(model, tiny.train.images, tiny.val.images, SETTINGS, reported.__setitem__)
        return model, reported

    model, reported = trained()
    assert list(reported) == [1, 2, 3, 4]
    untrained = autoencoders.reconstruction_loss(Autoencoder(5, "conv+fc", DIGITS), tiny.val.images)
    assert reported[4]["val/loss"] == autoencoders.reconstruction_loss(model, tiny.val.images) < untrained / 2
    assert trained()[1] == reported, "the same seed trains the same autoencoder"
    rotated = rotate_to_principal_axes(model, tiny.train.images)
    with eval_mode(model, rotated):
        plain, latents = (apply(each.encoder, tiny.train.images) for each in (model, rotated))
        torch.testing.assert_close(apply(model, tiny.test.images), apply(rotated, tiny.test.images), atol=1e-5, rtol=0)
    assert max_abs_pcc(latents) < 1e-3 < 0.1 < max_abs_pcc(plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_five_images_are_one_batch(architecture: str, tiny: Dataset) -> None:
    model, reported, few = Autoencoder(8, architecture, DIGITS), {}, tiny.train.images[:5]
    train_autoencoder(model, few, few, SETTINGS, reported.__setitem__)
    assert len(reported) == 4
    rotated = rotate_to_principal_axes(model, few)
    with eval_mode(model, rotated):
        torch.testing.assert_close(apply(model, few), apply(rotated, few), atol=1e-5, rtol=0)


def test_the_knee_distance_is_that_to_the_ideal_corner() -> None:
    assert autoencoders.knee_distance(0.052 * 0.3, 0.052, 0.4) == pytest.approx(0.5)


def test_pca_losses_equal_reconstructions_by_singular_vectors(tiny: Dataset) -> None:
    (losses,) = autoencoders.pca_losses(tiny.train.images, tiny.test.images, components=100)
    assert len(losses) == 100
    train, test = (to_float(split.images).flatten(1).double() for split in (tiny.train, tiny.test))
    mean = train.mean(0)
    axes = torch.linalg.svd(train - mean, full_matrices=False).Vh
    for size in (3, 15, 100):
        projected = (test - mean) @ axes[:size].T @ axes[:size] + mean
        assert losses[size - 1] == pytest.approx(float((projected - test).square().mean()), rel=1e-3)


def test_pca_losses_of_few_images_go_on_with_the_last(tiny: Dataset) -> None:
    large = easy((3, 32, 32), 3, 4).train.images  # as many components as images, by the randomised solver
    assert autoencoders.pca_losses(large, large, components=20)[0][-1] == pytest.approx(0, abs=1e-4)
    val, test = autoencoders.pca_losses(tiny.train.images[:5], tiny.val.images, tiny.test.images, components=20)
    assert len(val) == len(test) == 20
    assert val[4:] == [val[4]] * 16
    assert val[0] > val[3] > 0


class Greyer(nn.Module):
    """Stands in for an autoencoder whose reconstructions are too grey; the curve clip(2 x - 0.5) undoes it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.25 + images / 2


def test_a_known_curve_is_found_again() -> None:
    greys = torch.arange(256).to(torch.uint8).view(1, 1, 16, 16).repeat(100, 1, 1, 1)
    expected = (2 * torch.linspace(0, 1, KNOTS) - 0.5).clamp(0, 1)
    torch.testing.assert_close(autoencoders.fit_tone_curve(Greyer(), greys), expected, atol=0.02, rtol=0)


def test_after_the_curve_the_quantiles_are_those_of_the_images(tiny: Dataset) -> None:
    model, curve = Greyer(), ToneCurve()
    curve.levels.copy_(autoencoders.fit_tone_curve(model, tiny.train.images))
    assert bool((curve.levels.diff() >= 0).all())
    images = to_float(tiny.train.images)
    shares = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(
        np.quantile(curve(model(images)).numpy(), shares), np.quantile(images.numpy(), shares), atol=0.02
    )
