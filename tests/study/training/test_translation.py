"""Domains and pairings against NumPy and SciPy; losses against values by hand; what discriminators see; trainings."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.translation import Translator
from study.config import Task
from study.data.dataset import Dataset
from study.measures.translation import error
from study.training import translation
from study.training.loops import apply, eval_mode

CPU = torch.device("cpu")
COUNT = 201


@pytest.fixture
def numbered() -> torch.Tensor:
    """Images that are all of one colour, their number."""
    return torch.arange(COUNT).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 16, 16)


def random_images(count: int, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, 20, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_tasks_are_those_of_scipy_and_numpy(channels: int) -> None:
    images = random_images(6, channels)
    plain = images.numpy()
    thick = ndimage.grey_dilation(plain, size=(1, 1, 3, 3), mode="nearest")
    expected = {"outline": thick - plain, "thicken": thick, "rotate": np.rot90(plain, axes=(2, 3))}
    assert expected.keys() == {*get_args(Task)} == translation.TASKS.keys()
    for name, wanted in expected.items():
        np.testing.assert_array_equal(translation.TASKS[name](images).numpy(), wanted)


@pytest.mark.parametrize("given", [(5, 1.1, 0.1, 0), (-4, 0.9, -0.05, 0.1), (0, 1, 0.1, -0.1), (30, 1.0, 0.0, 0.0)])
def test_affine_maps_are_those_of_scipy(given: tuple[float, float, float, float]) -> None:
    degrees, scale, right, down = given
    (image,), shift = random_images(1).float() / 255, torch.tensor([[right, down]])
    made = translation.affine(image[None], torch.tensor([degrees]), shift, torch.tensor([scale]))[0, 0]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # What is at (row, column) from the centre goes up and to the left as it is turned counterclockwise.
    back = np.linalg.inv(scale * np.array([[cos, -sin], [sin, cos]]))
    offset = 9.5 - back @ (9.5 + 20 * np.array([down, right]))
    expected = ndimage.affine_transform(image[0].numpy(), back, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(made, expected, atol=2e-4)


def test_misalignment_reaches_as_far_as_regans_level_3(monkeypatch) -> None:
    images, ones = random_images(3).float() / 255, torch.ones(3)
    for drawn, sign in ((1.0, 1), (0.0, -1)):
        monkeypatch.setattr(torch, "rand", lambda *shape, drawn=drawn, **_: torch.full(shape, drawn))
        expected = translation.affine(images, sign * 3 * ones, sign * 0.06 * torch.ones(3, 2), 1 + sign * 0.06 * ones)
        torch.testing.assert_close(translation.misalign(images), expected)


def drawn(pairs: translation.Pairs) -> list[torch.Tensor]:
    """The numbers of the images of A and B in an epoch."""
    (batch,) = pairs.batches(len(pairs.a), len(pairs.a))
    return [(images[:, 0, 0, 0] * 255).round().long() for images in batch]


def test_paired_images_are_of_the_same_image(numbered: torch.Tensor) -> None:
    pairs = translation.make_pairs("rotate", numbered, "paired", seed=0)
    a, b = drawn(pairs)
    assert torch.equal(a, b)
    assert sorted(a.tolist()) == list(range(COUNT)) != a.tolist()
    found = list(pairs.batches(100, 32))
    assert [len(a) for a, _ in found] == [32, 32, 32]
    assert all(a.dtype == torch.float32 and a.max() <= 1 for a, _ in found)


def test_unpaired_images_are_of_disjoint_halves_in_new_pairs_each_epoch(numbered: torch.Tensor) -> None:
    pairs = translation.make_pairs("rotate", numbered, "unpaired", seed=0)
    (a, b), again = drawn(pairs), drawn(pairs)
    assert (len({*a.tolist()}), len({*b.tolist()}), len(pairs.b)) == (COUNT // 2, COUNT // 2, COUNT - COUNT // 2)
    assert not {*a.tolist()} & {*b.tolist()}
    first, second = ({*zip(*map(torch.Tensor.tolist, each), strict=True)} for each in ((a, b), again))
    assert len(first & second) < 10
    other = translation.make_pairs("rotate", numbered, "unpaired", seed=1)
    assert {*other.a[:, 0, 0, 0].tolist()} != {*a.tolist()}


def test_loosely_paired_images_are_moved_apart_and_anew() -> None:
    images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 10:18, 10:18] = 255
    pairs = translation.make_pairs("rotate", images, "loosely paired", seed=0)
    (a, b), (again, _) = (next(pairs.batches(64, 64)) for _ in "ab")
    assert min(float((a - other).abs().mean()) for other in (b, again)) > 0.005
    rows = torch.arange(28.0)
    centres = torch.stack([(image.sum((1, 3)) * rows).sum(1) / image.sum((1, 2, 3)) for image in (a, b)])
    assert float((centres - 13.5).abs().max()) <= 0.06 * 28 + 0.2
    assert abs(float(torch.corrcoef(centres)[0, 1])) < 0.4


def test_losses_by_hand() -> None:
    scores = torch.tensor([[0.0, 2.0], [-1.0, 0.5]])
    sigmoid = 1 / (1 + np.exp(-scores.numpy()))
    for real, likelihood, squares in ((True, sigmoid, (1, 1, 4, 0.25)), (False, 1 - sigmoid, (0, 4, 1, 0.25))):
        assert float(translation.log_loss(scores, real=real)) == pytest.approx(-np.log(likelihood).mean(), rel=1e-5)
        assert float(translation.least_squares(scores, real=real)) == pytest.approx(sum(squares) / 4)
    # On [0, 1] the mean difference is 0.3; for pixels from -1 to 1 twice that.
    assert float(translation.l1_loss(torch.tensor([0.1, 0.9]), torch.tensor([0.2, 0.4]))) == pytest.approx(0.6)


def test_the_learning_rate_decays_in_the_second_half() -> None:
    for epochs, expected in ((1, [1]), (4, [1, 1, 2 / 3, 1 / 3]), (5, [1, 1, 1, 2 / 3, 1 / 3])):
        assert [translation.lr_decay(epoch, epochs) for epoch in range(1, epochs + 1)] == pytest.approx(expected)


def test_the_pool_hands_out_old_images_and_keeps_new_ones() -> None:
    torch.manual_seed(0)
    pool, seen = translation.ImagePool(size=6), []
    for number in range(60):
        images = torch.full((4, 1, 2, 2), float(number)) + torch.arange(4)[:, None, None, None] / 10
        shown = pool.exchange(images)
        assert shown.shape == images.shape
        assert number or torch.equal(shown, images), "an empty pool has nothing else to show"
        seen.append(shown[:, 0, 0, 0])
    values = torch.stack(seen)  # [60, 4]
    old = torch.arange(60)[:, None] - values > 0.5
    assert 0.4 < float(old[10:].float().mean()) < 0.6, "by even chance"
    later = values[values > 1.15]  # the first six fill the pool, shown or not
    assert len(later.unique()) == len(later), "each image is shown once: what is handed out is gone"


def losses_of(method: translation.Method, a: torch.Tensor, b: torch.Tensor) -> tuple[dict, Any]:
    """The losses of a step in float32, and the training."""
    torch.manual_seed(0)
    make = translation._Cycle if method == translation.CYCLE_GAN else translation._Direct
    training = make(Translator((1, 16, 16)), method, 1, CPU)
    return {name: float(value.detach()) for name, value in training.step(a, b).items()}, training


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(translation, "autocast", lambda _: torch.autocast("cpu", enabled=False))
    torch.manual_seed(1)
    return torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16)


def test_the_parts_of_the_conditional_gans_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = batch
    found, training = losses_of(translation.CONDITIONAL_GAN, a, b)
    whole = found["generator/adversarial"] + 100 * found["generator/l1"]
    assert found["generator/loss"] == pytest.approx(whole, rel=1e-5)
    torch.manual_seed(0)
    fake = Translator((1, 16, 16))(a).detach()
    assert found["generator/l1"] == pytest.approx(2 * float((fake - b).abs().mean()), rel=1e-4)
    assert training.discriminator[0].in_channels == 2, "it sees both domains"
    assert all(parameter.requires_grad for parameter in training.discriminator.parameters())


def test_the_plain_gan_sees_b_only_and_l1_has_no_discriminator(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    found, training = losses_of(translation.GAN, *batch)
    assert training.discriminator[0].in_channels == 1
    assert (found["generator/loss"], "generator/l1" in found) == (found["generator/adversarial"], False)
    # An untrained discriminator says nothing: both of its losses are near log 2.
    assert found["discriminator/loss"] == pytest.approx(math.log(2), abs=0.3)
    found, training = losses_of(translation.L1, *batch)
    assert training.discriminator is None
    assert found == {"generator/l1": found["generator/loss"], "generator/loss": found["generator/loss"]}


def test_the_parts_of_cyclegans_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = batch
    found, _ = losses_of(translation.CYCLE_GAN, a, b)
    parts = {name.partition("/")[2]: value for name, value in found.items() if name.startswith("generator/")}
    assert parts["loss"] == pytest.approx(parts["adversarial"] + parts["cycle"], rel=1e-5)
    torch.manual_seed(0)
    fresh = translation._Cycle(Translator((1, 16, 16)), translation.CYCLE_GAN, 1, CPU)
    there, back = fresh.translator, fresh.back
    with torch.no_grad():
        assert not torch.equal(there(a), back(a)), "each has weights of its own"
        cycle = (back(there(a)) - a).abs().mean() + (there(back(b)) - b).abs().mean()
        scores = fresh.of_b(there(a)), fresh.of_a(back(b))
    assert parts["cycle"] == pytest.approx(2 * float(cycle), rel=1e-4)
    assert parts["adversarial"] == pytest.approx(sum(float((1 - score).square().mean()) for score in scores), rel=1e-4)


def test_l1_learns_a_task(tiny: Dataset, monkeypatch) -> None:
    torch.manual_seed(0)
    pairs, translator = translation.make_pairs("thicken", tiny.train.images, "paired", 0), Translator((1, 28, 28))
    reported: dict[int, Any] = {}

    def train(epochs: int, weight: float = 1.0) -> float:
        method, report = translation.L1, reported.__setitem__
        monkeypatch.setattr(translation, "SETTINGS", {method: translation.Settings(2e-3, weight)})
        translation.train_translator(translator, pairs, method, epochs=epochs, images=640, report=report)
        with eval_mode(translator):
            return error(apply(translator, pairs.a), pairs.b)

    before = train(epochs=0)
    assert train(epochs=6) < before / 2
    assert list(reported) == [1, 2, 3, 4, 5, 6]
    assert reported[6]["generator/loss"] < 0.7 * reported[1]["generator/loss"]
    with pytest.raises(FloatingPointError, match="generator/"):  # it diverges
        train(epochs=1, weight=math.inf)
