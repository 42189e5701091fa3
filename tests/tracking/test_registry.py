import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

from models.autoencoder import Autoencoder
from tracking import registry
from tracking.errors import StoreError
from tracking.registry import Version
from tracking.runs import study_run, trial_run
from tracking.store import Store
from tracking.stored import log_model

MODULE = {"latent_dim": 4, "architecture": "conv", "image_shape": [1, 16, 16], "channels": [2, 4]}
NAME = "tiny-autoencoder"
PROTOCOL = {"data": "0123", "labels": "100"}
PROTOCOL_TEXT = json.dumps(PROTOCOL, sort_keys=True)
EXAMPLE = torch.zeros(2, 1, 16, 16)


def log_trial(store: Store, loss: float, model: torch.nn.Module | None = None) -> str:
    """The run of a trial that has logged this model, else a new one."""
    about = {"title": "", "description": "", "tags": {}}
    with (
        study_run(store, store.experiment("tiny/autoencoder"), "tiny/autoencoder/0", **about) as parent,
        trial_run(parent, "trial", {}, {"input.judge": "models:/tiny-judge/1"}) as run,
    ):
        run.log({"val/loss": loss})
        log_model(model or Autoencoder(**MODULE), EXAMPLE, {"module": MODULE}, {"seed": 7})
    return run.run_id


def register(store: Store, loss: float, protocol: dict[str, str] = PROTOCOL) -> Version:
    return registry.register(NAME, log_trial(store, loss), "", protocol)


def test_a_round_trip_by_name_without_pickle(store: Store, tmp_path: Path) -> None:
    model = Autoencoder(**MODULE)
    run_id = log_trial(store, 1.0, model)
    assert model.training, "logging leaves the mode alone"
    registry.promote(registry.register(NAME, run_id, "text", PROTOCOL), "val/loss", "minimize")
    version = registry.require_version(NAME, None)
    assert version.config() == {"module": MODULE}
    assert version.tags["input.judge"] == "models:/tiny-judge/1"

    images = torch.rand(5, 1, 16, 16)  # another batch size than the example's
    rebuilt = version.rebuild(Autoencoder)
    assert not rebuilt.training
    expected = model.eval()(images)
    torch.testing.assert_close(version.load()(images), expected)
    torch.testing.assert_close(rebuilt(images), expected)
    pyfunc = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    torch.testing.assert_close(torch.from_numpy(pyfunc.predict(images.numpy())), expected.detach())
    assert pyfunc.metadata.metadata["seed"] == 7
    version.load()  # whatever MLflow has left among its files
    stored = {path.suffix for path in (tmp_path / "store" / "artifacts").rglob("*") if path.is_file()}
    assert ".pt2" in stored
    assert not stored & {".pkl", ".pth", ".pickle", ".pt"}


def test_the_digest_of_the_weights_is_theirs_alone(store: Store) -> None:
    model = Autoencoder(**MODULE)
    run_ids = [log_trial(store, loss, model) for loss in (1.0, 2.0)]
    with torch.no_grad():
        model.decoder[-2].bias[0] += 1e-3
    run_ids.append(log_trial(store, 1.0, model))
    versions = [registry.register(NAME, run_id, "", PROTOCOL) for run_id in run_ids]
    assert [version.number for version in versions] == [1, 2, 3]
    first, again, changed = (version.weights_digest for version in versions)
    assert first == again
    assert changed != first
    other = registry.register("tiny-other", run_ids[0], "", {})
    assert other.weights_digest == first, "under another name too"


def test_a_pickled_model_is_refused(store: Store) -> None:
    with mlflow.start_run(experiment_id=store.experiment("tiny/x")) as run:
        mlflow.pytorch.log_model(
            torch.nn.Linear(1, 1), name="model", serialization_format="pickle", pip_requirements=["torch"]
        )
    version = registry.register("tiny-pickled", run.info.run_id, "", {})
    with pytest.raises(StoreError, match="was not logged by this study"):
        version.load()
    with pytest.raises(StoreError, match="was not logged by this study"):
        _ = version.weights_digest


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
        version = register(store, value)
        promotion = registry.promote(version, "val/loss", direction)
    assert registry.require_version(NAME, None).number == champion
    assert promotion.champion.number == champion
    assert promotion.previous is not None
    assert promotion.previous.number == 1
    tags = mlflow.MlflowClient().get_model_version(NAME, "2").tags
    assert tags["promotion.val/loss"] == str(values[1])
    assert tags["promotion.champion.val/loss"] == str(values[0])
    assert tags["promotion.moved"] == str(champion == 2).lower()


def test_a_value_measured_anew_and_insistence_decide(store: Store) -> None:
    for value in (1.0, 2.0):
        registry.promote(register(store, value), "val/loss", "minimize", champions_value=3.0)
    assert registry.require_version(NAME, None).number == 2
    registry.promote(register(store, 9.0), "val/loss", "minimize", insist=True)
    assert registry.require_version(NAME, None).number == 3


