"""The weights in a `pt2` archive, read without torch.export, whose import takes longer than most programs run.

The format: https://docs.pytorch.org/docs/stable/export/pt2_archive.html, a zip file with a JSON list of the weights,
each a file of its plain bytes.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

LIST = "data/weights/model_weights_config.json"
DTYPES = {5: torch.int64, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
"""By their numbers in the archive (torch/_export/serde/schema.py, ScalarType)."""


def read_weights(file: Path) -> dict[str, Tensor] | None:
    """All weights and buffers by name; None: the archive holds what is not read here, and torch.export has to."""
    try:
        with ZipFile(file) as archive:
            (listed,) = (name for name in archive.namelist() if name.endswith(LIST))
            root = listed.removesuffix(LIST)
            entries = json.loads(archive.read(listed))["config"]
            if archive.read(f"{root}byteorder") != b"little" or any(each["use_pickle"] for each in entries.values()):
                return None
            return {
                name: _tensor(archive.read(f"{root}data/weights/{each['path_name']}"), each["tensor_meta"])
                for name, each in entries.items()
            }
    except (BadZipFile, LookupError, TypeError, ValueError, RuntimeError):
        return None


def _tensor(content: bytes, meta: dict[str, Any]) -> Tensor:
    """A tensor of its own memory, contiguous."""
    sizes = [size["as_int"] for size in meta["sizes"]]
    strides = [stride["as_int"] for stride in meta["strides"]]
    dtype = DTYPES[meta["dtype"]]
    if not prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    values = torch.frombuffer(bytearray(content), dtype=dtype)
    return values.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).contiguous()
