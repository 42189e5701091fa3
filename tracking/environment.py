"""MLflow's environment variables: those that must not reach our runs, and those that MLflow cannot read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tracking.errors import StoreError

NAMES = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_ACTIVE_MODEL_ID",
    "_MLFLOW_ACTIVE_MODEL_ID",
    "MLFLOW_RUN_CONTEXT",  # tags, `mlflow.parentRunId` and our own among them
    "MLFLOW_TRACING_DESTINATION",
    "SERVERLESS_GPU_COMPUTE_ASSOCIATED_JOB_RUN_ID",  # a run that a job goes on with
)
"""Name a run, an experiment or a model: a job runner's, for the program that it starts."""

_lock = threading.Lock()
_kept: dict[str, str] = {}
_users = 0


@contextmanager
def no_names() -> Iterator[None]:
    """Inside, no variable names a run, an experiment or a model; afterwards they are what they were before."""
    global _users
    with _lock:
        _users += 1
        _kept.update({name: os.environ.pop(name) for name in NAMES if name in os.environ})
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:  # the last of several threads
                os.environ.update(_kept)
                _kept.clear()


def check_environment() -> None:
    """Check that MLflow can read all of its variables that are set; it would say so in the middle of a trial.

    Raises:
        StoreError: It cannot.
    """
    try:
        from mlflow import environment_variables as known
    except ValueError as error:
        raise StoreError(f"MLflow cannot use one of the environment variables MLFLOW_...: {error}") from error
    for each in vars(known).values():
        if isinstance(each, type(known.MLFLOW_RUN_ID)) and each.is_set():
            try:
                each.get()
            except ValueError as error:
                raise StoreError(f"MLflow cannot use an environment variable: {error}") from error
