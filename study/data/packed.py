"""A data set as bytes, to be handed to other machines: arrays only, nothing that would run as code."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import torch

from study.data.dataset import Dataset, Split

SPLITS = ("train", "val", "test")


def packed(data: Dataset) -> bytes:
    """The data set in NumPy's format `.npz`."""
    about = json.dumps({"name": data.name, "classes": data.classes, "source": data.source})
    arrays: dict[str, Any] = {"about": np.frombuffer(about.encode(), np.uint8)}
    for name in SPLITS:
        split: Split = getattr(data, name)
        arrays |= {f"{name}.images": split.images.cpu().numpy(), f"{name}.labels": split.labels.cpu().numpy()}
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def unpacked(content: bytes) -> Dataset:
    """The data set, on the CPU."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(arrays["about"].tobytes())
    train, val, test = (
        Split(torch.from_numpy(arrays[f"{name}.images"]), torch.from_numpy(arrays[f"{name}.labels"])) for name in SPLITS
    )
    return Dataset(about["name"], train, val, test, classes=tuple(about["classes"]), source=about["source"])
