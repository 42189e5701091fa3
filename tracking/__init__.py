"""The only package that imports MLflow: the store, runs, models and their registry, and MLflow's pages.

`from tracking import load_model` gives users a registered model by its name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Read by MLflow as it is imported or used; what the user has set wins.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that is away is waited for: 0 + 4 + 8 + 16 + 32 s (as a store is opened it is not, see store.py).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow does without git; else it says so at length
}.items():
    os.environ.setdefault(_name, _value)

try:
    Path.home()
except RuntimeError:  # no HOME and no passwd entry, as in a container of any uid: MLflow's import would end in this
    os.environ["HOME"] = os.sep


def load_model(
    name: str, version: int | str | None = None, *, store: str | Path = "mlruns", tracking_uri: str | None = None
) -> nn.Module:
    """Return a registered model, `mnist-autoencoder` say, in evaluation mode, on the CPU; `config` holds its settings.

    Nothing is unpickled and no code that lies beside the model runs: only models that a study has logged, with the
    weights that were logged, are loaded. The store may be read-only.

    Args:
        version: Its number, or an alias; None: the champion.
        store: The study's folder.
        tracking_uri: MLflow server in place of the folder.

    Raises:
        tracking.errors.StoreError: There is no such model, or its files were changed; the message says why.
    """
    from tracking import registry
    from tracking.store import lent, read_store

    with lent():
        read_store(Path(store), tracking_uri)
        found = registry.require_version(name, version)
        model = found.load()
        model.config = found.config()  # type: ignore[assignment]
    return model
