import pytest
import torch
from torch import nn

from models.classifier import Judge
from study.data.dataset import Dataset, Split
from study.training import classifier as classifiers
from study.training.classifier import ClassifierSettings

DIGITS = {"image_shape": (1, 28, 28), "classes": 10}


def test_judge_learns_easy_classes(tiny: Dataset) -> None:
    torch.manual_seed(0)
    judge, reported = Judge("conv", **DIGITS, width=4), {}
    classifiers.train_judge(judge, tiny.train, tiny.val, ClassifierSettings(8, 32, 1e-2), reported.__setitem__)
    assert list(reported) == list(range(1, 9))
    assert reported[8]["val/accuracy"] == classifiers.accuracy(judge, tiny.val)
    assert classifiers.accuracy(judge, tiny.test) > 0.9


def test_head_learns_clusters_from_noisy_copies() -> None:
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(10)
    centres = 3 * torch.eye(10)
    copies = centres[labels] + 0.1 * torch.randn(5, 100, 10)
    head, reported = nn.Linear(10, 10), {}
    settings = ClassifierSettings(epochs=20, batch_size=20, learning_rate=2e-2, passes=4)
    classifiers.train_head(head, copies, labels, settings, reported.__setitem__)
    assert list(reported) == list(range(1, 21))
    assert (head(centres).argmax(1) == torch.arange(10)).all()
    assert reported[20]["train/loss"] < reported[1]["train/loss"] / 2


def block(rows: slice, columns: slice, side: int = 28) -> torch.Tensor:
    """500 black images with a white rectangle."""
    images = torch.zeros(500, 1, side, side)
    images[:, :, rows, columns] = 1
    return images


def offsets(images: torch.Tensor, axis: int) -> torch.Tensor:
    """The mean offset of the white pixels from the middle in pixels, [N]; axis 2: down, 3: to the right."""
    side = images.shape[axis]
    place = torch.arange(float(side)) - (side - 1) / 2
    return (images.sum(5 - axis)[:, 0] * place).sum(1) / images.sum((1, 2, 3))


def test_jitter_turns_shifts_and_scales_within_its_bounds() -> None:
    square, larger = block(slice(12, 16), slice(12, 16)), block(slice(24, 32), slice(24, 32), 56)
    assert 5 < float(offsets(classifiers.jitter(larger, 0, 3, 0), 3).abs().max()) <= 6.001, "the same part of the side"
    for axis in (2, 3):
        offset = offsets(classifiers.jitter(square, 0, 3, 0), axis)
        assert 2.5 < float(offset.abs().max()) <= 3.001
        assert abs(float(offset.mean())) < 0.3
    area = classifiers.jitter(square, 0, 0, 0.2).sum((1, 2, 3)) / 16
    assert 1 / 1.2**2 - 0.05 < float(area.min()) < 0.8
    assert 1.3 < float(area.max()) < 1 / 0.8**2 + 0.05
    turned = classifiers.jitter(square, 45, 0, 0)
    torch.testing.assert_close(turned.sum((1, 2, 3)), square.sum((1, 2, 3)), atol=1.5, rtol=0)
    assert float((turned - square).abs().amax((1, 2, 3)).max()) > 0.5
    bar = block(slice(4, 24), slice(12, 16))
    sheared = classifiers.jitter(bar, 0, 0, 0, shear=0.5)
    slope = (offsets(sheared[:, :, 18:19], 3) - offsets(sheared[:, :, 9:10], 3)) / 9
    assert 0.4 < float(slope.abs().max()) <= 0.51
    assert abs(float(slope.mean())) < 0.05
    torch.testing.assert_close(sheared.sum((1, 2, 3)), bar.sum((1, 2, 3)), atol=1.5, rtol=0)
    flat = classifiers.jitter(block(slice(8, 20), slice(8, 20)), 0, 0, 0, ratio=0.3)[:, 0]
    wide, high = flat.amax(1).sum(1), flat.amax(2).sum(1)
    assert min(float(wide.max()), float(high.max())) > 14
    assert bool(((wide >= 12) != (high >= 12)).float().mean() > 0.9), "wider is less high"


def test_few_labels_are_smoothed_and_moved_as_asked(tiny: Dataset) -> None:
    """Of images alike, the best prediction under smoothing is the smoothed target itself."""
    few, seen, reported = Split(tiny.train.images[:40], torch.zeros(40, dtype=torch.long)), [], {}

    def blank(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.zeros_like(images)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    settings = ClassifierSettings(300, 20, 5e-2, smoothing=0.2)
    classifiers.train_classifier(model, few, settings, reported.__setitem__, augment=blank)
    expected = torch.tensor([0.82, *9 * [0.02]])
    torch.testing.assert_close(model[1].bias.detach().softmax(0), expected, atol=1e-2, rtol=0)
    assert seen == 600 * [20]
    assert reported[300]["train/accuracy"] == 1


def test_labelled_images_are_balanced_and_drawn_anew(tiny: Dataset) -> None:
    labels = tiny.train.labels
    first, second = (classifiers.draw_labelled(labels, 7, seed, classes=10) for seed in (0, 1))
    assert labels[first].bincount().tolist() == [7] * 10
    assert len(set(first.tolist())) == 70
    assert not torch.equal(first, second)
    assert torch.equal(first, classifiers.draw_labelled(labels, 7, 0, classes=10))
    with pytest.raises(ValueError, match="but got 65"):
        classifiers.draw_labelled(labels, 65, 0, classes=10)
    with pytest.raises(ValueError, match="but got 1"):
        classifiers.draw_labelled(labels, 1, 0, classes=11)
