"""MLflow's client on the open store: one a process, since to make one takes longer than most of its calls."""

from __future__ import annotations

from functools import cache

import mlflow
from mlflow import MlflowClient


def client() -> MlflowClient:
    """The client on the store that was opened last."""
    return _client_on(mlflow.get_tracking_uri(), mlflow.get_registry_uri())


@cache
def _client_on(tracking_uri: str, registry_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri, registry_uri)
