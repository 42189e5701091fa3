"""The registry: who becomes the champion, within which protocol, and what is said of versions."""

import json
import math
from types import SimpleNamespace

import mlflow
import pytest

from tracking import registry
from tracking.errors import StoreError
from tracking.registry import Version
from tracking.runs import study_run, trial_run
from tracking.store import Store

NAME = "tiny-autoencoder"
PROTOCOL = {"data": "0123", "labels": "100"}
OTHER = PROTOCOL | {"labels": "60000"}
LOSSES = {(2.0, 1.0): 2, (1.0, 2.0): 1, (1.0, 1.0): 1, (math.nan, 1.0): 2, (1.0, math.nan): 1}  # who has the less
CASES = [("maximize", (1.0, 2.0), 2), *(("minimize", *each) for each in LOSSES.items())]


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions whose models have no files: test_models.py loads models."""
    files = SimpleNamespace(uri="models:/m-0", location="file:///nowhere")
    monkeypatch.setattr(registry, "logged_model", lambda run_id: files)
    monkeypatch.setattr(registry, "complete", lambda model: None)
    create = mlflow.MlflowClient.create_model_version
    without_id = lambda *given, model_id, **named: create(*given, **named)  # noqa: E731
    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", without_id)


def register(store: Store, loss: float, protocol: dict[str, str] = PROTOCOL, metric: str = "val/loss") -> Version:
    study = study_run(store, store.experiment("tiny/autoencoder"), "tiny/autoencoder/0")
    with study as parent, trial_run(parent, "trial", tags={"data_digest": "d"}) as run:
        run.log({metric: loss})
    return registry.register(NAME, run.run_id, "", protocol)


def promote(version: Version, direction: registry.Direction = "minimize", **options: object) -> int:
    """The number of the champion afterwards."""
    registry.promote(version, "val/loss", direction, **options)
    return registry.require_version(NAME).number


@pytest.mark.parametrize(("direction", "values", "champion"), CASES)
def test_the_champion_moves_only_if_better(store: Store, direction, values: tuple[float, float], champion: int) -> None:
    promote(register(store, values[0]), direction)
    assert promote(register(store, values[1]), direction) == champion
    tags = mlflow.MlflowClient().get_model_version(NAME, "2").tags
    expected = {"val/loss": values[1], "champion.val/loss": values[0], "moved": str(champion == 2).lower()}
    assert {name: tags[f"promotion.{name}"] for name in expected} == {k: str(v) for k, v in expected.items()}


def test_a_champion_without_the_metric_gives_way_and_a_value_measured_anew_and_force_decide(store: Store) -> None:
    old = register(store, 0.1, metric="val/other")
    registry.promote(old, "val/other", "minimize")
    assert (promote(register(store, 5.0)), promote(register(store, 6.0))) == (2, 2)
    assert (promote(register(store, 6.0), champions_value=7.0), promote(register(store, 9.0), force=True)) == (4, 5)


def test_versions_of_different_protocols_are_not_compared(store: Store, caplog) -> None:
    promote(register(store, 2.0))
    better = register(store, 1.0, OTHER)
    assert promote(better) == 1
    assert f"models:/{NAME}/1 stays the champion" in caplog.text
    assert registry.champion(NAME, better.protocol) == better, "the best of its own protocol, with an alias of its own"
    same = dict(reversed(PROTOCOL.items()))
    assert promote(register(store, 1.5, same)) == 3, "whatever the order of the protocol's keys"
    assert (promote(register(store, 9.0, OTHER)), registry.champion(NAME, better.protocol)) == (3, better)
    assert promote(better, force=True) == 2
    assert registry.champion(NAME, json.dumps(PROTOCOL, sort_keys=True)).number == 3
    assert [registry.champion_on(NAME, digest) for digest in ("d", "other data")] == [better, None]


def test_a_version_that_was_registered_by_hand_has_no_metrics_and_gives_way(store: Store) -> None:
    version = register(store, 1.0)
    created = mlflow.tracking.MlflowClient().create_model_version(NAME, "file:///x", model_id=None)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", created.version)
    assert registry.require_version(NAME).metrics == {}
    with pytest.raises(StoreError, match="was not logged by this study"):
        registry.require_version(NAME).load()
    assert promote(version) == 1


def test_registering_a_run_again_gives_the_same_version_with_our_description_or_a_users(store: Store) -> None:
    first, client = register(store, 1.0), mlflow.MlflowClient()
    promote(first)
    again = registry.register(NAME, first.run_id, "", PROTOCOL)
    assert (promote(again), again) == (1, first)
    assert registry.register(NAME, first.run_id, "", OTHER).protocol == json.dumps(OTHER, sort_keys=True)
    assert registry.registered_runs() == {first.run_id}
    assert client.get_run(first.run_id).data.tags["registered"] == f"{NAME} v1"
    for text in ("first", "second"):
        registry.describe(first, text)
        assert client.get_model_version(NAME, "1").description == text
    client.update_model_version(NAME, "1", "a user's words")
    registry.describe(first, "third")
    assert client.get_model_version(NAME, "1").description == "a user's words"


def test_a_missing_version_is_told_with_what_is_there(store: Store) -> None:
    assert registry.champion("tiny-judge") is None
    register(store, 1.0)
    for wanted, missing in ((None, "tiny-judge@champion"), (7, "tiny-judge/7"), ("mine", "tiny-judge@mine")):
        with pytest.raises(StoreError, match=rf"{missing} .*it has: {NAME}/1"):
            registry.require_version("tiny-judge", wanted)
