import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pytest
import torch
from conftest import ROOT

from tracking import registry
from tracking.errors import StoreError
from tracking.runs import study_run, trial_run
from tracking.store import Store, open_store, read_store
from tracking.stored import log_model


def test_a_fresh_store_is_made_and_opens_again(tmp_path: Path) -> None:
    first, second = open_store(tmp_path / "a" / "b"), open_store(tmp_path / "a" / "b")
    assert first == second
    assert first.experiment("mnist/judge") == second.experiment("mnist/judge")
    assert (tmp_path / "a" / "b" / "mlflow.db").is_file()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(Path("/proc/study"))


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(tmp_path / name)
    with pytest.raises(StoreError, match="holds no store"):
        read_store(tmp_path / name)


AS_ANOTHER = """
import os, sys
from pathlib import Path
from tracking.store import open_store
folder = Path(sys.argv[1])
open_store(folder)
for path in (folder, *folder.rglob("*")):
    if path.parent.name != "locks":
        path.chmod(0o777)
os.setuid(65534)
try:
    open_store(folder)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_locks_of_another_user_are_told() -> None:
    with TemporaryDirectory() as temporary:  # pytest's own folders are closed to others
        Path(temporary).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER, f"{temporary}/store"], cwd=ROOT, capture_output=True, text=True
        )
    assert done.stdout.startswith("StoreError this user must be able to write"), done.stderr


def test_a_database_that_is_none_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("my diary " * 100)
    with pytest.raises(StoreError, match="must be a writable SQLite database"):
        open_store(tmp_path)
    assert (tmp_path / "mlflow.db").read_text().startswith("my diary")


def test_reading_needs_a_store_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no store"):
        read_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_deleted_experiment_is_told(store: Store) -> None:
    mlflow.delete_experiment(store.experiment("mnist/judge"))
    with pytest.raises(StoreError, match="was deleted"):
        store.experiment("mnist/judge")


def test_an_experiment_that_was_renamed_is_found_again(store: Store) -> None:
    ours = store.experiment("mnist/judge")
    mlflow.MlflowClient().rename_experiment(ours, "Judges, for the talk")
    assert store.experiment("mnist/judge") == ours
    assert mlflow.get_experiment(ours).name == "Judges, for the talk"
    assert [each.name for each in mlflow.search_experiments()] == ["Judges, for the talk", "Default"]


def test_somebody_else_s_experiment_of_our_name_is_refused_and_left_alone(store: Store) -> None:
    theirs = mlflow.create_experiment("mnist/judge", "file:///elsewhere/artifacts/mnist/judge", {"owner": "them"})
    before = dict(mlflow.get_experiment(theirs))
    with pytest.raises(StoreError, match=r"'mnist/judge' .* was not made by .*: rename it, or use another --store$"):
        store.experiment("mnist/judge")
    open_store(Path(store.tracking_uri.removeprefix("sqlite:///")).parent)
    assert dict(mlflow.get_experiment(theirs)) == before
    mlflow.MlflowClient().rename_experiment(theirs, "theirs")
    assert store.experiment("mnist/judge") != theirs


def test_a_moved_store_knows_its_artifacts(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "else where" / "new"
    store = open_store(old)
    experiment = store.experiment("mnist/judge")
    about = {"title": "", "description": "", "tags": {}}
    with (
        study_run(store, experiment, "mnist/judge/0", **about) as parent,
        trial_run(parent, "trial 0", {}, {}) as run,
    ):
        run.log_text("note.txt", "kept")
        run.log({"val/accuracy": 1.0})
        log_model(torch.nn.Linear(2, 1), torch.zeros(2, 2), {"width": 2}, {})
    registry.promote(registry.register("mnist-judge", run.run_id, "", {}), "val/accuracy", "maximize")
    new.parent.mkdir()
    old.rename(new)
    store = open_store(new)
    assert str(old) not in _dump(new / "mlflow.db")
    assert mlflow.artifacts.load_text(f"{mlflow.get_run(run.run_id).info.artifact_uri}/note.txt") == "kept"
    version = registry.require_version("mnist-judge", None)
    assert version.config() == {"width": 2}
    assert version.state_dict()["weight"].shape == (1, 2)
    assert store.experiment("mnist/judge") == experiment
    before = _dump(new / "mlflow.db")
    open_store(new)
    assert _dump(new / "mlflow.db") == before


def test_a_moved_store_leaves_the_paths_of_other_people_s_experiments_alone(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    ours = open_store(old).experiment("mnist/judge")
    place = "file:///elsewhere/artifacts/theirs"
    theirs = mlflow.create_experiment("theirs", place)
    with mlflow.start_run(experiment_id=theirs) as run:
        pass
    old.rename(new)
    open_store(new)
    assert mlflow.get_experiment(ours).artifact_location == f"{(new / 'artifacts').as_uri()}/mnist/judge"
    assert mlflow.get_experiment(theirs).artifact_location == place
    assert mlflow.get_run(run.info.run_id).info.artifact_uri.startswith(f"{place}/")


def _dump(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump())


def test_several_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tracking.store import open_store\n"
        "store = open_store(Path(sys.argv[1])); store.experiment('mnist/judge')\n"
        "import optuna\n"
        "with store.locks.hold('opening'): optuna.storages.RDBStorage(store.optuna_url)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "s"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
