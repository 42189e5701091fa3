"""`python -m study.predict`: what a registered model makes of a file of images or vectors."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from study.checks import UsageError, check_file, expanded, replacing, writing
from study.cli import exit_code, parse, words
from study.registered import Part, module_of, registered

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ENDINGS = (".csv", ".npz")


@dataclass(frozen=True)
class PredictConfig:
    """Write what a registered model makes of a file: a class of each image, a translation, latents, an image of each
    noise vector.

    The ending of --out says what is written: .npz the array `outputs` as the model gives them, [N, ...], also as uint8
    `images` where they are images, and of a classifier `labels` and `class_names`; .csv the outputs of an input a line,
    of a classifier the class first. An existing file is replaced.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Registered model: NAME, which is its champion, NAME@ALIAS or NAME/NUMBER; mnist-judge say."""
    inputs: Path
    """For a model of images, of its own size: a picture, an .npz file with the array `images`, uint8 [N, H, W] or
    [N, H, W, 3], or a .csv file with the pixels of an image a line, 0 to 255. For a model of vectors: an .npz file with
    the array `inputs` [N, width], as study.sample writes it, or a .csv file with a vector a line."""
    out: Path
    """File to write, whose name ends in .csv or .npz."""
    part: Part | None = None
    """Only this part of an autoencoder: from images to latents, or from latents to images."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""

    def __post_init__(self) -> None:
        if self.out.suffix.lower() not in ENDINGS:
            raise ValueError(f"`out` must end in {' or '.join(ENDINGS)}, but got {self.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(words(arguments)))


def _run(arguments: Sequence[str]) -> None:
    config = parse(PredictConfig, arguments, "predict")
    out = expanded(config.out, "--out")
    check_file(out, "--out", inputs=expanded(config.inputs, "--inputs"))
    version = registered(config.model, config.store, config.tracking_uri)

    import torch

    from study.training.loops import apply

    module, example = module_of(version, config.part)
    inputs = _given(expanded(config.inputs, "--inputs"), example)
    with torch.no_grad():
        outputs = apply(module, inputs)
    arrays = _arrays(outputs, version.metadata.get("classes") or ())
    with writing(out, "--out"), replacing(out) as new:
        _write(new, arrays)
    print(f"{out}: {len(outputs)} outputs of {version.uri}")


def _given(path: Path, example: Tensor) -> Tensor:
    """The file's inputs in the form of the example's: images uint8 [N, C, S, S], or vectors [N, width].

    Raises:
        UsageError: The file does not fit the model.
    """
    from study.data import DataError
    from study.data.given import given_images, given_vectors

    try:
        if example.ndim == 4:
            return given_images(path, example.shape[-1], example.shape[1] == 3)
        return given_vectors(path, example.shape[-1])
    except DataError as error:
        raise UsageError(f"--inputs: {error}") from error


def _arrays(outputs: Tensor, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """What is written, by name: the outputs first."""
    import numpy as np

    from study.data import to_pixels

    arrays = {"outputs": outputs.numpy()}
    if outputs.ndim == 4:
        arrays["images"] = to_pixels(outputs)
    elif classes and outputs.shape[1:] == (len(classes),):
        arrays |= {"labels": outputs.argmax(1).numpy(), "class_names": np.array(list(classes))}
    return arrays


def _write(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    if out.suffix.lower() == ".npz":
        with out.open("wb") as archive:  # NumPy adds an ending of its own to a name
            np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]
        return
    rows = arrays["outputs"].reshape(len(arrays["outputs"]), -1).tolist()
    names = [f"output{number}" for number in range(len(rows[0]))]
    if "labels" in arrays:
        classes = arrays["class_names"].tolist()
        names = ["class", *classes]
        rows = [[classes[label], *row] for label, row in zip(arrays["labels"], rows, strict=True)]
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


if __name__ == "__main__":
    sys.exit(main())
