import mlflow
import pytest
import torch

from tracking import load_model
from tracking.errors import StoreError
from tracking.store import read_store


@pytest.mark.parametrize("name", ["digits-autoencoder", "digits-judge", "digits-third-judge"])
def test_a_model_by_its_name_is_what_mlflow_has(smoke_store, name) -> None:
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        model = load_model(name, store=smoke_store)
        found = model(images)
    assert model.config["module"]["image_shape"] == [1, 28, 28]
    read_store(smoke_store)
    expected = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(images.numpy())
    torch.testing.assert_close(found, torch.from_numpy(expected))
    torch.testing.assert_close(load_model(name, 1, store=str(smoke_store))(images), found)


def test_what_is_not_there_is_told(smoke_store, tmp_path) -> None:
    with pytest.raises(StoreError, match="no model is registered as digits-autoencoder/7"):
        load_model("digits-autoencoder", 7, store=smoke_store)
    with pytest.raises(StoreError, match="holds no store"):
        load_model("digits-autoencoder", store=tmp_path)


def test_pickled_models_stay_refused_whatever_is_set(monkeypatch) -> None:
    """As a job runner or a notebook may have it set."""
    import importlib
    import os

    import tracking

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    importlib.reload(tracking)
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
