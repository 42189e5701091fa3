"""Arrays that are kept beside a run: what takes long to compute, and is the same for every process that needs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlflow.exceptions import MlflowException

from tracking.client import client, if_there

FOLDER = "kept"  # among the run's artifacts


def kept_arrays(run_id: str, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that are kept under this name beside the run; made and kept at the first call.

    A file that is missing, or was changed since it was written, is made anew. Nothing is unpickled.

    Args:
        name: Of letters, digits, "-" and "."; it should contain the digests of all that the arrays are made from.
    """
    tag, file = f"{FOLDER}.{name}", f"{name}.npz"
    run = client().get_run(run_id)
    with TemporaryDirectory() as folder:
        with if_there():
            if tag in run.data.tags:
                found = Path(client().download_artifacts(run_id, f"{FOLDER}/{file}", folder))
                if hashlib.sha256(found.read_bytes()).hexdigest() == run.data.tags[tag]:
                    with np.load(found, allow_pickle=False) as arrays:
                        return dict(arrays)
        made = dict(make())
        path = Path(folder) / file
        np.savez(path, **made)  # type: ignore[arg-type]
        with suppress(MlflowException):  # a run that was deleted, or is somebody else's: then nothing is kept
            client().log_artifact(run_id, str(path), FOLDER)
            client().set_tag(run_id, tag, hashlib.sha256(path.read_bytes()).hexdigest())
    return made
