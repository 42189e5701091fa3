"""A study of seconds on four letters, for tests of what is trained anew after something has happened to its store."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt
from pathlib import Path

import pytest
import torch
from commands import Done, call
from conftest import Command
from pictures import arrays_of_letters
from studies import ALL, FAST, Studies, copied

from study.data.dataset import Dataset, Split


@pytest.fixture(scope="session")
def letters(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Four letters, an .npz file in a folder whose name has a space."""

    def make(folder: Path) -> None:
        folder.mkdir()
        arrays_of_letters(folder / "abcd.npz", 30, 10, "ABCD")

    return once("some data", make) / "abcd.npz"


@pytest.fixture(scope="session")
def finished(letters: Path, command: Command, once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[Path, str]:
    """A store in which the fast study has run with one thread, and the table that it printed; to be read only."""

    def make(folder: Path) -> None:
        given = [*FAST, "--data", letters, *ALL, "--store", folder / "store"]
        done = command("study.run", *given, "--table", env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        (folder / "store" / "table.txt").write_text(done.stdout.strip().partition("\n\n")[0])

    store = once("finished", make) / "store"
    return store, (store / "table.txt").read_text()


@pytest.fixture
def studies(finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the finished store."""
    return Studies(copied(finished[0], tmp_path / "store"), capsys)


@pytest.fixture
def fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """No store yet."""
    return Studies(tmp_path / "store", capsys)


@pytest.fixture
def smoke(smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Studies:
    """A copy of the store in which `smoke` has run."""
    return Studies(copied(smoke_store, tmp_path / "store"), capsys)


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command in this process: `called("sample", "--count", 3)`."""
    return lambda module, *arguments: call(module, capsys, *arguments)


MakeDataset = Callable[[tuple[int, int, int], int, int], Dataset]


@pytest.fixture
def make_dataset() -> MakeDataset:
    """Makes an easy data set of an image shape, a number of classes, and training images a class; two of each class
    are for validation, two for the test.
    """

    def make(image_shape: tuple[int, int, int], classes: int, per_class: int) -> Dataset:
        parts = [squares(image_shape, classes, count, seed) for seed, count in enumerate((per_class, 2, 2))]
        return Dataset("easy", *parts, classes=tuple(f"class {number}" for number in range(classes)))

    return make


def squares(image_shape: tuple[int, int, int], classes: int, per_class: int, seed: int) -> Split:
    """Noise with a bright square, at a place of its own for each class."""
    labels = torch.arange(classes).repeat(per_class)
    images = torch.randint(0, 60, (len(labels), *image_shape), generator=torch.Generator().manual_seed(seed))
    places = ceil(sqrt(classes))
    side = image_shape[1] // places
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = side * (label // places), side * (label % places)
        image[:, top : top + side, left : left + side] += 180
    return Split(images.to(torch.uint8), labels)
