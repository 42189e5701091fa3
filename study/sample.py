"""`python -m study.sample`: images from a registered generator, loaded by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from study.cli import exit_code
from study.config import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tracking.registry import Version


@dataclass(frozen=True)
class SampleConfig:
    """Draw images from a registered generator: the latent GANs' champion, with a digit the conditional ones'.

    The ending of --out says what is written: .png a grid, .npz the arrays `images` (uint8 [N, 28, 28]), `inputs` and,
    of a conditional generator, `labels`; a name without ending is a folder of single PNG files.
    """

    digit: int | None = None
    """Digit to draw, 0 to 9; None: any, which are all ten in turn from a conditional generator."""
    interpolate: tuple[int, int] | None = None
    """Two digits: from one to the other in steps. A row keeps its noise, and so its style, while the label goes in a
    straight line from the first digit's one-hot vector to the second's."""
    count: int = 64
    """How many images."""
    strip: bool = False
    """All of them in one row, and an interpolation in as many steps; else they make a square."""
    out: Path = Path("samples.png")
    """File or folder to write."""
    model: str | None = None
    """Registered name, mnist-conditional-gan say; None: the one that fits --data and the digits."""
    version: int | None = None
    """Its version; None: the champion."""
    data: Literal["mnist", "fashion-mnist", "kmnist", "digits"] = "mnist"
    """Data set that the generator was trained on."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        for digit in (self.digit, *(self.interpolate or ())):
            if digit is not None and not 0 <= digit <= 9:
                raise ValueError(f"`0 <= digit <= 9` must hold, but got {digit}")
        if self.digit is not None and self.interpolate is not None:
            raise ValueError("only one of `digit` and `interpolate` can be given")
        if self.model is not None and not re.fullmatch(r"[\w.-]+", self.model):
            raise ValueError(
                f"--model must be a registered name, of letters, digits, '-', '_', '.', but got {self.model}"
            )
        if not 1 <= self.count <= 10_000:
            raise ValueError(f"`1 <= count <= 10000` must hold, but got {self.count}")
        if self.out.suffix.lower() not in (".png", ".npz", ""):
            raise ValueError(f"`out` must end in .png or .npz, or be a folder's name, but got {self.out}")

    @property
    def columns(self) -> int:
        """Images in a row."""
        return self.count if self.strip else ceil(sqrt(self.count))

    @property
    def told(self) -> bool:
        """Whether the generator is told what to draw."""
        return self.digit is not None or self.interpolate is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    config = tyro.cli(SampleConfig, args=list(arguments), prog="python -m study.sample")
    if not config.out.parent.is_dir():
        raise UsageError(f"the folder of --out must exist, but got {config.out}")
    if not config.out.suffix and config.out.exists() and (config.out.is_file() or any(config.out.iterdir())):
        raise UsageError(f"the folder --out must be new or empty, but got {config.out}")
    from tracking.store import open_existing_store

    open_existing_store(config.store, config.tracking_uri)

    import torch

    from study.data import to_pixels
    from study.stage import model_name
    from study.training import apply
    from tracking import registry

    name = config.model or model_name(config.data, "conditional-gan" if config.told else "latent-gan")
    version = registry.require_version(name, config.version)
    inputs, labels = _inputs(config, version)
    with torch.no_grad():
        images = to_pixels(apply(version.load(), inputs))
    _write(config, images, inputs.numpy(), None if labels is None else labels.numpy())
    print(f"{config.out}: {config.count} images from {version.uri}")


def _inputs(config: SampleConfig, version: Version) -> tuple[Tensor, Tensor | None]:
    """What the generator is given, [N, noise_dim (+ 10)], and the labels in it, [N] or [N, 10]; None: it takes none.

    Raises:
        UsageError: The model is no generator, or not one that can be told a digit.
    """
    import torch
    from torch.nn.functional import one_hot

    from models.gan import CLASSES
    from study.sampling import balanced_labels, noise

    stored, device = version.config(), torch.device("cpu")
    if "noise_dim" not in stored.get("settings", {}):
        raise UsageError(f"--model must be a generator, but got {version.uri}, which takes images")
    noise_dim = stored["settings"]["noise_dim"]
    vectors = noise(config.count, noise_dim, config.seed, device)
    if stored["module"]["input_dim"] == noise_dim:
        if config.told:
            raise UsageError(f"a digit can be asked of a conditional generator only, but got {version.uri}")
        return vectors, None
    if config.interpolate is None:
        digits = balanced_labels(config.count, device)
        labels = digits if config.digit is None else torch.full_like(digits, config.digit)
        return torch.cat([vectors, one_hot(labels, CLASSES)], 1), labels
    place = torch.arange(config.count)
    along = ((place % config.columns) / max(config.columns - 1, 1))[:, None]
    start, end = one_hot(torch.tensor(config.interpolate), CLASSES).float()
    labels = torch.lerp(start, end, along)  # [N, 10]
    return torch.cat([vectors[place // config.columns], labels], 1), labels


def _write(config: SampleConfig, images: np.ndarray, inputs: np.ndarray, labels: np.ndarray | None) -> None:
    import numpy as np
    from PIL import Image

    from tracking import figures

    if config.out.suffix.lower() == ".png":
        Image.fromarray(figures.grid(images, config.columns)).save(config.out)
    elif config.out.suffix:
        arrays = {"images": images, "inputs": inputs} | ({} if labels is None else {"labels": labels})
        np.savez_compressed(config.out, **arrays)  # type: ignore[arg-type]
    else:
        config.out.mkdir(exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(config.out / f"{number:04}.png")


if __name__ == "__main__":
    sys.exit(main())
