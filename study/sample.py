"""`python -m study.sample`: images from a registered generator, by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from study.api import registered
from study.checks import UsageError, at_least, at_most, check_file, check_folder, expanded, replacing, writing
from study.cli import StoreConfig, command

if TYPE_CHECKING:
    from tracking.models import Stored


@dataclass(frozen=True)
class SampleConfig(StoreConfig):
    """Draw images from a registered generator: the latent GANs' champion, with a label the conditional GANs'.

    The ending of --out says what is written: .png a grid, .npz the arrays `images` (uint8 [N, H, W], in colour
    [N, H, W, 3]), `inputs` and, of a conditional generator, `labels`; no ending a new folder of single PNG files.
    """

    label: str | None = None
    """Class to draw, by its name or else its number from 0; None: any, all in turn from a conditional generator."""
    interpolate: tuple[str, str] | None = None
    """Two classes: from one to the other in steps. A row keeps its noise, and so its style, while the label goes in a
    straight line from the first class's one-hot vector to the second's."""
    count: int = 64
    """Number of images."""
    strip: bool = False
    """All images in one row, and an interpolation in as many steps; else they make a square."""
    out: Path = Path("samples.png")
    """File or folder to write."""
    model: str | None = None
    """NAME (its champion), NAME@ALIAS or NAME/NUMBER; None: the champion that fits --data and the label."""
    data: str = "mnist"
    """Data set that the generator was trained on, by name or by the path that the study was given."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        at_least(0, seed=self.seed)
        at_least(1, count=self.count)
        at_most(10_000, count=self.count)
        if self.label is not None and self.interpolate is not None:
            raise ValueError("only one of `label` and `interpolate` can be given")
        if self.out.suffix.lower() not in (".png", ".npz", ""):
            raise ValueError(f"`out` must end in .png or .npz, or be a folder's name, but got {self.out}")


def run(config: SampleConfig) -> None:
    """Write the images that the settings ask for."""
    out = expanded(config.out, "--out")
    (check_file if out.suffix else check_folder)(out, "--out")
    if not out.suffix and out.exists() and any(out.iterdir()):
        raise UsageError(f"the folder --out must be new or empty, but got {out}")
    import torch

    from study.data import data_name, to_pixels
    from study.training.loops import apply

    classes = config.interpolate or (() if config.label is None else (config.label,))
    name = config.model or f"{data_name(config.data)}-{'conditional' if classes else 'latent'}-gan"
    version = registered(name, config.store, config.tracking_uri)
    columns = config.count if config.strip else ceil(sqrt(config.count))
    arrays = _inputs(version, config.count, columns, config.seed, classes)
    with torch.no_grad():
        images = to_pixels(apply(version.load(), arrays["inputs"]))
    with writing(out, "--out"):
        _write(out, {"images": images, **{name: values.numpy() for name, values in arrays.items()}}, columns)
    print(f"{out}: {config.count} images from {version.uri}")


def _inputs(version: Stored, count: int, columns: int, seed: int, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the generator's `inputs` [N, noise_dim (+ classes)], and `labels` [N] or [N, classes] if it takes any.

    Raises:
        UsageError: The model is no generator, or takes no labels, or has no such class.
    """
    import torch
    from torch.nn.functional import one_hot

    from study.training.sampling import noise

    config = version.config()
    if "noise_dim" not in config.get("settings", {}):
        raise UsageError(f"--model must be a generator, but got {version.uri}: study.predict gives it inputs")
    noise_dim = config["settings"]["noise_dim"]
    classes = config["module"]["input_dim"] - noise_dim
    vectors = noise(count, noise_dim, seed, torch.device("cpu"))
    if not classes:
        if wanted:
            raise UsageError(f"a label can be asked of a conditional generator only, but got {version.uri}")
        return {"inputs": vectors}
    numbers = [class_number(name, version.metadata["classes"]) for name in wanted]
    if len(numbers) < 2:
        labels = torch.full((count,), numbers[0]) if numbers else torch.arange(count) % classes
        return {"inputs": torch.cat([vectors, one_hot(labels, classes)], 1), "labels": labels}
    place = torch.arange(count)
    start, end = one_hot(torch.tensor(numbers), classes).float()
    labels = torch.lerp(start, end, ((place % columns) / max(columns - 1, 1))[:, None])  # [N, classes]
    return {"inputs": torch.cat([vectors[place // columns], labels], 1), "labels": labels}


def class_number(name: str, classes: Sequence[str]) -> int:
    """Return the number of the class of this name, else of this number; UsageError: there is none."""
    known = [*classes, *map(str, range(len(classes)))]
    if name in known:
        return known.index(name) % len(classes)
    names = shorten(", ".join(classes), 200, placeholder=" ...")
    raise UsageError(f"the label must be one of {names} or a number from 0 to {len(classes) - 1}, but got {name!r}")


def _write(out: Path, arrays: Mapping[str, Any], columns: int) -> None:
    from PIL import Image

    if out.suffix:
        with replacing(out) as new, new.open("wb") as file:
            if out.suffix.lower() == ".png":
                Image.fromarray(_sheet(arrays["images"], columns)).save(file, "png")
            else:
                np.savez_compressed(file, **arrays)
        return
    with TemporaryDirectory(prefix=".study-", dir=out.parent) as folder:  # a command that is stopped leaves nothing
        new = Path(folder, "images")
        new.mkdir()
        for number, image in enumerate(arrays["images"]):
            Image.fromarray(image).save(new / f"{number:04}.png")
        os.replace(new, out)


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Put images side by side, row by row, into one, enlarged; without Matplotlib, whose import takes long."""
    count, height, width, *colour = images.shape
    rows, gap, zoom = -(-count // columns), 2, 2
    pitch = (height + gap, width + gap)
    cells = np.full((rows * columns, *pitch, *colour), 128, np.uint8)
    cells[:count, :height, :width] = images
    sheet = cells.reshape(rows, columns, *pitch, *colour).swapaxes(1, 2).reshape(rows * pitch[0], -1, *colour)
    return sheet[:-gap, :-gap].repeat(zoom, 0).repeat(zoom, 1)


main = command(SampleConfig, "sample", run)

if __name__ == "__main__":
    sys.exit(main())
