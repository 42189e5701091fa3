"""`python -m study.sample`: images from a registered generator, or translated by a registered translator, by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from study.checks import UsageError, at_least, check_file, check_folder, expanded, replacing, writing
from study.cli import exit_code, parse, words
from study.engine.stage import model_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from tracking.stored import Stored

MOST = 10_000  # images
MOST_NAMED = 30  # classes that a message lists


@dataclass(frozen=True)
class SampleConfig:
    """Draw images from a registered generator: the latent GANs' champion, with a label the conditional ones'. With
    --images, translate those of a file.

    The ending of --out says what is written: .png a grid, .npz the arrays `images` (uint8 [N, H, W], in colour
    [N, H, W, 3]), `inputs` (noise, or the given images) and, of a conditional generator, `labels`; a name without
    ending is a folder of single PNG files.
    """

    label: str | None = None
    """Class to draw, by its name or else its number from 0; None: any, which are all in turn from a conditional
    generator."""
    digit: int | None = None
    """The same for handwritten digits, 0 to 9."""
    interpolate: tuple[str, str] | None = None
    """Two classes: from one to the other in steps. A row keeps its noise, and so its style, while the label goes in a
    straight line from the first class's one-hot vector to the second's."""
    images: Path | None = None
    """Images to translate, of the translator's own size: a picture, an .npz file with the array `images`, uint8
    [N, H, W] or [N, H, W, 3], or a .csv file with the pixels of an image a line, 0 to 255."""
    count: int = 64
    """How many images; all that are given, with --images."""
    strip: bool = False
    """All of them in one row, and an interpolation in as many steps; else they make a square."""
    out: Path = Path("samples.png")
    """File or folder to write."""
    model: str | None = None
    """Registered name, mnist-conditional-gan say; None: the one that fits --data and the label."""
    version: int | None = None
    """Its version; None: the champion."""
    data: str = "mnist"
    """Data set that the generator was trained on, by name or by the path that the study was given."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if self.digit is not None and not 0 <= self.digit <= 9:
            raise ValueError(f"`0 <= digit <= 9` must hold, but got {self.digit}")
        at_least(0, seed=self.seed)
        if self.version is not None and not 1 <= self.version < 2**31:
            raise ValueError(f"`1 <= version < {2**31}` must hold, but got {self.version}")
        asked = {"label": self.label, "digit": self.digit, "interpolate": self.interpolate, "images": self.images}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"only one of `{given[0]}` and `{given[1]}` can be given")
        if self.model is not None and not re.fullmatch(r"[\w.-]+", self.model):
            raise ValueError(
                f"--model must be a registered name, of letters, digits, '-', '_', '.', but got {self.model}"
            )
        if not 1 <= self.count <= MOST:
            raise ValueError(f"`1 <= count <= {MOST}` must hold, but got {self.count}")
        if self.out.suffix.lower() not in (".png", ".npz", ""):
            raise ValueError(f"`out` must end in .png or .npz, or be a folder's name, but got {self.out}")

    @property
    def columns(self) -> int:
        """Images in a row."""
        return self.count if self.strip else ceil(sqrt(self.count))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are asked for: none, one, or the two ends of an interpolation."""
        if self.interpolate is not None:
            return self.interpolate
        one = self.label if self.digit is None else str(self.digit)
        return () if one is None else (one,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(words(arguments)))


def _run(arguments: Sequence[str]) -> None:
    config = parse(SampleConfig, arguments, "sample")
    out = expanded(config.out, "--out")
    _check_out(out, None if config.images is None else expanded(config.images, "--images"))

    import torch

    from models.gan import LatentGenerator
    from models.translation import Translator
    from study.data import to_pixels
    from study.training.loops import apply

    version = _version(config)
    if config.images:
        inputs, labels = _given(config.images, version), None
        config = replace(config, count=len(inputs))
    else:
        inputs, labels = _inputs(config, version)
    module = _module(version, Translator if config.images else LatentGenerator)
    with torch.no_grad():
        images = to_pixels(apply(module, inputs))
    with writing(out, "--out"):
        _write(config, out, images, {"inputs": inputs} | ({} if labels is None else {"labels": labels}))
    print(f"{out}: {config.count} images from {version.uri}")


def _version(config: SampleConfig) -> Stored:
    """The model that is asked for, or that fits the data and the label.

    Raises:
        StoreError: There is none.
    """
    from study.data import DataError, data_name
    from tracking.local import find_version

    kind = "translator" if config.images else "conditional-gan" if config.classes else "latent-gan"
    try:
        name = config.model or model_name(data_name(config.data), kind)
    except DataError as error:
        raise UsageError(str(error)) from error
    folder = expanded(config.store, "--store")
    found = None if config.tracking_uri else find_version(folder, name, config.version)
    if found is not None:
        return found

    from tracking.environment import check_environment
    from tracking.store import read_store

    check_environment()
    read_store(folder, config.tracking_uri)

    from tracking import registry

    return registry.require_version(name, config.version)


def _module(version: Stored, factory: type[nn.Module]) -> nn.Module:
    """The model itself; one that was not built so, by a stage of somebody else's, as it was exported."""
    try:
        return version.rebuild(factory)
    except (KeyError, TypeError, RuntimeError):  # built from other settings, or with other weights
        return version.load()


