import numpy as np
import pytest
import torch

from models.autoencoder import Encoder
from study import autoencoder_trial, transfer_trial
from study.data import Dataset, to_float
from study.sampling import balanced_labels, generator_inputs, mixture_images, noise
from study.search import Result
from study.stages import autoencoder, latent_gan
from tracking.store import StoreError


def test_the_knee_is_the_point_nearest_to_the_ideal_corner() -> None:
    # Losses and correlations of the reference's five sizes after four epochs; three components lose 0.052.
    sizes, losses, correlations = (
        (3, 10, 15, 20, 100),
        (0.032, 0.0117, 0.008, 0.0062, 0.0034),
        (0.04, 0.36, 0.36, 0.41, 0.66),
    )
    distances = [
        autoencoder_trial.knee_distance(loss, 0.052, pcc) for loss, pcc in zip(losses, correlations, strict=True)
    ]
    points = np.stack([np.array(losses) / 0.052, correlations], 1)
    np.testing.assert_allclose(distances, np.linalg.norm(points, axis=1))
    tried = [Result(n, {"latent_dim": size}, (0.0, 0.0), str(n)) for n, size in enumerate(sizes)]
    measured = {str(n): {"latent/knee_distance": distance} for n, distance in enumerate(distances)}
    assert autoencoder.choose(tried, measured, None).params["latent_dim"] == 15


def test_a_given_latent_size_takes_the_least_loss_of_that_size() -> None:
    tried = [
        Result(n, {"latent_dim": size}, (loss, 0.5), "")
        for n, (size, loss) in enumerate([(15, 3.0), (15, 2.0), (3, 1.0)])
    ]
    assert autoencoder.choose(tried, {}, 15).number == 1
    with pytest.raises(StoreError, match="no trial of latent size 16 is complete"):
        autoencoder.choose(tried, {}, 16)


def test_pca_losses_equal_reconstructions_by_singular_vectors(tiny: Dataset) -> None:
    (losses,) = autoencoder_trial.pca_losses(tiny.train.images, tiny.test.images)
    train, test = (to_float(split.images).flatten(1).double() for split in (tiny.train, tiny.test))
    mean = train.mean(0)
    axes = torch.linalg.svd(train - mean, full_matrices=False).Vh
    for size in (3, 15, 100):
        projected = (test - mean) @ axes[:size].T @ axes[:size] + mean
        assert losses[size - 1] == pytest.approx(float((projected - test).square().mean()), rel=1e-3)


def test_labelled_images_are_balanced_and_drawn_anew(tiny: Dataset) -> None:
    labels = tiny.train.labels
    first, second = (transfer_trial.draw_labelled(labels, 7, seed) for seed in (0, 1))
    assert labels[first].bincount().tolist() == [7] * 10
    assert len(set(first.tolist())) == 70
    assert not torch.equal(first, second)
    assert torch.equal(first, transfer_trial.draw_labelled(labels, 7, 0))
    with pytest.raises(ValueError, match="but got 65"):
        transfer_trial.draw_labelled(labels, 65, 0)


def test_baselines_solve_easy_classes(tiny: Dataset) -> None:
    module = {"latent_dim": 10, "architecture": "conv+fc", "hidden": 8}
    material = transfer_trial.Material(tiny, Encoder(10, "conv+fc").eval(), module)
    found = transfer_trial.baselines(material, transfer_trial.draw_labelled(tiny.train.labels, 10, 0))
    assert found["baseline/raw_pixels_svm"] == 1.0
    assert found["baseline/pca_svm"] == 1.0
    # An untrained encoder's latents by a nearest neighbour of our own.
    known = transfer_trial.draw_labelled(tiny.train.labels, 10, 0)
    train, test = material.latents
    nearest = known[torch.cdist(test, train[known]).argmin(1)]
    expected = float((tiny.train.labels[nearest] == tiny.test.labels).float().mean())
    assert found["baseline/latents_1nn"] == pytest.approx(expected)


def test_generator_inputs() -> None:
    device = torch.device("cpu")
    assert torch.equal(noise(5, 3, 1, device), noise(5, 3, 1, device))
    assert generator_inputs(20, 3, False, 0, device).shape == (20, 3)
    inputs = generator_inputs(20, 3, True, 0, device)
    assert torch.equal(inputs[:, 3:].argmax(1), balanced_labels(20, device))
    assert torch.equal(inputs[:, :3], noise(20, 3, 0, device))


def test_a_mixture_gives_back_the_clusters_it_was_fitted_to() -> None:
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    points = centres.repeat(200, 1) + 0.1 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    drawn = mixture_images(points, 2, 500, lambda x: x, seed=0)
    assert drawn.shape == (500, 2)
    assert float(torch.cdist(drawn, centres).min(1).values.max()) < 1
    assert 100 < int((drawn[:, 0] > 0).sum()) < 400


def test_interpolation_runs_straight_from_start_to_end() -> None:
    starts, ends = torch.zeros(2, 3), torch.ones(2, 3)
    lines = latent_gan._lines(starts, ends).reshape(2, latent_gan.STEPS, 3)
    assert torch.equal(lines[:, 0], starts)
    assert torch.equal(lines[:, -1], ends)
    torch.testing.assert_close(lines[:, latent_gan.STEPS // 2], torch.full((2, 3), 0.5))
