import pytest
import torch

from models.autoencoder import Encoder
from study.data.dataset import Dataset
from study.science.baselines import EncodedDataset, baselines, mixture_latents
from study.science.classifiers import draw_labelled


def test_a_mixture_gives_back_the_clusters_it_was_fitted_to() -> None:
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    points = centres.repeat(200, 1) + 0.1 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    drawn = mixture_latents(points, 2, 500, seed=0)
    assert drawn.shape == (500, 2)
    assert float(torch.cdist(drawn, centres).min(1).values.max()) < 1
    assert 100 < int((drawn[:, 0] > 0).sum()) < 400
    assert 30 < int((drawn[:100, 0] > 0).sum()) < 70, "any part of them is a sample too"
    gaussian = mixture_latents(points, 1, 20_000, seed=0)
    torch.testing.assert_close(torch.cov(gaussian.T), torch.cov(points.T), atol=0.5, rtol=0.05)


def test_a_mixture_has_no_more_components_than_points() -> None:
    points = 100 * torch.eye(5)
    drawn = mixture_latents(points, 20, 50, seed=0)
    assert float(torch.cdist(drawn, points).min(1).values.max()) < 1


def test_baselines_solve_easy_classes(tiny: Dataset) -> None:
    encoded = EncodedDataset(tiny, Encoder(10, "conv+fc", (1, 28, 28)).eval())
    known = draw_labelled(tiny.train.labels, 10, 0, classes=10)
    found = baselines(encoded, known)
    assert found["baseline/raw_pixels_svm"] == 1.0
    assert found["baseline/pca_svm"] == 1.0
    # An untrained encoder's latents by a nearest neighbour of our own.
    train, test = encoded.latents
    nearest = known[torch.cdist(test, train[known]).argmin(1)]
    expected = float((tiny.train.labels[nearest] == tiny.test.labels).float().mean())
    assert found["baseline/latents_1nn"] == pytest.approx(expected)


def test_what_trials_share_is_computed_once(tiny: Dataset) -> None:
    encoded = EncodedDataset(tiny, Encoder(10, "conv", (1, 28, 28)))
    assert encoded.latents is encoded.latents
    assert encoded.encoder.training
    assert encoded.graph.weights.shape == (640, 640)
    assert [part.shape for part in encoded.pixels] == [(640, 784), (100, 784)]
    assert [part.shape for part in encoded.components] == [(640, 10), (100, 10)]


@pytest.mark.parametrize(("image_shape", "classes"), [((3, 32, 32), 3), ((1, 16, 16), 26)])
def test_few_images_of_other_shapes(image_shape: tuple[int, int, int], classes: int, make_dataset) -> None:
    data = make_dataset(image_shape, classes, 2)
    encoded = EncodedDataset(data, Encoder(15, "conv", image_shape))
    found = baselines(encoded, draw_labelled(data.train.labels, 1, 0, classes=classes))
    assert set(found) == {"baseline/raw_pixels_svm", "baseline/pca_svm", "baseline/latents_1nn"}
    assert found["baseline/raw_pixels_svm"] > 0.9
