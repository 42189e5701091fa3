"""Training steps as CUDA graphs: on a GPU the same numbers as step by step."""

from dataclasses import replace

import pytest
import torch

from models.autoencoder import Autoencoder
from models.gan import Critic, Generator
from study.measures.latents import two_sample_accuracy
from study.training import autoencoder as autoencoders
from study.training import gan as gans
from study.training import loops

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch sees")
COUNT, LATENT_DIM = 640, 5


def _gan(settings: gans.GanSettings) -> dict[int, object]:
    torch.manual_seed(1)
    latents, found = torch.randn(COUNT, LATENT_DIM, device="cuda"), {}
    generator = Generator(settings.noise_dim, LATENT_DIM, settings.width, settings.depth).cuda()
    critic = Critic(LATENT_DIM, settings.width).cuda()
    none = latents[:, :0]
    gans.train_gan(generator, critic, latents, none, settings, epochs=3, report=found.__setitem__)
    return {**found, 0: float(sum(weights.detach().abs().sum() for weights in generator.parameters()))}


def _autoencoder() -> dict[int, object]:
    torch.manual_seed(1)
    images, found = torch.randint(256, (COUNT, 1, 16, 16), dtype=torch.uint8, device="cuda"), {}
    model = Autoencoder(latent_dim=LATENT_DIM, architecture="conv+fc", image_shape=[1, 16, 16]).cuda()
    settings = loops.Schedule(3, 64, 1e-3)
    autoencoders.train_autoencoder(model, images, images[:100], settings, found.__setitem__)
    return found


def _two_samples() -> float:
    torch.manual_seed(1)
    points = torch.randn(2 * COUNT, LATENT_DIM, device="cuda")
    return two_sample_accuracy(points[:COUNT], points[COUNT:] + 0.5)


CASES = {
    "n_critic 5": lambda: _gan(gans.PAPER),
    "averaged, falling rate": lambda: _gan(replace(gans.REFERENCE, n_critic=1, depth=3, ema_decay=0.99, lr_decay=True)),
    "vanilla": lambda: _gan(replace(gans.VANILLA, batch_size=64)),
    "autoencoder": _autoencoder,
    "two samples": _two_samples,
}


@GPU
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_a_graph_gives_the_numbers_of_single_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CASES[case]()

    monkeypatch.setattr(loops, "_Captured", lambda gradients: gradients)
    assert found == CASES[case]()
