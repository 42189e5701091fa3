import numpy as np
import torch
from torch import nn

from models.gan import KNOTS, ToneCurve
from study.data.dataset import Dataset, to_float
from study.training.autoencoder import fit_tone_curve, match_histograms


def test_a_known_curve_is_found_again() -> None:
    """Pixels that were made greyer by x -> 0.25 + x / 2: the curve that undoes it is clip(2 x - 0.5)."""
    greys = torch.full((256,), 100.0, dtype=torch.float64)
    values = 0.25 + torch.arange(256).repeat_interleave(100) / 255 / 2
    levels = match_histograms(torch.histc(values, KNOTS - 1, 0, 1).double(), greys)
    expected = (2 * torch.linspace(0, 1, KNOTS) - 0.5).clamp(0, 1)
    torch.testing.assert_close(levels, expected, atol=0.02, rtol=0)


class Greyer(nn.Module):
    """What stands in for an autoencoder whose reconstructions are too grey."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.25 + images / 2


def test_after_the_curve_the_quantiles_are_those_of_the_images(tiny: Dataset) -> None:
    model, curve = Greyer(), ToneCurve()
    curve.levels.copy_(fit_tone_curve(model, tiny.train.images))
    assert bool((curve.levels.diff() >= 0).all())
    images = to_float(tiny.train.images)
    shares = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(
        np.quantile(curve(model(images)).numpy(), shares), np.quantile(images.numpy(), shares), atol=0.02
    )
