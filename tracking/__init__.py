"""The only room that knows MLflow: the store, runs, figures and the model registry."""

import os

# Read by MLflow as it is imported or used; what the user has set wins.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that is away is waited for: 0 + 4 + 8 + 16 + 32 s (as a store is opened it is not, see store.py).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # Models are `pt2` archives (torch.export); a pickled one in the registry is refused.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}.items():
    os.environ.setdefault(_name, _value)