def test_versions_of_different_protocols_are_not_compared(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    registry.promote(register(store, 2.0), "val/loss", "minimize")
    better = register(store, 1.0, PROTOCOL | {"labels": "60000"})
    with caplog.at_level(logging.WARNING, "study"):
        promotion = registry.promote(better, "val/loss", "minimize")
    assert promotion.champion.number == registry.require_version(NAME, None).number == 1
    (told,) = [message for logger, _, message in caplog.record_tuples if logger == "study"]
    assert told.startswith(f"models:/{NAME}/1 stays the champion: its protocol")
    assert '"100"' in told
    assert '"60000"' in told
    assert registry.champion(NAME, better.protocol) == better, "the best of its own protocol, with an alias of its own"
    registry.promote(register(store, 1.5), "val/loss", "minimize")
    assert registry.require_version(NAME, None).number == 3, "whatever the order of the protocol's keys"
    worse = register(store, 9.0, PROTOCOL | {"labels": "60000"})
    assert registry.promote(worse, "val/loss", "minimize").champion.number == 3
    assert registry.champion(NAME, better.protocol) == better
    registry.promote(better, "val/loss", "minimize", insist=True)
    assert registry.require_version(NAME, None) == better
    assert registry.champion(NAME, PROTOCOL_TEXT) is not None


def test_a_version_that_was_registered_by_hand_is_refused_and_gives_way(store: Store, tmp_path: Path) -> None:
    """It has no run of ours."""
    run_id = log_trial(store, 1.0)
    version = registry.register(NAME, run_id, "", PROTOCOL)
    created = mlflow.MlflowClient().create_model_version(NAME, version.source)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", created.version)
    by_hand = registry.require_version(NAME, None)
    assert by_hand.metrics == {}
    with pytest.raises(StoreError, match="was not logged by this study"):
        by_hand.load()
    assert registry.promote(version, "val/loss", "minimize").champion == version


def test_registering_a_run_again_gives_the_same_version(store: Store) -> None:
    run_id = log_trial(store, 1.0)
    first = registry.register(NAME, run_id, "", PROTOCOL)
    registry.promote(first, "val/loss", "minimize")
    again = registry.register(NAME, run_id, "", PROTOCOL)
    promotion = registry.promote(again, "val/loss", "minimize")
    assert again == first == promotion.champion == registry.of_run(NAME, run_id)


def test_a_missing_champion_is_told_with_what_is_there(store: Store) -> None:
    assert registry.champion("tiny-judge") is None
    register(store, 1.0)
    with pytest.raises(StoreError, match=rf"tiny-judge@champion.*it has: {NAME}/1"):
        registry.require_version("tiny-judge", None)
    with pytest.raises(StoreError, match=rf"{NAME}/7 .*it has: {NAME}/1"):
        registry.require_version(NAME, 7)


def test_a_champion_whose_run_was_deleted_for_good_gives_way(store: Store) -> None:
    lost = register(store, 1.0)
    registry.promote(lost, "val/loss", "minimize")
    mlflow.MlflowClient().delete_run(lost.run_id)
    gc = ["mlflow", "gc", "--backend-store-uri", store.tracking_uri]
    done = subprocess.run([sys.executable, "-m", *gc], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = registry.require_version(NAME, None)
    assert (found.number, found.metrics, found.tags) == (1, {}, {})
    for use in (found.load, found.config, lambda: found.weights_digest):
        with pytest.raises(StoreError, match=f"models:/{NAME}/1 .*its run was deleted for good"):
            use()
    with pytest.raises(StoreError, match=rf"it has: {NAME}/1\)"):
        registry.require_version(NAME, 2)
    promotion = registry.promote(register(store, 5.0), "val/loss", "minimize")
    assert promotion.champion.number == registry.require_version(NAME, None).number == 2
    assert promotion.previous == found


def _another_model(data: Path) -> None:
    """A model that loads, with other weights."""
    other = torch.export.export(Autoencoder(**MODULE).eval(), (EXAMPLE,))
    torch.export.save(other, data / "model.pt2")


def _pickled_weights(data: Path) -> None:
    torch.save(Autoencoder(**MODULE), data / "model.pth")
    (data / "model.pt2").unlink()


def _code_beside_it(data: Path) -> None:
    model = data.parent / "MLmodel"
    model.write_text(model.read_text().replace("code: null", "code: code"))
    (data.parent / "code").mkdir()
    (data.parent / "code" / "evil.py").write_text("raise AssertionError")


def _removed(data: Path) -> None:
    shutil.rmtree(data.parent)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_another_model, r"^the file data/model.pt2 of {} was changed since it was logged: it is not loaded"),
        (_pickled_weights, r"^the file data/model.pt2 of {} is missing: it is not loaded"),
        (_code_beside_it, r"^the file MLmodel of {} was changed since it was logged: it is not loaded"),
        (_removed, r"^the files of {} are missing: .*runs again$"),
    ],
)
def test_files_that_were_changed_or_removed_are_told_and_not_loaded(
    store: Store, tmp_path: Path, harm, message: str
) -> None:
    registry.promote(register(store, 1.0), "val/loss", "minimize")
    (data,) = {path.parent for path in (tmp_path / "store" / "artifacts").rglob("model.pt2")}
    registry.require_version(NAME, None).load()
    harm(data)
    version = registry.require_version(NAME, None)
    logged = registry.logged_model(version.run_id)
    for model in (version, logged):
        for use in (model.load, model.config, model.state_dict):
            with pytest.raises(StoreError, match=message.format(model.uri)):
                use()


def test_a_registered_run_says_so_and_a_description_is_ours_until_a_user_changes_it(store: Store) -> None:
    version = register(store, 1.0)
    client = mlflow.MlflowClient()
    assert client.get_run(version.run_id).data.tags["registered"] == f"{NAME} v1"
    registry.describe(version, "first")
    registry.describe(version, "second")
    assert client.get_model_version(NAME, "1").description == "second"
    client.update_model_version(NAME, "1", "a user's words")
    registry.describe(version, "third")
    assert client.get_model_version(NAME, "1").description == "a user's words"
