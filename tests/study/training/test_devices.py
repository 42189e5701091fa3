"""Training loops on a device without numbers, PyTorch's `meta`: nothing is mixed with the processor's memory, and
nothing is read back before an epoch's end, where a GPU would have to wait for it.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

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

META = torch.device("meta")
STEPS, CLASSES, LATENT_DIM, SHAPE = 4, 3, 5, (1, 16, 16)
BATCH_SIZE = 16
COUNT = STEPS * BATCH_SIZE
PLAIN = {"fused": None}
CLASSIFIER = classifiers.ClassifierSettings(epochs=1, batch_size=BATCH_SIZE, learning_rate=1e-3)


def _report(epoch: int, metrics: object) -> None:
    raise AssertionError("metrics of numbers that are not there")


def _split() -> Split:
    return Split(torch.zeros(COUNT, *SHAPE, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.long))


def _judge() -> nn.Module:
    return Judge("conv", image_shape=SHAPE, classes=CLASSES, width=2)


def _autoencoder() -> None:
    settings = loops.Schedule(1, BATCH_SIZE, 1e-3)
    model, images = Autoencoder(LATENT_DIM, "conv+fc", SHAPE, channels=(2, 4)), _split().images
    autoencoders.train_autoencoder(model, images, images, settings, _report)


def _gan(settings: gans.GanSettings) -> None:
    generator = Generator(settings.noise_dim + CLASSES, LATENT_DIM, settings.width, settings.depth)
    critic = Critic(LATENT_DIM + CLASSES, settings.width, norm=settings.critic_norm)
    latents, conditions = torch.zeros(COUNT, LATENT_DIM), torch.zeros(COUNT, CLASSES)
    settings = replace(settings, batch_size=BATCH_SIZE, n_critic=2)
    gans.train_gan(generator, critic, latents, conditions, settings, epochs=1, report=_report)


def _head() -> None:
    head, labels = nn.Linear(LATENT_DIM, CLASSES), torch.zeros(COUNT, dtype=torch.long)
    copies = torch.zeros(2, COUNT, LATENT_DIM)
    classifiers.train_head(head, copies, labels, CLASSIFIER, _report)


def _translation(method: translation.Method) -> None:
    count = STEPS * translation.BATCH_SIZE
    images = torch.zeros(count, *SHAPE, dtype=torch.uint8)
    pairs = translation.Pairs(images, images, "paired")
    translation.train_translator(Translator(SHAPE), pairs, method, epochs=1, images=count, report=_report)


CASES: dict[str, Callable[[], object]] = {
    "autoencoder": _autoencoder,
    "WGAN": lambda: _gan(replace(gans.REFERENCE, ema_decay=0.99)),
    "vanilla GAN": lambda: _gan(replace(gans.VANILLA, critic_norm=True)),
    "judge": lambda: classifiers.train_judge(_judge(), _split(), _split(), CLASSIFIER, _report, augment=nn.Identity()),
    "few labels": lambda: classifiers.train_classifier(_judge(), _split(), CLASSIFIER, _report),
    "head": _head,
    "conditional GAN on images": lambda: _translation(translation.CONDITIONAL_GAN),
}


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_needs_nothing_but_its_device(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
        monkeypatch.setattr(torch.optim, kind.__name__, lambda of, kind=kind, **options: kind(of, **(options | PLAIN)))
    with META, pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        CASES[case]()
    assert len(taken) >= STEPS, "numbers are read back before the epoch's end"
