"""`python -m study.predict`: the outputs of a registered model for images or vectors."""

from __future__ import annotations

import csv
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from study.api import module_of, registered
from study.checks import UsageError, check_file, expanded, replacing, writing
from study.cli import ModelConfig, command

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PredictConfig(ModelConfig):
    """Write the outputs of a registered model: a class of each image, translations, latents, an image of each noise.

    The ending of --out says what is written: .csv a line per input, its file in a folder and its class first, if any;
    .npz the arrays `outputs` [N, ...], `images` (uint8), `labels` and `class_names`, `files`, as far as there are any.
    """

    inputs: Path
    """For a model of images: a picture, a folder of pictures, an .npz file with the array `images`, uint8 [N, H, W] or
    [N, H, W, 3], or a .csv file with the pixels of an image a line, 0 to 255. For a model of vectors: an .npz file with
    the array `inputs` [N, width], as study.sample writes it, or a .csv file with a vector a line."""
    out: Path
    """File to write or to replace, whose name ends in .csv or .npz."""

    def __post_init__(self) -> None:
        if self.out.suffix.lower() not in (".csv", ".npz"):
            raise ValueError(f"`out` must end in .csv or .npz, but got {self.out}")


def run(config: PredictConfig) -> None:
    """Write the outputs that the settings ask for."""
    out, path = expanded(config.out, "--out"), expanded(config.inputs, "--inputs")
    check_file(out, "--out", inputs=path)
    version = registered(config.model, config.store, config.tracking_uri)
    import torch

    from study.data import to_pixels
    from study.training.loops import apply

    module, example = module_of(version, config.part)
    inputs, files = _images(path, example) if example.ndim == 4 else (_vectors(path, example.shape[1]), [])
    with torch.no_grad():
        outputs = apply(module, inputs)
    arrays = {"outputs": outputs.numpy()} | ({"files": np.array(files)} if files else {})
    classes = version.metadata.get("classes") or ()
    if outputs.ndim == 4:
        arrays["images"] = to_pixels(outputs)
    elif classes and outputs.shape[1:] == (len(classes),):
        arrays |= {"labels": outputs.argmax(1).numpy(), "class_names": np.array(classes)}
    with writing(out, "--out"), replacing(out) as new:
        _write(new, arrays)
    print(f"{out}: {len(outputs)} outputs of {version.uri}")


def _write(out: Path, arrays: dict[str, Any]) -> None:
    if out.suffix.lower() == ".npz":
        with out.open("wb") as archive:  # NumPy adds an ending of its own to a name
            np.savez_compressed(archive, **arrays)
        return
    columns = arrays["outputs"].reshape(len(arrays["outputs"]), -1).T
    names = [f"output{number}" for number in range(len(columns))]
    if "labels" in arrays:
        names, columns = ["class", *arrays["class_names"]], [arrays["class_names"][arrays["labels"]], *columns]
    if "files" in arrays:
        names, columns = ["file", *names], [arrays["files"], *columns]
    with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([names, *zip(*(column.tolist() for column in columns), strict=True)])


def _images(path: Path, example: Tensor) -> tuple[Tensor, list[str]]:
    """Return images as uint8 [N, C, S, S], of the example's size and colour, and the names of the files in a folder."""
    from study.data.own import as_tensor, check_images, image_files, read_images, tell_of_resizing

    size, colour, files = example.shape[-1], example.shape[1] == 3, []
    if path.suffix.lower() == ".csv":
        pixels = _numbers(path, example[0].numel())
        if not (pixels == pixels.clip(0, 255).round()).all():  # so that NaN is refused too
            raise UsageError(f"the pixels of {path} must be whole numbers from 0 to 255, but it has others")
        images = pixels.astype(np.uint8).reshape(-1, size, size, *example.shape[1:2] if colour else ())
    elif path.suffix.lower() == ".npz":
        images = check_images(_array(path, "images"), f"images of {path}")
        tell_of_resizing(path.name, {images.shape[2:0:-1]}, size)
    else:
        files = image_files(path)[0] if path.is_dir() else []
        images, sizes = read_images(files or [path], size, colour)
        tell_of_resizing(path.name, sizes, size)
    return as_tensor(images, size, colour), [str(file.relative_to(path)) for file in files]


def _vectors(path: Path, width: int) -> Tensor:
    """Return vectors as float32 [N, width]."""
    from torch import from_numpy

    vectors = _numbers(path, width) if path.suffix.lower() == ".csv" else _array(path, "inputs")
    with np.errstate(over="ignore"):
        narrow = vectors.astype(np.float32) if vectors.dtype.kind in "fiu" else np.empty(0)
    if narrow.shape[1:] != (width,) or not narrow.size or not np.isfinite(narrow).all():
        rule = f"the inputs must be finite 32-bit numbers [N, {width}], as the model takes them"
        raise UsageError(f"{rule}, but {path} has {vectors.dtype} {list(vectors.shape)}")
    return from_numpy(narrow)


def _array(path: Path, name: str) -> np.ndarray:
    """Return the array of this name from an .npz file."""
    from study.data.own import read_arrays

    arrays = read_arrays(path, [name])
    if name not in arrays:
        raise UsageError(f"{path} must be an .npz file with the array `{name}`, but it holds {', '.join(arrays)}")
    return arrays[name]


def _numbers(path: Path, width: int) -> np.ndarray:
    """Return the numbers of a .csv file, float64 [N, width]; a first line with the columns' names is passed over."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # as Excel writes it
            rows = {line: row for line, row in enumerate(csv.reader(file), 1) if row}
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    words = {line: [cell for cell in row if not _is_number(cell)] for line, row in rows.items()}
    if 1 in rows and (rows[1] == [*map(str, range(width))] or 2 * len(words[1]) > len(rows[1])):
        del rows[1]  # pandas' 0, 1, 2, ..., or mostly no numbers
    for line, row in rows.items():
        if words[line] or len(row) != width:
            rule = f"line {line} of {path} must be {width} numbers with decimal points, with commas between them"
            raise UsageError(f"{rule}, but has {repr(words[line][0][:20]) if words[line] else len(row)}")
    if not rows:
        raise UsageError(f"{path} must have numbers, but has none")
    return np.array([*rows.values()], dtype=np.float64)


def _is_number(cell: str) -> bool:
    with suppress(ValueError):
        return float(cell) is not None
    return False


main = command(PredictConfig, "predict", run)

if __name__ == "__main__":
    sys.exit(main())
