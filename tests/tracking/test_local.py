"""A version found straight from a local store's database, held against what MLflow says of it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from tracking import registry
from tracking.local import find_version
from tracking.store import open_store, read_store

NAME = "digits-latent-gan"


@pytest.fixture
def copy(smoke_store: Path, tmp_path: Path) -> Path:
    """A store of its own, opened where it lies now."""
    shutil.copytree(smoke_store, tmp_path / "a b%20c" / "store")
    open_store(tmp_path / "a b%20c" / "store")
    return tmp_path / "a b%20c" / "store"


@pytest.mark.parametrize("number", [None, 1])
def test_it_is_what_mlflow_says(copy: Path, number: int | None) -> None:
    found = find_version(copy, NAME, number)
    read_store(copy)
    expected = registry.require_version(NAME, number)
    assert found is not None
    assert (found.uri, found.source, found.tags, found.root) == (
        expected.uri,
        expected.source,
        expected.tags,
        expected.root,
    )
    assert found.config() == expected.config()
    for name, value in expected.load().state_dict().items():
        assert found.state_dict()[name].equal(value), name


def test_an_alias_that_was_moved_by_hand_is_followed(copy: Path) -> None:
    client = mlflow.MlflowClient()
    version = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, version.source, run_id=version.run_id)
    assert find_version(copy, NAME, None).uri == f"models:/{NAME}/1"
    client.set_registered_model_alias(NAME, "champion", "2")
    assert find_version(copy, NAME, None).uri == f"models:/{NAME}/2"
    client.delete_model_version(NAME, "2")
    assert find_version(copy, NAME, 2) is None
    assert find_version(copy, NAME, None) is None


def test_what_is_not_plain_is_left_to_mlflow(copy: Path, tmp_path: Path) -> None:
    assert find_version(copy, NAME, 7) is None
    assert find_version(copy, "digits-none", None) is None
    assert find_version(tmp_path / "nowhere", NAME, None) is None
    assert not (tmp_path / "nowhere").exists()
    assert find_version(copy, NAME, None) is not None
    with closing(sqlite3.connect(copy / "mlflow.db")) as connection, connection:
        connection.execute("ALTER TABLE registered_model_aliases RENAME TO aliases")
    assert find_version(copy, NAME, None) is None
    with closing(sqlite3.connect(copy / "mlflow.db")) as connection, connection:
        connection.execute("ALTER TABLE aliases RENAME TO registered_model_aliases")
    assert find_version(copy.rename(tmp_path / "moved"), NAME, None) is None
