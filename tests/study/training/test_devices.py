"""Training loops on PyTorch's `meta` device: all is there, and nothing is read before an epoch's end; CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import Critic, Generator
from models.translation import Translator
from study.data.dataset import Split
from study.training import autoencoder as autoencoders
from study.training import classifier as classifiers
from study.training import gan as gans
from study.training import loops, translation
from study.training.loops import Report

STEPS, CLASSES, LATENT_DIM, SHAPE = 4, 3, 5, (1, 16, 16)
BATCH_SIZE, EPOCHS, SAME = 16, 3, nn.Identity()
COUNT = STEPS * BATCH_SIZE
_judge = partial(Judge, "conv", image_shape=SHAPE, classes=CLASSES, width=2)
CLASSIFIER = classifiers.ClassifierSettings(EPOCHS, BATCH_SIZE, learning_rate=1e-3)


def _split() -> Split:
    return Split(torch.randint(256, (COUNT, *SHAPE), dtype=torch.uint8), torch.arange(COUNT) % CLASSES)


def _autoencoder(report: Report) -> None:
    model, images = Autoencoder(LATENT_DIM, "conv+fc", SHAPE), _split().images
    autoencoders.train_autoencoder(model, images, images, CLASSIFIER, report)


def _gan(report: Report, settings: gans.GanSettings) -> None:
    generator = Generator(settings.noise_dim + CLASSES, LATENT_DIM, settings.width, settings.depth)
    critic = Critic(LATENT_DIM + CLASSES, settings.width, norm=settings.critic_norm)
    latents, conditions = torch.randn(COUNT, LATENT_DIM), torch.eye(CLASSES)[torch.arange(COUNT) % CLASSES]
    settings = replace(settings, batch_size=BATCH_SIZE, n_critic=2)
    gans.train_gan(generator, critic, latents, conditions, settings, epochs=EPOCHS, report=report)


def _translation(report: Report) -> None:
    images = torch.zeros(STEPS * translation.BATCH_SIZE, *SHAPE, dtype=torch.uint8)
    pairs, method = translation.Pairs(images, images, "paired"), translation.CONDITIONAL_GAN
    translation.train_translator(Translator(SHAPE), pairs, method, epochs=1, images=len(images), report=report)


GRAPHS: dict[str, Callable[[Report], None]] = {
    "autoencoder": _autoencoder,
    "WGAN": lambda report: _gan(report, replace(gans.REFERENCE, depth=3, ema_decay=0.99, lr_decay=True)),
    "vanilla GAN": lambda report: _gan(report, replace(gans.VANILLA, critic_norm=True)),
}
CASES: dict[str, Callable[[Report], None]] = {
    **GRAPHS,
    "judge": lambda report: classifiers.train_judge(_judge(), _split(), _split(), CLASSIFIER, report, augment=SAME),
    "few labels": lambda report: classifiers.train_classifier(_judge(), _split(), CLASSIFIER, report),
    "head": lambda report: classifiers.train_head(
        nn.Linear(LATENT_DIM, CLASSES), torch.zeros(2, COUNT, LATENT_DIM), _split().labels, CLASSIFIER, report
    ),
    "conditional GAN on images": _translation,
}


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_needs_nothing_but_its_device(case: str, monkeypatch) -> None:
    taken: list[Tensor] = []
    batches = loops.batches

    def counted(count: int, size: int, device: torch.device) -> Iterator[Tensor]:
        assert device.type == "meta"
        for index in batches(count, size, device):
            yield index
            taken.append(index)  # its step is done

    for module in (autoencoders, classifiers, gans, loops, translation):
        for name, stand_in in (("batches", counted), ("autocast", lambda *_: nullcontext())):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)
    for kind in (torch.optim.Adam, torch.optim.AdamW):  # their fused form knows no such device
        plain = lambda of, kind=kind, **options: kind(of, **(options | {"fused": None}))  # noqa: E731
        monkeypatch.setattr(torch.optim, kind.__name__, plain)
    reported: list[int] = []
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        CASES[case](lambda epoch, _: reported.append(epoch))
    assert not reported, "there are no numbers"
    assert len(taken) >= STEPS, "numbers are read back before the epoch's end"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch sees")
@pytest.mark.parametrize("case", GRAPHS)
def test_on_a_gpu_a_graph_gives_the_numbers_of_single_steps(case: str, monkeypatch) -> None:
    def found() -> dict[int, object]:
        torch.manual_seed(1)
        reported: dict[int, object] = {}
        with torch.device("cuda"):
            GRAPHS[case](reported.__setitem__)
        return reported

    graphs = found()
    assert len(graphs) == EPOCHS
    monkeypatch.setattr(loops, "_Captured", lambda gradients: gradients)
    assert found() == graphs