def _check_out(out: Path, images: Path | None) -> None:
    """Check that the images can be written before they are drawn.

    Raises:
        UsageError: They cannot.
    """
    with writing(out, "--out"):
        if not out.parent.is_dir():
            raise UsageError(f"the folder of --out must exist, but got {out}")
        if not out.suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"the folder --out must be new or empty, but got {out}")
    if out.suffix:
        check_file(out, "--out", images=images)
    else:
        check_folder(out, "--out")


def _given(path: Path, version: Stored) -> Tensor:
    """The images of a file, uint8 [N, C, S, S], that the translator is to translate.

    Raises:
        UsageError: The model is no translator, or the file does not fit it.
    """
    from study.data import DataError
    from study.data.given import given_images

    stored = version.config()
    if "translation" not in stored:
        raise UsageError(f"--images can be given to a translator only, but got {version.uri}")
    channels, side, _ = stored["module"]["image_shape"]
    try:
        images = given_images(expanded(path, "--images"), side, channels == 3)
    except DataError as error:
        raise UsageError(str(error)) from error
    if len(images) > MOST:
        raise UsageError(f"--images must be at most {MOST}, but {path} has {len(images)}")
    return images


def _inputs(config: SampleConfig, version: Stored) -> tuple[Tensor, Tensor | None]:
    """What the generator is given, [N, noise_dim (+ classes)], and the labels in it, [N] or [N, classes]; None: none.

    Raises:
        UsageError: The model is no generator, or not one that can be given a label, or has no such class.
    """
    import torch
    from torch.nn.functional import one_hot

    from models.gan import with_labels
    from study.training.sampling import balanced_labels, noise

    stored, device = version.config(), torch.device("cpu")
    if "noise_dim" not in stored.get("settings", {}):
        how = ": give it some with --images" if "translation" in stored else ""
        raise UsageError(f"--model must be a generator, but got {version.uri}, which takes images{how}")
    noise_dim = stored["settings"]["noise_dim"]
    classes = stored["module"]["input_dim"] - noise_dim
    vectors = noise(config.count, noise_dim, config.seed, device)
    if not classes:
        if config.classes:
            raise UsageError(f"a label can be asked of a conditional generator only, but got {version.uri}")
        return vectors, None
    wanted = [class_number(name, version.metadata["classes"]) for name in config.classes]
    if len(wanted) < 2:
        labels = balanced_labels(config.count, classes, device)
        labels = torch.full_like(labels, wanted[0]) if wanted else labels
        return with_labels(vectors, labels, classes), labels
    place = torch.arange(config.count)
    along = ((place % config.columns) / max(config.columns - 1, 1))[:, None]
    start, end = one_hot(torch.tensor(wanted), classes).float()
    labels = torch.lerp(start, end, along)  # [N, classes]
    return torch.cat([vectors[place // config.columns], labels], 1), labels


def class_number(name: str, classes: Sequence[str]) -> int:
    """The number of the class of this name, or of this number where no class has it as its name.

    Raises:
        UsageError: There is none.
    """
    if name in classes:
        return list(classes).index(name)
    if name.isdecimal() and len(name) <= len(str(len(classes))) and int(name) < len(classes):
        return int(name)
    known = ", ".join(classes[:MOST_NAMED]) + (", ..." if len(classes) > MOST_NAMED else "")
    raise UsageError(f"the label must be one of {known} or a number from 0 to {len(classes) - 1}, but got {name!r}")


def _write(config: SampleConfig, out: Path, images: np.ndarray, arrays: dict[str, Tensor]) -> None:
    import numpy as np
    from PIL import Image

    from study.plots import grid

    if out.suffix:
        with replacing(out) as new:
            if out.suffix.lower() == ".png":
                Image.fromarray(grid(images, config.columns)).save(new)
                return
            plain = {name: values.numpy() for name, values in arrays.items()}
            with new.open("wb") as archive:  # NumPy adds an ending of its own to a name
                np.savez_compressed(archive, images=images, **plain)  # type: ignore[arg-type]
    else:
        made, files = not out.exists(), [out / f"{number:04}.png" for number in range(len(images))]
        out.mkdir(exist_ok=True)
        try:
            for file, image in zip(files, images, strict=True):
                Image.fromarray(image).save(file)
        except BaseException:  # stopped half way: what is there would be in the way of the same command
            for file in files:
                file.unlink(missing_ok=True)
            if made:
                out.rmdir()
            raise


if __name__ == "__main__":
    sys.exit(main())
