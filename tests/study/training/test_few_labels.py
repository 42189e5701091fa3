from dataclasses import replace

import pytest
import torch
from sklearn.svm import SVC
from torch import Tensor

from models.autoencoder import Encoder
from study.data.dataset import Dataset, Split
from study.training import few_labels
from study.training.classifier import draw_labelled
from study.training.few_labels import EncodedDataset, baselines


def as_they_are(images: Tensor) -> Tensor:
    return images


def moved(images: Tensor) -> Tensor:
    """The pixels of each in another order, which is no picture any more."""
    order = torch.randperm(images[0].numel(), generator=torch.Generator().manual_seed(0))
    return images.flatten(1)[:, order].view_as(images)


def test_baselines_solve_easy_classes(tiny: Dataset) -> None:
    encoded = EncodedDataset(tiny, Encoder(10, "conv+fc", (1, 28, 28)).eval(), as_they_are)
    known = draw_labelled(tiny.train.labels, 10, 0, classes=10)
    found = baselines(encoded, known)
    assert found["baseline/raw_pixels_jittered_svm"] == 1.0
    assert found["baseline/pca_svm"] == 1.0
    train, test = encoded.latents
    # Copies that are no different, in their number, are the same as so much larger a penalty.
    several = SVC(C=few_labels.SVM_PENALTY * (1 + few_labels.SVM_LATENTS // 100))
    several.fit(train[known].numpy(), tiny.train.labels[known].numpy())
    expected = several.score(test.numpy(), tiny.test.labels.numpy())
    assert found["baseline/latents_jittered_svm"] == pytest.approx(expected, abs=0.011)
    assert encoded.latents is encoded.latents, "what trials share is computed once"


def test_jittered_copies_teach_a_baseline_what_the_test_images_do(tiny: Dataset) -> None:
    shifted = replace(tiny, test=Split(moved(tiny.test.images), tiny.test.labels))
    known = draw_labelled(tiny.train.labels, 10, 0, classes=10)
    found = [
        baselines(EncodedDataset(shifted, Encoder(10, "conv", (1, 28, 28)), augment), known)
        for augment in (as_they_are, moved)
    ]
    assert found[1]["baseline/raw_pixels_jittered_svm"] == 1.0
    assert found[0]["baseline/raw_pixels_jittered_svm"] < 0.9
    assert found[1]["baseline/pca_svm"] == found[0]["baseline/pca_svm"], "it sees no copies"


def test_copies_are_latents_of_moved_images(tiny: Dataset) -> None:
    encoder = Encoder(10, "conv", (1, 28, 28)).eval()
    copies = EncodedDataset(tiny, encoder, moved).copies(tiny.test.images, 3)
    with torch.no_grad():
        expected = encoder(moved(tiny.test.images) / 255)
    assert copies.shape == (3, 100, 10)
    torch.testing.assert_close(copies[2], expected, atol=1e-4, rtol=1e-4)


def test_one_label_a_class_of_other_images(make_dataset) -> None:
    data = make_dataset((1, 16, 16), 26, 2)
    encoded = EncodedDataset(data, Encoder(15, "conv", (1, 16, 16)), as_they_are)
    found = baselines(encoded, draw_labelled(data.train.labels, 1, 0, classes=26))
    assert len(found) == 3
    assert found["baseline/raw_pixels_jittered_svm"] > 0.9
