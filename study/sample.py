"""`python -m study.sample`: images from a registered generator, loaded by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Literal

import tyro

from study.cli import exit_code
from study.config import UsageError


@dataclass(frozen=True)
class SampleConfig:
    """Draw images from the champion of the latent GANs; with --digit, of the conditional ones."""

    digit: int | None = None
    """Digit to draw, 0 to 9; None: any, from the unconditional generator."""
    count: int = 64
    """How many images."""
    out: Path = Path("samples.png")
    """PNG file to write, the images as a grid."""
    data: Literal["mnist", "fashion-mnist", "kmnist", "digits"] = "mnist"
    """Data set that the generator was trained on."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if self.digit is not None and not 0 <= self.digit <= 9:
            raise ValueError(f"`0 <= digit <= 9` must hold, but got {self.digit}")
        if not 1 <= self.count <= 10_000:
            raise ValueError(f"`1 <= count <= 10000` must hold, but got {self.count}")
        if self.out.suffix.lower() != ".png":
            raise ValueError(f"`out` must end in .png, but got {self.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    config = tyro.cli(SampleConfig, args=list(arguments), prog="python -m study.sample")
    if not config.out.parent.is_dir():
        raise UsageError(f"the folder of --out must exist, but got {config.out}")
    from tracking.store import open_existing_store

    open_existing_store(config.store, config.tracking_uri)

    import torch
    from PIL import Image

    from models.gan import with_labels
    from study.data import to_pixels
    from study.sampling import noise
    from study.stage import model_name
    from study.training import apply
    from tracking import figures
    from tracking.registry import require_champion

    version = require_champion(model_name(config.data, "latent-gan" if config.digit is None else "conditional-gan"))
    inputs = noise(config.count, version.config()["settings"]["noise_dim"], config.seed, torch.device("cpu"))
    if config.digit is not None:
        inputs = with_labels(inputs, torch.full((config.count,), config.digit))
    with torch.no_grad():
        images = to_pixels(apply(version.load(), inputs))
    Image.fromarray(figures.grid(images, ceil(sqrt(config.count)))).save(config.out)
    print(f"{config.out}: {config.count} images from {version.uri}")


if __name__ == "__main__":
    sys.exit(main())
