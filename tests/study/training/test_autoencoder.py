import pytest
import torch
from conftest import easy
from torch import nn

from models.autoencoder import ARCHITECTURES, Autoencoder
from models.gan import KNOTS
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
    large = easy((3, 32, 32), 3, 4).train.images  # as many components as images, by the randomised solver
    assert autoencoders.pca_losses(large, large, components=20)[0][-1] == pytest.approx(0, abs=1e-4)
    (few,) = autoencoders.pca_losses(tiny.train.images[:5], tiny.val.images, components=20)
    assert few[0] > few[3] > 0
    assert few[4:] == [few[4]] * 16, "more components than images: the last loss goes on"


def test_a_known_curve_is_found_again() -> None:
    """Of an autoencoder whose reconstructions are too grey; the curve clip(2 x - 0.5) undoes it."""
    greyer = nn.Identity()
    greyer.forward = lambda images: 0.25 + images / 2  # type: ignore[method-assign]
    greys = torch.arange(256).to(torch.uint8).view(1, 1, 16, 16).repeat(100, 1, 1, 1)
    expected = (2 * torch.linspace(0, 1, KNOTS) - 0.5).clamp(0, 1)
    torch.testing.assert_close(autoencoders.fit_tone_curve(greyer, greys), expected, atol=0.02, rtol=0)
