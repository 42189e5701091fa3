"""Translators and discriminators: shapes, what a patch's score sees, and what they refuse."""

import pytest
import torch
from torch import nn

from models.translation import PatchDiscriminator, Translator


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_images_become_images_of_the_same_shape_and_a_score_for_each_patch(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    translator, images = Translator(shape), torch.rand(3, *shape)
    made = translator(images)
    assert (made.shape, 0 <= made.min() < made.max() <= 1) == (images.shape, True)
    alone = torch.cat([translator(image[None]) for image in images])
    torch.testing.assert_close(made, alone, atol=1e-5, rtol=0)
    assert PatchDiscriminator(shape[0])(images).shape == (3, 1, shape[1] // 4, shape[1] // 4)


def test_a_score_sees_a_patch_of_18_pixels() -> None:
    image = torch.rand(1, 1, 64, 64, requires_grad=True)
    # Without the normalisation, whose statistics are of the whole image.
    layers = [layer for layer in PatchDiscriminator(1) if not isinstance(layer, nn.InstanceNorm2d)]
    (gradient,) = torch.autograd.grad(nn.Sequential(*layers)(image)[0, 0, 8, 8], image)
    seen = gradient[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0)).tolist() == [17, 17]
