"""What several tests share: tiny data, a store, one finished smoke study, and commands in processes of their own."""

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import ceil, sqrt
from pathlib import Path
from typing import Any

# Several test processes of one thread each, also those that they start. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("STUDY_WORKERS", "1")
# MLflow's server starts seven processes for jobs that nobody gives it, 20 s of processor time.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")

import study  # noqa: F401 - it says how OpenMP's threads wait

# isort: split

import pytest
import torch
from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import Engine

from study.data.dataset import Dataset, Split
from tracking.store import Store, open_store

ROOT = Path(__file__).parents[1]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
Once = Callable[[str, Callable[[Path], None]], Path]


@event.listens_for(Engine, "connect")
def _survives_no_power_cut(connection: Any, _: object) -> None:
    """SQLite waits for the disk at each commit, half of a short trial's time; no test cuts the power."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@contextmanager
def no_hang() -> Iterator[None]:
    """What waits for ever fails the test; how long it takes on a busy machine does not matter."""

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(300)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `python -m MODULE ARGUMENTS` in the repository and gives its output; `env` adds to the environment."""

    def run(module: str, *arguments: object, timeout: float = 600, env: dict[str, str] | None = None):
        words = [sys.executable, "-m", module, *map(str, arguments)]
        options = {"cwd": ROOT, "env": os.environ | (env or {}), "capture_output": True, "text": True}
        return subprocess.run(words, **options, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the real MNIST; tests that need it skip without."""
    folder = os.environ.get("STUDY_DATA_DIR")
    if not folder or not (Path(folder) / "MNIST" / "raw").is_dir():
        pytest.skip("the real MNIST is not here: set STUDY_DATA_DIR to torchvision's data folder")
    return Path(folder)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder once for all test processes: `once(name, make)` calls make(folder) unless it is there."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        found = root / "shared" / name
        found.parent.mkdir(exist_ok=True)
        with FileLock(found.with_suffix(".lock")):
            if not found.with_suffix(".done").exists():
                make(found)
                found.with_suffix(".done").touch()
        return found

    return folder


@pytest.fixture(scope="session")
def models_store(once: Once) -> Path:
    """A store of registered models that nobody has trained; to be read only."""
    from registered import store_of_models

    return once("models", lambda folder: store_of_models(folder / "store") and None) / "store"


@pytest.fixture(scope="session")
def smoke_store(command: Command, once: Once) -> Path:
    """A store in which `smoke` has run on the embedded digits; to be read only."""

    def make(folder: Path) -> None:
        done = command("study.run", "smoke", "--data", "digits", "--table", "--store", folder / "store", timeout=900)
        assert done.returncode == 0, done.stderr
        (folder / "store" / "output.txt").write_text(done.stdout)

    return once("smoke", make) / "store"


@pytest.fixture(scope="session")
def empty_store(once: Once) -> Path:
    """An empty store to copy: making its tables takes seconds."""
    return once("empty", lambda folder: open_store(folder / "store") and None) / "store"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    """A fresh, empty store, open."""
    shutil.copytree(empty_store, tmp_path / "store")
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server, which a test may stop and start."""
    from servers import Postgres

    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(autouse=True)
def _warnings_are_told() -> None:
    """Whatever level a command of an earlier test has set."""
    logging.getLogger("study").setLevel(logging.WARNING)


def squares(image_shape: tuple[int, int, int], classes: int, per_class: int, seed: int) -> Split:
    """Noise with a bright square, at a place of its own for each class: a linear classifier can tell them apart."""
    labels, places = torch.arange(classes).repeat(per_class), ceil(sqrt(classes))
    images = torch.randint(0, 60, (len(labels), *image_shape), generator=torch.Generator().manual_seed(seed))
    side = image_shape[1] // places
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = side * (label // places), side * (label % places)
        image[:, top : top + side, left : left + side] += 180
    return Split(images.to(torch.uint8), labels)


def easy(image_shape: tuple[int, int, int], classes: int, per_class: int, held_out: int = 2) -> Dataset:
    """An easy data set with so many training images a class, and so many for validation and for the test."""
    parts = [squares(image_shape, classes, count, seed) for seed, count in enumerate((per_class, held_out, held_out))]
    return Dataset("tiny", *parts, classes=tuple(map(str, range(classes))), source="digits")


@pytest.fixture
def tiny() -> Dataset:
    """640 training images, 100 validation and 100 test images of ten easy classes."""
    return easy((1, 28, 28), 10, 64, 10)


@pytest.fixture
def denied() -> Callable[[Path], AbstractContextManager[None]]:
    """Makes a file or folder one that this user may not read or enter; root, who may, becomes somebody else."""

    @contextmanager
    def deny(path: Path) -> Iterator[None]:
        user, mode = os.geteuid(), path.stat().st_mode
        path.chmod(0)
        os.seteuid(user or 65_534)  # nobody
        try:
            yield
        finally:
            os.seteuid(user)
            path.chmod(mode)

    return deny
