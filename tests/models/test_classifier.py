import pytest
import torch

from models.classifier import JUDGE_KINDS, Judge


@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 10), ((1, 16, 16), 26), ((3, 64, 64), 2)])
@pytest.mark.parametrize("kind", JUDGE_KINDS)
def test_judge_logits_come_from_its_features(kind: str, image_shape: tuple[int, int, int], classes: int) -> None:
    judge = Judge(kind, image_shape=image_shape, classes=classes, width=4, feature_dim=7).eval()
    logits, features = judge(images := torch.rand(5, *image_shape)), judge.features(images)
    assert (features.shape, logits.shape, torch.equal(logits, judge.head(features))) == ((5, 7), (5, classes), True)


@pytest.mark.parametrize(("kind", "image_shape"), [("forest", (1, 28, 28)), ("conv", (1, 28, 30))])
def test_impossible_judges(kind: str, image_shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        Judge(kind, image_shape=image_shape, classes=10)
