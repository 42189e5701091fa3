"""The server that shows MLflow's pages on a store in a folder, on this machine only, for `study.ui`."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable

from tracking.errors import StoreError, root_of

HOST, PORT = "127.0.0.1", 5000
FOREIGN = "MLFLOW_SERVER_ALLOWED_HOSTS"  # for a server of the user's own: ours would refuse the address that we print


def local_address(port: int = PORT) -> str:
    """Return the address of the server that `study.ui` starts."""
    return f"http://{HOST}:{port}"


def check_port(port: int) -> None:
    """Check that a server can be started there; a port that is taken is a StoreError."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StoreError(f"--port must be free on {HOST}, but got {port} ({reason})") from error


def serve(tracking_uri: str, port: int, ready: Callable[[], None]) -> None:
    """Run MLflow's server on a store until this process is stopped; `ready` is called as soon as it answers.

    It is a thread, so that nothing is left of it however the process ends. A StoreError says why it does not start.
    """
    os.environ.pop(FOREIGN, None)
    import uvicorn
    from mlflow.server import constants, handlers

    # As `mlflow server` does, but for the jobs for language models, which would take seven more processes.
    for name in (constants.BACKEND_STORE_URI_ENV_VAR, constants.REGISTRY_STORE_URI_ENV_VAR):
        os.environ[name] = tracking_uri
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    try:
        handlers.initialize_backend_stores()
        with warnings.catch_warnings(action="ignore"):
            from mlflow.server.fastapi_app import app
    except Exception as error:  # SQLAlchemy's and MLflow's many classes
        raise StoreError(f"MLflow's server does not start: {root_of(error)}") from error
    ours = uvicorn.Server(uvicorn.Config(app, HOST, port, log_level="critical"))
    thread = threading.Thread(target=ours.run, daemon=True)
    thread.start()
    while thread.is_alive():
        if ours.started:
            ready()
            thread.join()
        time.sleep(0.1)
    raise StoreError("MLflow's server has ended by itself")
