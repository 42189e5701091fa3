import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.classifier import Judge
from study.data.dataset import Dataset, Split
from study.training import classifier as classifiers
from study.training.classifier import ClassifierSettings

DIGITS = {"image_shape": (1, 28, 28), "classes": 10}


def test_judge_learns_easy_classes(tiny: Dataset) -> None:
    torch.manual_seed(0)
    judge, reported = Judge("conv", **DIGITS, width=4), {}
    classifiers.train_judge(judge, tiny.train, tiny.val, ClassifierSettings(8, 32, 1e-2), reported.__setitem__)
    assert (list(reported), reported[8]["val/accuracy"]) == (list(range(1, 9)), classifiers.accuracy(judge, tiny.val))
    assert classifiers.accuracy(judge, tiny.test) > 0.9


def test_head_learns_clusters_from_noisy_copies() -> None:
    torch.manual_seed(0)
    labels, centres = torch.arange(10).repeat(10), 3 * torch.eye(10)
    copies = centres[labels] + 0.1 * torch.randn(5, 100, 10)
    head, reported = nn.Linear(10, 10), {}
    settings = ClassifierSettings(epochs=20, batch_size=20, learning_rate=2e-2, passes=4)
    classifiers.train_head(head, copies, labels, settings, reported.__setitem__)
    assert list(reported) == list(range(1, 21))
    assert (head(centres).argmax(1) == torch.arange(10)).all()
    assert reported[20]["train/loss"] < reported[1]["train/loss"] / 2


@pytest.mark.parametrize("side", [28, 56])
@pytest.mark.parametrize("sign", [1, -1])
def test_jitter_at_its_bounds_is_the_product_of_its_maps(sign: int, side: int, monkeypatch) -> None:
    """Images are sampled where each pixel is sheared, made wider and less high, scaled, rotated and shifted to."""
    images = torch.rand(3, 1, side, side)
    cos, sin = math.cos(math.radians(15)), sign * math.sin(math.radians(15))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5 + 0.5 * sign))
    for shear, ratio in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.1), (0.3, 0.1)):
        parts = [[cos, -sin], [sin, cos]], [[1 + sign * ratio, 0], [0, 1 - sign * ratio]], [[1, sign * shear], [0, 1]]
        linear = (1 + sign * 0.2) * torch.linalg.multi_dot([torch.tensor(part).float() for part in parts])
        shift = torch.full((2, 1), sign * 3 / 14)  # 3 of 28 pixels; the image is 2 wide
        grid = functional.affine_grid(torch.cat([linear, shift], 1).expand(3, 2, 3), [3, 1, side, side], False)
        found = classifiers.jitter(images, 15, 3, 0.2, shear=shear, ratio=ratio)
        torch.testing.assert_close(found, functional.grid_sample(images, grid, align_corners=False))


def test_jitter_moves_each_image_by_itself() -> None:
    images = torch.rand(1, 1, 28, 28).expand(500, -1, -1, -1)
    assert len(classifiers.jitter(images, 15, 3, 0.2, shear=0.3, ratio=0.1).unique(dim=0)) == 500


def test_few_labels_are_smoothed_and_moved_as_asked(tiny: Dataset) -> None:
    """Of images alike, the best prediction under smoothing is the smoothed target itself."""
    few, seen, reported = Split(tiny.train.images[:40], torch.zeros(40, dtype=torch.long)), [], {}
    blank = lambda images: seen.append(len(images)) or torch.zeros_like(images)  # noqa: E731
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    settings = ClassifierSettings(300, 20, 5e-2, smoothing=0.2)
    classifiers.train_classifier(model, few, settings, reported.__setitem__, augment=blank)
    expected = torch.tensor([0.82, *9 * [0.02]])
    torch.testing.assert_close(model[1].bias.detach().softmax(0), expected, atol=1e-2, rtol=0)
    assert (seen, reported[300]["train/accuracy"]) == (600 * [20], 1)


def test_labelled_images_are_balanced_and_drawn_anew(tiny: Dataset) -> None:
    labels = tiny.train.labels
    first, second = (classifiers.draw_labelled(labels, 7, seed, classes=10) for seed in (0, 1))
    assert (labels[first].bincount().tolist(), len(set(first.tolist()))) == ([7] * 10, 70)
    assert not torch.equal(first, second)
    assert torch.equal(first, classifiers.draw_labelled(labels, 7, 0, classes=10))
    for count, classes, told in ((65, 10, "but got 65"), (1, 11, "but got 1")):
        with pytest.raises(ValueError, match=told):
            classifiers.draw_labelled(labels, count, 0, classes=classes)
