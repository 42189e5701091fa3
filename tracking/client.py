"""MLflow's client on the open store: one a process, since to make one takes longer than most of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tracking.errors import causes, store_errors

NOT_THERE = 404  # of HTTP

ARTIFACTS: dict[str, str] = {}
"""Where the local stores that were opened keep their files, by tracking URI: what a database says of that is not
trusted."""


def client() -> MlflowClient:
    """The client on the store that was opened last."""
    return _client_on(mlflow.get_tracking_uri(), mlflow.get_registry_uri())


@contextmanager
def if_there() -> Iterator[None]:
    """Pass over a file that is missing or damaged; a server that is away is no missing file.

    Raises:
        StoreError: The store does not answer.
    """
    try:
        yield
    except (MlflowException, OSError, ValueError) as error:
        import requests

        asked = [cause for cause in causes(error) if isinstance(cause, requests.RequestException)]
        with store_errors():
            # Files may lie elsewhere than what the server knows of them: it may answer where they cannot be had.
            if any(cause.response is None or cause.response.status_code != NOT_THERE for cause in asked):
                raise
            client().search_experiments(max_results=1)


@cache
def _client_on(tracking_uri: str, registry_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri, registry_uri)
