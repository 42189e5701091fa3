"""Weights read straight from an archive, held against what torch.export itself reads."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import LatentGenerator
from tracking.archive import LIST, read_weights


class Odd(nn.Module):
    """Weights of every kind that our modules could have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).view(3, 2))
        self.brief = nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
        self.register_buffer("counts", torch.tensor([[3, -4]]))
        self.register_buffer("scalar", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("flags", torch.tensor([True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.brief.float().sum() + self.counts.sum() + self.scalar.float()


MODULES = {
    "judge": (lambda: Judge("conv", image_shape=[3, 28, 28], classes=4), (2, 3, 28, 28)),
    "autoencoder": (lambda: Autoencoder(latent_dim=4, architecture="conv+fc", image_shape=[3, 32, 32]), (2, 3, 32, 32)),
    "generator": (
        lambda: LatentGenerator(5, 4, architecture="conv", image_shape=[1, 28, 28], width=8, depth=2),
        (2, 5),
    ),
    "odd": (Odd, (2, 3)),
}


def saved(module: nn.Module, shape: tuple[int, ...], file: Path) -> Path:
    plain = module.eval().to(memory_format=torch.contiguous_format)
    torch.export.save(torch.export.export(plain, (torch.rand(shape),)), file)
    return file


@pytest.mark.parametrize("name", MODULES)
def test_all_weights_are_those_that_torch_export_reads(name: str, tmp_path: Path) -> None:
    build, shape = MODULES[name]
    file = saved(build(), shape, tmp_path / "model.pt2")
    expected = torch.export.load(file).state_dict
    found = read_weights(file)
    assert found is not None
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def changed(file: Path, **names: object) -> Path:
    """The archive with these entries of its list of weights changed, in the first weight."""
    other = file.with_name("other.pt2")
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(other, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith(LIST):
                listed = json.loads(content)
                next(iter(listed["config"].values())).update(names)
                content = json.dumps(listed).encode()
            after.writestr(name, content)
    return other


def test_what_is_not_read_here_is_left_to_torch_export(tmp_path: Path) -> None:
    file = saved(Odd(), (2, 3), tmp_path / "model.pt2")
    assert read_weights(changed(file)) is not None
    assert read_weights(changed(file, use_pickle=True)) is None
    assert read_weights(changed(file, path_name="missing")) is None
    assert read_weights(changed(file, tensor_meta={"dtype": 99, "sizes": [], "strides": []})) is None
    (tmp_path / "text.pt2").write_text("no archive")
    assert read_weights(tmp_path / "text.pt2") is None
    with zipfile.ZipFile(empty := io.BytesIO(), "w"):
        pass
    (tmp_path / "empty.pt2").write_bytes(empty.getvalue())
    assert read_weights(tmp_path / "empty.pt2") is None
