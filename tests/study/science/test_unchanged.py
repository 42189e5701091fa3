"""Numbers that the code gave before image shape and class count were arguments (commit 42a38b6): they are the same.

Of noise images and noise latents, at fixed seeds, without bfloat16, which not every processor multiplies.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge, TransferClassifier
from models.gan import Critic, LatentGenerator
from study.data.dataset import Dataset, Split
from study.science.autoencoders import AutoencoderSettings, train_autoencoder
from study.science.classifiers import ClassifierSettings, draw_labelled, train_classifier, train_judge
from study.science.gans import GanSettings, train_gan
from study.science.judges import Evaluator
from study.science.sampling import noise

SHAPE = (1, 28, 28)
DIGITS = {"image_shape": SHAPE, "classes": 10}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)


def same(numbers: dict[str, float]) -> object:
    return pytest.approx(numbers, rel=1e-5, abs=1e-8)


def images(count: int, seed: int) -> Split:
    drawn = torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return Split(drawn.to(torch.uint8), torch.arange(count) % 10)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: Autoencoder(15, "conv", SHAPE), 131.9680815707697),
        (lambda: Autoencoder(15, "conv+fc", SHAPE), 3486.085145432511),
        (lambda: Judge("conv", **DIGITS), 154.36896966144832),
        (lambda: Judge("mlp", **DIGITS), 1111.4085748707148),
        (lambda: TransferClassifier(15, "conv+fc", **DIGITS), 576.4354468149319),
        (
            lambda: LatentGenerator(20, 15, architecture="conv+fc", image_shape=SHAPE, width=256, depth=3),
            3623.6432348211647,
        ),
    ],
    ids=["autoencoder, conv", "autoencoder, conv+fc", "judge, conv", "judge, mlp", "classifier", "generator"],
)
def test_initial_weights(build: Callable[[], nn.Module], expected: float) -> None:
    torch.manual_seed(0)
    found = sum(float(parameter.detach().double().sum()) for parameter in build().parameters())
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("conv", {"train/loss": 0.09109850227832794, "val/loss": 0.08363209938516422}),
        ("conv+fc", {"train/loss": 0.08985153585672379, "val/loss": 0.08318259570063377}),
    ],
)
def test_a_trained_autoencoder(architecture: str, expected: dict[str, float]) -> None:
    torch.manual_seed(0)
    model, reported = Autoencoder(5, architecture, SHAPE), {}
    settings = AutoencoderSettings(epochs=2, batch_size=16, learning_rate=4e-3, covariance_weight=0.1)
    train_autoencoder(model, images(64, 0).images, images(40, 1).images, settings, reported.__setitem__)
    assert reported[2] == same(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("conv", {"train/loss": 2.2968568801879883, "val/accuracy": 0.1}),
        ("mlp", {"train/loss": 2.3994524478912354, "val/accuracy": 0.125}),
    ],
)
def test_a_trained_judge(kind: str, expected: dict[str, float]) -> None:
    torch.manual_seed(0)
    model, reported = Judge(kind, **DIGITS), {}
    train_judge(model, images(64, 0), images(40, 1), ClassifierSettings(2, 16, 1e-3), reported.__setitem__)
    assert reported[2] == same(expected)


def test_a_trained_transfer_classifier() -> None:
    torch.manual_seed(0)
    model, reported = TransferClassifier(5, "conv", **DIGITS), {}
    train_classifier(model, images(64, 0), ClassifierSettings(2, 16, 1e-3), reported.__setitem__)
    assert reported[2] == same({"train/loss": 2.345033645629883, "train/accuracy": 0.078125})


WGAN = {
    "critic/loss": -0.00611579604446888,
    "critic/gradient_norm": 0.1624000370502472,
    "generator/loss": 0.11979752779006958,
    "critic/wasserstein": 0.00611579604446888,
    "critic/at_clip": 0.13054341077804565,
}
VANILLA = {
    "critic/loss": 1.3737519979476929,
    "critic/gradient_norm": 0.28667157888412476,
    "generator/loss": 0.6549170017242432,
}


@pytest.mark.parametrize(
    ("settings", "classes", "expected"),
    [
        (GanSettings(16, 1e-3, 0.1, 2, 32, 4, depth=3, averaging=0.9, falling=True), 10, WGAN),
        (GanSettings(16, 1e-3, None, 1, 32, 4), 0, VANILLA),
    ],
    ids=["conditional WGAN", "vanilla GAN"],
)
def test_a_trained_gan(settings: GanSettings, classes: int, expected: dict[str, float]) -> None:
    latents = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    conditions = torch.eye(10)[torch.arange(64) % 10, :classes]
    torch.manual_seed(0)
    model = LatentGenerator(
        4 + classes, 5, architecture="conv", image_shape=SHAPE, width=settings.width, depth=settings.depth
    )
    critic, reported = Critic(5 + classes, settings.width), {}
    train_gan(model.generator, critic, latents, conditions, settings, epochs=2, report=reported.__setitem__)
    assert reported[2] == same(expected)


def test_measures_of_generated_images() -> None:
    torch.manual_seed(0)
    judge = Judge("conv", **DIGITS).eval()
    data = Dataset("noise", images(64, 0), images(40, 1), images(60, 3), classes=tuple("0123456789"))
    evaluator, generated = Evaluator(judge, data), images(50, 4)
    assert evaluator.measures(generated.images, generated.labels) == same(
        {
            "sample/fd": 3.3192743724042356e-05,
            "sample/precision": 0.76,
            "sample/recall": 0.8833333253860474,
            "sample/density": 0.7,
            "sample/coverage": 0.9166666865348816,
            "sample/modes": 1.0,
            "sample/class_kl": 2.302585092994046,
            "sample/confidence": 0.11092380434274673,
            "sample/low_confidence": 1.0,
            "sample/diversity": 1.0414362013339997,
            "sample/intra_fd": 0.00010325183621892985,
            "sample/nearest": 1.0141829187642635,
            "sample/label_accuracy": 0.1,
            "sample/label_accuracy_worst": 0.0,
        }
    )
    found = evaluator.val_measures(generated.images)
    assert {name: found[name] for name in ("val/fd", "val/modes")} == same(
        {"val/fd": 3.6907613148840055e-05, "val/modes": 1.0}
    )


def test_drawn_labels_and_noise() -> None:
    known = draw_labelled(images(64, 0).labels, 2, 0, classes=10)
    assert known.tolist() == [40, 60, 21, 11, 2, 22, 3, 33, 44, 4, 35, 15, 46, 6, 17, 47, 28, 8, 19, 9]
    expected = [[1.1176220178604126, -0.4265716075897217], [-1.3871248960494995, -0.8035872578620911]]
    torch.testing.assert_close(noise(2, 2, 0, CPU), torch.tensor(expected))
