import mlflow
import numpy as np
import pytest

from tracking.arrays import kept_arrays
from tracking.store import Store


@pytest.fixture
def run_id(store: Store) -> str:
    return mlflow.MlflowClient().create_run(store.experiment("tiny/judge")).info.run_id


def test_arrays_are_made_once(run_id: str) -> None:
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"train": np.arange(6, dtype=np.float32).reshape(2, 3), "test": np.zeros(0)}

    first = kept_arrays(run_id, "abc-1.2", make)
    again = kept_arrays(run_id, "abc-1.2", make)
    assert len(calls) == 1
    for name, values in make().items():
        for found in (first, again):
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype
    kept_arrays(run_id, "another", make)
    assert len(calls) == 3


def test_a_file_that_was_changed_is_not_believed(run_id: str, store: Store, tmp_path) -> None:
    kept_arrays(run_id, "abc", lambda: {"a": np.ones(3)})
    (file,) = (tmp_path / "store" / "artifacts").rglob("abc.npz")
    np.savez(file, a=np.full(3, 7.0))
    assert kept_arrays(run_id, "abc", lambda: {"a": np.ones(3)})["a"].tolist() == [1, 1, 1]
    file.unlink()
    assert kept_arrays(run_id, "abc", lambda: {"a": np.ones(3)})["a"].tolist() == [1, 1, 1]
    np.savez(file, a=np.array([{}], dtype=object))  # a pickle
    assert kept_arrays(run_id, "abc", lambda: {"a": np.ones(3)})["a"].tolist() == [1, 1, 1]
