"""What the tests of the data share."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


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
