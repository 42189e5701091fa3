import math
from dataclasses import replace

import pytest
import torch
from contexts import brightness_judge, uniform

from models.classifier import Judge
from study.data.dataset import Dataset, Split, to_float
from study.measures.judges import PREFIXES, Evaluator, Judges, collapse, real_features

DIGITS = {"image_shape": (1, 28, 28), "classes": 10}
COLLAPSES = [
    ((8, 0.5, 0.5, 0.5), 10, None),
    ((7, 0.1, 0.5, 0.5), 10, "7 of 10 classes"),
    ((10, 0.6, 0.5, 0.5), 10, "class KL 0.60"),
    ((10, 0.1, 0.003, 0.5), 10, "recall 0.003"),  # all classes, but of each the same image
    ((10, 0.1, 0.5, 0.05), 10, "coverage 0.050"),
    ((2, 0.1, 0.5, 0.5), 3, "2 of 3 classes"),
]


@pytest.fixture
def judges(tiny: Dataset) -> Judges:
    return Judges([Evaluator(brightness_judge(), tiny) for _ in PREFIXES])


def test_measures_of_samples_of_the_right_label_and_of_a_wrong_one(judges: Judges, tiny: Dataset) -> None:
    labels = torch.arange(200) % 10
    found = judges.measures(uniform(labels.float()), labels)
    expected = {"label_accuracy": 1, "modes": 10, "class_kl": 0, "low_confidence": 0, "diversity": 0}
    assert {name: found[f"judge3/{name}"] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert {name for name in found if not name.startswith("judge3/")} == {"judge1/fd", "judge2/fd"}, "they select"
    assert found["judge3/fd"] == found["judge2/fd"] == found["judge1/fd"]
    assert judges.measures(uniform(labels.float()), labels.roll(1))["judge3/label_accuracy"] == 0
    labels = torch.arange(100) // 25  # the first four classes
    drawn = labels.clone()
    drawn[50:60] = 9  # ten of the 25 twos
    found = judges.measures(uniform(drawn.float()), labels)
    assert [found[f"judge3/label_accuracy{which}"] for which in ("", "_worst")] == pytest.approx([0.9, 0.6])
    found = judges.measures(to_float(tiny.test.images))
    assert found["judge3/nearest"] == pytest.approx(1, rel=1e-4), "as near to the training images as test images"
    assert found["judge1/fd"] == pytest.approx(0, abs=1e-6)


def test_two_judges_select_and_the_third_only_reports(tiny: Dataset) -> None:
    torch.manual_seed(0)
    images, kinds = tiny.train.images[:50], ("conv", "mlp", "residual", "residual")
    *alone, other_third = [Evaluator(Judge(kind, **DIGITS, width=4).eval(), tiny) for kind in kinds]
    found = Judges(alone).val_measures(images)
    distances = [judge.val_measures(images)["fd"] for judge in alone]
    expected = [math.sqrt(distances[0] * distances[1]), *distances[:2]]
    assert [found[name] for name in ("val/fd", "val/fd_1", "val/fd_2")] == pytest.approx(expected)
    assert Judges([*alone[:2], other_third]).val_measures(images) == pytest.approx(found)
    whole = [judge.measures(images) for judge in alone]
    expected = {f"judge{number}/fd": each["fd"] for number, each in enumerate(whole, 1)}
    expected |= {f"judge3/{name}": value for name, value in whole[2].items()}
    assert Judges(alone).measures(images) == pytest.approx(expected, nan_ok=True)
    quick = Judges(alone).search_measures(images)
    assert quick == pytest.approx({"search/fd": distances[0], "val/modes": alone[0].val_measures(images)["modes"]})


def test_features_that_are_known_already_are_not_computed_again(tiny: Dataset) -> None:
    judge = Judge("conv", **DIGITS, width=4).eval()
    real = real_features(judge, tiny)
    assert Evaluator(judge, tiny, lambda: real).distance(tiny.val.images, "val") == pytest.approx(0, abs=1e-6)
    shifted = Evaluator(judge, tiny, lambda: {name: each + 1 for name, each in real.items()})
    assert shifted.distance(tiny.val.images, "val") > 1


def test_classes_are_compared_with_their_fractions_of_the_test_images(tiny: Dataset) -> None:
    labels = torch.tensor([0, 0, 1, 2])
    uneven = Split((uniform(labels.float()) * 255).round().to(torch.uint8), labels)
    evaluator = Evaluator(brightness_judge(), replace(tiny, test=uneven))
    for asked in (None, labels):
        found = evaluator.measures(uneven.images, asked)
        assert found["class_kl"] == pytest.approx(0, abs=1e-9), "two of four of class 0"
    assert found["label_accuracy"] == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_crash_no_measure(count: int, tiny: Dataset) -> None:
    few = tiny.train.take(torch.arange(count))
    evaluator = Evaluator(Judge("conv", **DIGITS, width=4).eval(), tiny.each(lambda _: few))
    found = evaluator.measures(to_float(tiny.test.images[:count]), tiny.test.labels[:count])
    assert math.isnan(found["nearest"])  # the test images are training images
    assert math.isfinite(found["fd"] + evaluator.val_measures(few.images)["fd"])


@pytest.mark.parametrize(("measures", "classes", "way"), COLLAPSES)
def test_how_a_generator_has_collapsed(measures: tuple[float, ...], classes: int, way: str | None) -> None:
    names = ("val/modes", "val/class_kl", "val/recall", "val/coverage")
    assert collapse(dict(zip(names, measures, strict=True)), classes) == way
