import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.data.dataset import Dataset, Split, to_float
from study.measures import latents as measures
from study.measures.fidelity import frechet_distance
from study.training.autoencoder import train_autoencoder
from study.training.classifier import draw_labelled
from study.training.loops import Schedule, apply, eval_mode


def points(count: int, dims: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bad", "named"), [([2], r"1 latent .*\(2\)"), ([0, 1, 3, 4, 5], r"5 .*\(0, 1, 3, ...\)")])
def test_pcc_of_a_constant_column_is_undefined(bad: list[int], named: str) -> None:
    latents = points(50, 6, 0)
    latents[:, bad] = 3.0
    with pytest.raises(FloatingPointError, match=named):
        measures.pcc_matrix(latents)


def test_correlations_are_numpys() -> None:
    latents = points(2000, 10, 1) @ points(10, 10, 2)
    np.testing.assert_allclose(measures.pcc_matrix(latents + 100), np.corrcoef(latents.numpy().T), atol=1e-5)
    found = measures.latent_measures(latents, latents @ measures.principal_axes(latents).float())
    assert found["latent/max_abs_pcc"] > 0.3 > 1e-5 > found["latent/max_abs_pcc_rotated"]
    other = np.corrcoef(np.random.default_rng(7).standard_normal((10, 2000)))
    assert found["latent/pcc_noise_floor"] == pytest.approx(np.abs(other - np.eye(10)).max(), rel=0.5)
    assert measures.max_abs_pcc(latents[:, :1]) == 0, "one column correlates with none"
    found = measures.latent_measures(latents[:2], latents[:2])
    few = [found[f"latent/{name}"] for name in ("max_abs_pcc", "effective_rank")]
    assert few == pytest.approx([1, 1], rel=1e-3), "two latents are enough"


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q[:, :rank]
    points = torch.cat([basis.T, -basis.T])
    assert measures.effective_rank(points) == pytest.approx(rank, rel=1e-3)


@pytest.mark.parametrize("count", [5, 640])
def test_encoded_images_are_standardised_and_turned_back(count: int, tiny: Dataset) -> None:
    model, images = Autoencoder(6, "conv", (1, 28, 28)), tiny.train.images[:count]
    model.encoder[-1].running_var.fill_(9.0)
    model.encoder[-1].running_mean.fill_(2.0)
    encoded = measures.EncodedImages.encode(model, tiny.train.take(torch.arange(count)))
    assert model.training
    assert torch.equal(encoded.labels, tiny.train.labels[:count])
    torch.testing.assert_close(encoded.vectors.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded.vectors.std(0), torch.ones(6), atol=1e-4, rtol=0)
    raw = encoded.raw(model)
    with eval_mode(model):
        before = apply(nn.Sequential(*list(model.encoder)[:-1]), images)
        expected = apply(model.encoder, images)
    for found, wanted in ((encoded.latents, expected), (raw.latents, expected), (raw.vectors, before)):
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shift", [0.0, 1.5])
@torch.no_grad()  # it trains where nothing else does
def test_shifted_gaussians_are_told_apart_as_well_as_can_be(shift: float) -> None:
    """The best classifier of N(0, I) and N(m, I) is right with probability Phi(|m| / 2)."""
    found = measures.two_sample_accuracy(points(1000, 3, 0), points(1000, 3, 1) + torch.tensor([shift, 0.0, 0.0]))
    assert found == pytest.approx(float(norm.cdf(shift / 2)), abs=0.05)


def test_sliced_wasserstein_of_a_shift_is_its_length_on_the_lines() -> None:
    """A shift by m moves every projection by <m, line>; the mean of its square over random lines is |m|^2 / D."""
    cloud, shift = points(500, 6, 0), torch.tensor([2.0, 0, 0, 0, 0, 0])
    assert measures.sliced_wasserstein(cloud, cloud + shift) == pytest.approx(2 / math.sqrt(6), rel=0.1)
    assert measures.sliced_wasserstein(cloud, cloud.flip(0)) == pytest.approx(0, abs=1e-6)


def test_copies_lie_on_training_latents_and_others_do_not() -> None:
    train, held_out, fresh = points(500, 4, 0), points(400, 4, 1), points(400, 4, 2)
    fidelity = measures.LatentFidelity(train, held_out)
    copied = fidelity.measures(train[:400])
    assert copied["latent/nearest"] == pytest.approx(0, abs=1e-3)
    assert copied["latent/sliced_wasserstein"] == pytest.approx(1)
    neighbours = NearestNeighbors(n_neighbors=1).fit(train.numpy())
    found, unit = (neighbours.kneighbors(each.numpy())[0].mean() for each in (fresh, held_out))
    assert fidelity.measures(fresh)["latent/nearest"] == pytest.approx(found / unit, rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_latents_crash_no_measure(count: int) -> None:
    found = measures.LatentFidelity(points(5, 3, 1), points(count, 3, 2)).measures(points(count, 3, 0))
    assert math.isnan(found["latent/two_sample_accuracy"]) == (count < 2)
    assert math.isfinite(found["latent/nearest"])


def test_the_distance_is_the_geometric_mean_of_the_judges(tiny: Dataset) -> None:
    judges = [Judge(kind, image_shape=(1, 28, 28), classes=10, width=2).eval() for kind in ("conv", "mlp")]
    images, val = to_float(tiny.train.images[:50]), tiny.val.images
    with torch.no_grad():
        alone = [frechet_distance(judge.features(images), judge.features(to_float(val))) for judge in judges]
    assert measures.judged_distance(judges, val)(images) == pytest.approx(math.sqrt(math.prod(alone)), rel=1e-3)
    assert measures.judged_distance(judges, val)(to_float(val)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("smallest", [64, 4])
def test_accuracy_with_few_labels_is_that_of_a_support_vector_machine(smallest: int, tiny: Dataset) -> None:
    """Ten images a class, or as many as the smallest class has."""
    threes = (tiny.train.labels == 3).cumsum(0) * (tiny.train.labels == 3)
    train, model = tiny.train.take(threes <= smallest), Autoencoder(4, "conv", (1, 28, 28))
    with eval_mode(model):
        latents, val = (model.encoder(to_float(split.images)) for split in (train, tiny.val))
    expected = []
    for draw in range(5):
        known = draw_labelled(train.labels, min(10, smallest), draw, classes=10)
        expected.append(SVC(C=10).fit(latents[known], train.labels[known]).score(val, tiny.val.labels))
    assert len(set(expected)) > 1
    found = measures.few_label_accuracy(model, replace(tiny, train=train), val)
    assert found == pytest.approx(sum(expected) / 5, abs=0.003)


def test_a_trained_autoencoders_latents_allow_more(tiny: Dataset) -> None:
    torch.manual_seed(0)
    judges = [Judge(kind, image_shape=(1, 28, 28), classes=10, width=4).eval() for kind in ("conv", "mlp")]
    distance = measures.judged_distance(judges, tiny.val.images)
    model = Autoencoder(5, "conv", (1, 28, 28))
    with torch.no_grad():
        model(to_float(tiny.train.images[:200]))  # BatchNorm's statistics
    before = measures.consequences(model, tiny, distance)
    train_autoencoder(model, tiny.train.images, tiny.val.images, Schedule(4, 32, 1e-2), lambda *_: None)
    state = torch.random.get_rng_state()
    after = measures.consequences(model, tiny, distance)
    assert after.keys() == {measures.FD, measures.TWO_SAMPLE, measures.FEW_LABELS}
    assert after[measures.FD] < before[measures.FD] / 2
    assert after[measures.FEW_LABELS] > 0.9
    assert after == measures.consequences(model, tiny, distance), "the same again"
    assert torch.equal(state, torch.random.get_rng_state()), "what is trained next does not depend on it"


def test_without_classes_only_the_latents_are_compared(tiny: Dataset) -> None:
    model = Autoencoder(3, "conv", (1, 28, 28))
    unlabelled = replace(tiny, classes=())
    assert measures.consequences(model, unlabelled, None).keys() == {measures.TWO_SAMPLE}
    few = replace(unlabelled, val=Split(tiny.val.images[:3], tiny.val.labels[:3]))
    assert math.isnan(measures.consequences(model, few, None)[measures.TWO_SAMPLE])
