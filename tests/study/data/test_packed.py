"""A data set as bytes, handed to another machine."""

from __future__ import annotations

import torch

from study.data.dataset import Dataset
from study.data.packed import packed, unpacked


def test_what_is_unpacked_is_what_was_packed(tiny: Dataset) -> None:
    again = unpacked(packed(tiny))
    assert again.digest == tiny.digest
    assert (again.name, again.classes, again.source) == (tiny.name, tiny.classes, tiny.source)
    assert torch.equal(again.val.images, tiny.val.images)
    assert again.test.labels.dtype == torch.int64
