"""The autoencoder study: which trial is chosen, and what the others are compared by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from study.data.dataset import Dataset, Split
from study.harness.search import Result
from study.science.autoencoders import knee_distance
from study.stages.autoencoder.config import AutoencoderConfig
from study.stages.autoencoder.stage import choose, plan
from study.stages.autoencoder.trial import IMAGES_SHOWN, Comparison
from tracking.errors import StoreError


def test_the_knee_is_the_point_nearest_to_the_ideal_corner() -> None:
    # Losses and correlations of the reference's five sizes after four epochs; three components lose 0.052.
    sizes, losses, correlations = (
        (3, 10, 15, 20, 100),
        (0.032, 0.0117, 0.008, 0.0062, 0.0034),
        (0.04, 0.36, 0.36, 0.41, 0.66),
    )
    distances = [knee_distance(loss, 0.052, pcc) for loss, pcc in zip(losses, correlations, strict=True)]
    tried = [Result(n, "", {"latent_dim": size}, (0.0, 0.0), str(n)) for n, size in enumerate(sizes)]
    measured = {str(n): {"latent/knee_distance": distance} for n, distance in enumerate(distances)}
    assert choose(tried, measured, None).params["latent_dim"] == 15


def test_a_given_latent_size_takes_the_least_loss_of_that_size() -> None:
    tried = [
        Result(n, "", {"latent_dim": size}, (loss, 0.5), "")
        for n, (size, loss) in enumerate([(15, 3.0), (15, 2.0), (3, 1.0)])
    ]
    assert choose(tried, {}, 15).number == 1
    with pytest.raises(StoreError, match="no trial of latent size 16 is complete"):
        choose(tried, {}, 16)


def test_a_given_latent_size_is_tried_too() -> None:
    config = AutoencoderConfig(latent_dims=(20, 3), latent_dim=7)
    assert config.sizes == [3, 7, 20]
    assert "latent sizes 3, 7, 20" in plan(config)


def test_shown_are_the_first_image_of_each_class_and_without_classes_the_first_ones(tiny: Dataset) -> None:
    shown = Comparison(tiny).shown
    for label, image in enumerate(shown):
        first = (tiny.val.labels == label).nonzero()[0, 0]
        assert torch.equal(image, tiny.val.images[first])
    few = replace(tiny, val=Split(tiny.val.images[:4], tiny.val.labels[:4]), classes=())
    assert torch.equal(Comparison(few).shown, tiny.val.images[:4])
    assert len(Comparison(replace(tiny, classes=())).shown) == IMAGES_SHOWN


def test_principal_components_are_compared_with_at_every_size(tiny: Dataset) -> None:
    val, test = Comparison(tiny).pca
    assert len(val) == len(test) == 100
    assert list(val) == sorted(val, reverse=True)
