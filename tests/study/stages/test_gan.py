from dataclasses import replace

import mlflow
import numpy as np
import pytest
import torch

from models.autoencoder import Autoencoder, Encoder
from models.classifier import Judge
from study import autoencoder_trial, gan_trial, interpolation, transfer_trial
from study.config import PRESETS, JudgeConfig, UsageError
from study.data import Dataset, Split, to_float
from study.run import check_sizes
from study.sampling import Panel, balanced_labels, generator_inputs, mixture_latents, noise
from study.search import Result, Search, Trial, choice
from study.stage import Context
from study.stages import autoencoder
from study.training import GanSettings
from tracking.runs import trial_metrics
from tracking.store import Store, StoreError


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


def test_a_smaller_noise_is_the_beginning_of_a_larger_one() -> None:
    device = torch.device("cpu")
    assert torch.equal(noise(7, 20, 3, device)[:, :10], noise(7, 10, 3, device))


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


class MeanBrightness(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None].expand(-1, 4) * 10


class NearestTenth(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return -60 * (features[:, :1] - torch.arange(10.0)).square()


class Brightness(Judge):
    """Takes a uniform image of brightness k / 10 for a k, more surely the nearer it is to that."""

    def __init__(self) -> None:
        super().__init__(width=2)
        self.features, self.head = MeanBrightness(), NearestTenth()  # type: ignore[assignment]


@pytest.fixture
def panel(tiny: Dataset) -> Panel:
    return Panel(Brightness(), Brightness(), tiny)


def uniform(values: torch.Tensor) -> torch.Tensor:
    return (values / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()


def test_measures_of_samples_that_obey_and_of_some_that_do_not(panel: Panel) -> None:
    labels = balanced_labels(200, torch.device("cpu"))
    found = panel.measures(uniform(labels.float()), labels)
    assert found["sample/label_accuracy"] == 1
    assert found["sample/modes"] == 10
    assert found["sample/low_confidence"] == 0
    assert found["sample/diversity"] == pytest.approx(0, abs=1e-4)  # each digit always the same
    assert {name.replace("sample/", "second/") for name in found if name.startswith("sample/")} < set(found)
    assert found["second/fd"] == found["sample/fd"]
    assert panel.measures(uniform(labels.float()), labels.roll(1))["sample/label_accuracy"] == 0


def test_test_images_are_as_near_to_the_training_images_as_themselves(panel: Panel, tiny: Dataset) -> None:
    found = panel.measures(to_float(tiny.test.images))
    assert found["sample/nearest"] == pytest.approx(1, rel=1e-4)
    assert found["sample/fd"] == pytest.approx(0, abs=1e-6)


def test_ways_between_digits_begin_and_end_with_them_and_pass_what_lies_between(panel: Panel) -> None:
    wanted = interpolation.pairs(100, 0)
    assert wanted[:2].tolist() == [[5, 6], [6, 7]]
    assert bool((wanted[:, 0] != wanted[:, 1]).all())
    points = torch.arange(10.0).repeat(30)[:, None]
    path = interpolation.walk(points, lambda x: uniform(x[:, 0]), torch.lerp, wanted, panel)
    brightness = path.images.mean((2, 3, 4)) * 10
    torch.testing.assert_close(brightness[:, [0, -1]], wanted.float(), atol=1e-4, rtol=0)
    inner = torch.stack([torch.lerp(start, end, torch.linspace(0, 1, 11)[1:-1]) for start, end in wanted.float()])
    # Two neighbouring digits' logits differ by 60 * |1 - 2 d| at a distance of d: 9 to 1 is at a difference of ln 9.
    doubtful = ((inner - inner.round()).abs() > 0.5 - np.log(9) / 120).float().mean()
    assert path.measures["no_digit"] == pytest.approx(float(doubtful), abs=0.02)
    assert path.measures["smoothness"] == pytest.approx(1, rel=1e-3)


def test_spherical_interpolation_keeps_the_length_and_turns_evenly() -> None:
    starts, ends = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])
    share = torch.linspace(0, 1, 5)[None, :, None]
    angles = torch.linspace(0, np.pi / 2, 5)
    expected = 2 * torch.stack([angles.cos(), angles.sin()], 1)[None]
    torch.testing.assert_close(interpolation.slerp(starts, ends, share), expected, atol=1e-5, rtol=0)


def test_a_classifier_of_generated_images_is_as_good_as_they_are(tiny: Dataset) -> None:
    class Copies(torch.nn.Module):
        """A generator that gives a training image of the told digit, or of the next one."""

        def __init__(self, off: int) -> None:
            super().__init__()
            self.off = off

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            labels = (inputs[:, -10:].argmax(1) + self.off) % 10
            first = torch.stack([(tiny.train.labels == digit).nonzero()[0, 0] for digit in range(10)])
            return to_float(tiny.train.images[first[labels]])

    config = replace(PRESETS["smoke"], judge=JudgeConfig(batch_size=32))
    context = Context(config, "smoke", tiny, Store("", None, ""), torch.device("cpu"))
    settings = GanSettings(64, 1e-3, 0.1, 1, 8, 4)
    torch.manual_seed(0)
    right, wrong = (gan_trial.classification_accuracy_score(context, Copies(off), settings) for off in (0, 1))
    assert right > 0.9
    assert wrong < 0.1


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_data_set_without_one_of_the_digits_is_refused_before_any_training(tiny: Dataset, part: str) -> None:
    split = getattr(tiny, part)
    rest = split.labels != 4
    without = replace(tiny, **{part: Split(split.images[rest], split.labels[rest])})
    config = replace(PRESETS["smoke"], judge=JudgeConfig(batch_size=32))
    context = Context(config, "smoke", without, Store("", None, ""), torch.device("cpu"))
    with pytest.raises(UsageError, match=r"every digit must be among the \w+ images of tiny, but there is no 4"):
        check_sizes(context)


def test_a_collapsed_wgan_is_given_up_a_collapsed_vanilla_gan_measured_and_the_study_goes_on(
    store: Store, tiny: Dataset, panel: Panel
) -> None:
    """An untrained decoder makes all images alike, so that the judge sees a single digit whatever is generated."""
    context = Context(PRESETS["smoke"], "smoke", tiny, store, torch.device("cpu"))
    torch.manual_seed(0)
    module = {"latent_dim": 3, "architecture": "conv"}
    with context.study("latent-gan", "A test.", {}, {}) as study:
        data = gan_trial.LatentData.encode(context, Autoencoder(**module), module)

        def objective(trial: Trial) -> tuple[float]:
            settings = GanSettings(64, 1e-3, trial.params["clip_value"], 1, 8, 4)
            return (gan_trial.run_gan_trial(trial, study, data, panel, settings, 4, 2, conditional=False),)

        space = {"clip_value": choice(0.1, None)}
        fixed = [{"clip_value": 0.1}, {"clip_value": None}]
        (vanilla,) = study.search(Search({"val/fd": "minimize"}, space, fixed), objective)
        measured = trial_metrics(study.parent)[vanilla.run_id]
    assert vanilla.params == {"clip_value": None}
    assert measured["sample/modes"] == measured["second/modes"] == 1
    assert measured["sample/class_kl"] == pytest.approx(np.log(10))
    assert 0 <= measured["sample/diversity"] < 1
    assert all(np.isfinite(value) for value in measured.values())
    runs = mlflow.MlflowClient().search_runs([store.experiment("tiny/latent-gan")], "tags.`optuna.state` = 'PRUNED'")
    assert [run.data.tags["reason"] for run in runs] == ["collapsed to 1 digits at epoch 2"]
