import pytest
import torch

from models.classifier import Judge, TransferClassifier


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_judge_logits_come_from_its_features(kind: str) -> None:
    judge = Judge(kind, width=4, feature_dim=7).eval()
    images = torch.rand(5, 1, 28, 28)
    assert judge.features(images).shape == (5, 7)
    assert torch.equal(judge(images), judge.head(judge.features(images)))


def test_transfer_head_has_one_hidden_layer_of_the_asked_width() -> None:
    classifier = TransferClassifier(15, "conv", hidden=128)
    assert classifier(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert [tuple(p.shape) for p in classifier.head.parameters()] == [(128, 15), (128,), (10, 128), (10,)]
