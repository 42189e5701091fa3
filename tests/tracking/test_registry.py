from pathlib import Path

import mlflow
import pytest
import torch

from models.autoencoder import Autoencoder
from tracking import registry
from tracking.runs import study_run, trial_run
from tracking.store import Store, StoreError

MODULE = {"latent_dim": 4, "architecture": "conv"}


def log_trial(store: Store, loss: float, seed: int = 0) -> tuple[str, Autoencoder]:
    torch.manual_seed(seed)
    model = Autoencoder(**MODULE)
    with (
        study_run(store, store.experiment("tiny/autoencoder"), "tiny/autoencoder/0", "", {}) as parent,
        trial_run(parent, "trial", {}, {"input.judge": "models:/tiny-judge/1"}) as run,
    ):
        run.log({"val/loss": loss})
        registry.log_model(model, torch.rand(2, 1, 28, 28), {"module": MODULE}, {"seed": 7})
    return run.run_id, model


def test_a_round_trip_by_name_without_pickle(store: Store, tmp_path: Path) -> None:
    run_id, model = log_trial(store, 1.0)
    assert model.training, "logging leaves the mode alone"
    registry.promote(registry.register("tiny-autoencoder", run_id, "text"), "val/loss", "minimize")
    version = registry.require_champion("tiny-autoencoder")
    assert version.config() == {"module": MODULE}
    assert version.tags["input.judge"] == "models:/tiny-judge/1"

    images = torch.rand(5, 1, 28, 28)  # another batch size than the example's
    rebuilt = Autoencoder(**version.config()["module"])
    rebuilt.load_state_dict(version.state_dict())
    expected = model.eval()(images)
    torch.testing.assert_close(version.load()(images), expected)
    torch.testing.assert_close(rebuilt.eval()(images), expected)
    pyfunc = mlflow.pyfunc.load_model("models:/tiny-autoencoder@champion")
    torch.testing.assert_close(torch.from_numpy(pyfunc.predict(images.numpy())), expected.detach())
    assert pyfunc.metadata.metadata["seed"] == 7
    version.load()  # whatever MLflow has left among its files
    stored = {path.suffix for path in (tmp_path / "store" / "artifacts").rglob("*") if path.is_file()}
    assert ".pt2" in stored
    assert not stored & {".pkl", ".pth", ".pickle", ".pt"}


def test_a_pickled_model_is_refused(store: Store) -> None:
    with mlflow.start_run(experiment_id=store.experiment("tiny/x")) as run:
        mlflow.pytorch.log_model(
            torch.nn.Linear(1, 1), name="model", serialization_format="pickle", pip_requirements=["torch"]
        )
    version = registry.register("tiny-pickled", run.info.run_id, "")
    with pytest.raises(Exception, match=r"(?i)pickle"):
        version.load()


@pytest.mark.parametrize(
    ("direction", "values", "champion"),
    [
        ("minimize", (2.0, 1.0), 2),
        ("minimize", (1.0, 2.0), 1),
        ("maximize", (1.0, 2.0), 2),
        ("minimize", (1.0, 1.0), 1),
    ],
)
def test_the_champion_moves_only_if_better(
    store: Store, direction: registry.Direction, values: tuple[float, float], champion: int
) -> None:
    for value in values:
        version = registry.register("tiny-autoencoder", log_trial(store, value)[0], "")
        promotion = registry.promote(version, "val/loss", direction)
    assert registry.require_champion("tiny-autoencoder").number == champion
    assert promotion.champion.number == champion
    assert (promotion.value, promotion.sitting_value) == (values[1], values[0])
    tags = mlflow.MlflowClient().get_model_version("tiny-autoencoder", "2").tags
    assert tags["promotion.val/loss"] == str(values[1])
    assert tags["promotion.sitting.val/loss"] == str(values[0])
    assert tags["promotion.moved"] == str(champion == 2).lower()


def test_a_value_measured_anew_and_insistence_decide(store: Store) -> None:
    for value in (1.0, 2.0):
        version = registry.register("tiny-autoencoder", log_trial(store, value)[0], "")
        registry.promote(version, "val/loss", "minimize", sitting_value=3.0)
    assert registry.require_champion("tiny-autoencoder").number == 2
    worse = registry.register("tiny-autoencoder", log_trial(store, 9.0)[0], "")
    registry.promote(worse, "val/loss", "minimize", insist=True)
    assert registry.require_champion("tiny-autoencoder").number == 3


def test_registering_a_run_again_gives_the_same_version(store: Store) -> None:
    run_id, _ = log_trial(store, 1.0)
    first = registry.register("tiny-autoencoder", run_id, "")
    registry.promote(first, "val/loss", "minimize")
    again = registry.register("tiny-autoencoder", run_id, "")
    promotion = registry.promote(again, "val/loss", "minimize")
    assert again == first == promotion.champion


def test_a_missing_champion_is_told_with_what_is_there(store: Store) -> None:
    assert registry.champion("tiny-judge") is None
    registry.register("tiny-autoencoder", log_trial(store, 1.0)[0], "")
    with pytest.raises(StoreError, match=r"tiny-judge@champion.*it has: tiny-autoencoder"):
        registry.require_champion("tiny-judge")


def _another_model(data: Path) -> None:
    """A model that loads, with other weights."""
    other = torch.export.export(Autoencoder(**MODULE).eval(), (torch.zeros(2, 1, 28, 28),))
    torch.export.save(other, data / "model.pt2")


def _pickled_weights(data: Path) -> None:
    torch.save(Autoencoder(**MODULE), data / "model.pth")
    (data / "model.pt2").unlink()


def _code_beside_it(data: Path) -> None:
    model = data.parent / "MLmodel"
    model.write_text(model.read_text().replace("code: null", "code: code"))
    (data.parent / "code").mkdir()
    (data.parent / "code" / "evil.py").write_text("raise AssertionError")


@pytest.mark.parametrize("tamper", [_another_model, _pickled_weights, _code_beside_it])
def test_files_that_were_changed_are_not_loaded(store: Store, tmp_path: Path, tamper) -> None:
    run_id, _ = log_trial(store, 1.0)
    registry.promote(registry.register("tiny-autoencoder", run_id, ""), "val/loss", "minimize")
    (data,) = {path.parent for path in (tmp_path / "store" / "artifacts").rglob("model.pt2")}
    version = registry.require_champion("tiny-autoencoder")
    version.load()
    tamper(data)
    for use in (version.load, version.config, version.state_dict, registry.logged_model(run_id).load):
        with pytest.raises(StoreError, match="were changed since it was logged"):
            use()
