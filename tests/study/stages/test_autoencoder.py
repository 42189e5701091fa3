from pathlib import Path

import pytest
import torch

from models.autoencoder import ARCHITECTURES, Autoencoder
from study import data, metrics, training
from study.autoencoder_trial import rotate_to_principal_axes
from study.data import to_float


@pytest.mark.mnist
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rotation_of_a_trained_autoencoder(mnist_dir: Path, architecture: str) -> None:
    mnist = data.load("mnist", mnist_dir)
    train, test = mnist.train.images[:10_000], mnist.test.images
    torch.manual_seed(0)
    model = Autoencoder(15, architecture)
    training.train_autoencoder(model, train, mnist.val.images[:10], 1, 256, 4e-3, lambda *_: None)
    rotated = rotate_to_principal_axes(model, train)
    with training.eval_mode(model, rotated):
        before, after = (training.apply(each, test) for each in (model, rotated))
        fitted, held_out = (training.apply(rotated.encoder, images) for images in (train, test))
        raw = metrics.max_abs_pcc(training.apply(model.encoder, test))
    assert float((before - after).abs().max()) < 1e-5
    assert not torch.equal(model.encoder[-1].running_var, rotated.encoder[-1].running_var)
    assert training.reconstruction_loss(rotated, test) == pytest.approx(float((after - to_float(test)).square().mean()))
    assert metrics.max_abs_pcc(fitted) < 1e-3
    assert metrics.max_abs_pcc(held_out) < min(3 * metrics.pcc_noise_floor(len(test), 15), raw / 2)
