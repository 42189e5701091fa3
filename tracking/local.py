"""A registered version of a local store, found without MLflow, whose import takes longer than to draw with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tracking.locks import LOCAL_TIMEOUT
from tracking.stored import LoggedModel

VERSION = """
    SELECT version.version, version.source, version.run_id, experiment.artifact_location
    FROM model_versions version
    JOIN runs run ON run.run_uuid = version.run_id
    JOIN experiments experiment ON experiment.experiment_id = run.experiment_id
    WHERE version.name = :name AND version.current_stage != 'Deleted_Internal' AND version.version = coalesce(
        :number, (SELECT version FROM registered_model_aliases WHERE name = :name AND alias = 'champion')
    )
"""
"""In the tables of MLflow 3."""


def find_version(folder: Path, name: str, number: int | None) -> LoggedModel | None:
    """The registered version of this number, None: the champion. Nothing is changed.

    Returns:
        None where the plain case does not hold: there is no such version, its run was deleted for good, the store was
        moved, its tables are of another version of MLflow. Then MLflow has to be asked, which says what is wrong.
    """
    database, artifacts = folder.absolute() / "mlflow.db", (folder.absolute() / "artifacts").as_uri()
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=LOCAL_TIMEOUT)) as connection:
            found = connection.execute(VERSION, {"name": name, "number": number}).fetchall()
            if len(found) != 1:
                return None
            ((version, source, run_id, root),) = found
            tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)).fetchall())
    except sqlite3.Error:
        return None
    root = root.rstrip("/")
    return LoggedModel(f"models:/{name}/{version}", source, tags, root) if root.startswith(f"{artifacts}/") else None
