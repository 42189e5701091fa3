"""The model registry: the hand-off between stages. Names in, versions with the alias `champion` out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlflow
from mlflow.exceptions import MlflowException

from tracking.errors import StoreError
from tracking.runs import gallery
from tracking.stored import Stored, logged_model, model_root

CHAMPION = "champion"  # the alias
PROTOCOL = "protocol"  # a version's tag: with which versions it may be compared
Direction = Literal["minimize", "maximize"]
log = logging.getLogger("study")


@dataclass(frozen=True)
class Version(Stored):
    """A registered version, and where it comes from. Without its run, which was deleted for good, it has no metrics."""

    name: str
    number: int
    run_id: str
    source: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]  # of its run, the versions of its inputs among them
    protocol: str  # "" where it was not registered by this study
    root: str

    @property
    def uri(self) -> str:  # type: ignore[override]
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Promotion:
    """What `promote` did. `previous` is the version that held the alias before, None if none did."""

    version: Version
    champion: Version
    previous: Version | None


def champion(name: str) -> Version | None:
    """The version with the alias `champion`, None if there is none."""
    # A search, since to ask for a model that is not there is forbidden where a server asks for passwords.
    found = mlflow.MlflowClient().search_registered_models(f"name = '{name}'")
    if not found or CHAMPION not in found[0].aliases:
        return None
    return version(name, int(found[0].aliases[CHAMPION]))


def version(name: str, number: int) -> Version:
    """The registered version of this number."""
    return _version(mlflow.MlflowClient().get_model_version(name, str(number)))


def require_champion(name: str) -> Version:
    """Like `champion`, but a missing one is an error that names it.

    Raises:
        StoreError: No version of `name` has the alias.
    """
    return require_version(name, None)


def require_version(name: str, number: int | None) -> Version:
    """The version of this number, None: the champion.

    Raises:
        StoreError: The store does not have it.
    """
    if number is None:
        found = champion(name)
        if found is not None:
            return found
    known = sorted((each.name, int(each.version)) for each in mlflow.MlflowClient().search_model_versions())
    if number is not None and (name, number) in known:
        return version(name, number)
    missing = f"{name}@{CHAMPION}" if number is None else f"{name}/{number}"
    has = ", ".join(f"{model}/{each}" for model, each in known) or "none"
    raise StoreError(f"no model is registered as {missing} in this store (it has: {has})")


def register(name: str, run_id: str, description: str, protocol: Mapping[str, Any]) -> Version:
    """The version that holds the model of this run: found again if the store has it, else made.

    Args:
        protocol: What must be equal for two versions to be compared: data, labels, and so on.
    """
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = of_run(name, run_id)
    if known is not None:
        return known
    model = logged_model(run_id)
    model_id = model.uri.removeprefix("models:/")
    tags = {PROTOCOL: json.dumps(protocol, sort_keys=True)}
    return _version(client.create_model_version(name, model.source, run_id=run_id, model_id=model_id, tags=tags))


def of_run(name: str, run_id: str) -> Version | None:
    """The version of this name that holds the model of this run, None if there is none."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return _version(found[0]) if found else None


def describe(version: Version, text: str) -> None:
    """Describe the version on its page: this text, then the figures of its run."""
    text = f"{text}\n\n{gallery(version.run_id)}"
    mlflow.MlflowClient().update_model_version(version.name, str(version.number), text)


def promote(
    version: Version,
    metric: str,
    direction: Direction,
    *,
    champions_value: float | None = None,
    insist: bool = False,
) -> Promotion:
    """Move the alias `champion` to this version if it is better than today's champion on one metric.

    Versions of different protocols are not compared: the champion stays. A tie keeps it too. Both values are kept
    as tags of the version. A champion whose run was deleted for good cannot be loaded or compared: it gives way.

    Args:
        version: The candidate.
        metric: A metric of both runs.
        direction: Whether less or more of it is better.
        champions_value: The champion's value, where that in its run was measured otherwise (by another judge, say)
            and had to be measured anew.
        insist: Move the alias in any case, within the protocol.
    """
    client = mlflow.MlflowClient()
    current = champion(version.name)
    if current is not None and current.number == version.number:
        return Promotion(version, current, current)
    value = version.metrics[metric]
    tags = {f"promotion.{metric}": str(value)}
    if current is None or not current.metrics:
        moves = True
    elif current.protocol != version.protocol:
        moves = False
        log.warning(
            "%s stays the champion: its protocol (%s) is another than that of %s (%s), so that they are not compared",
            *(current.uri, current.protocol or "unknown", version.uri, version.protocol),
        )
    else:
        against = current.metrics.get(metric, math.nan) if champions_value is None else champions_value
        moves = insist or (value < against if direction == "minimize" else value > against)
        tags |= {"promotion.champion": str(current.number), f"promotion.champion.{metric}": str(against)}
    for key, entry in {**tags, "promotion.moved": str(moves).lower()}.items():
        client.set_model_version_tag(version.name, str(version.number), key, entry)
    if moves:  # last: whoever dies before has this done again
        client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
    return Promotion(version, version if moves or current is None else current, current)


def _version(found: Any) -> Version:
    try:
        run = mlflow.MlflowClient().get_run(found.run_id)
        metrics, tags, root = dict(run.data.metrics), dict(run.data.tags), model_root(run.info.experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        metrics, tags, root = {}, {}, ""
    protocol = found.tags.get(PROTOCOL, "")
    return Version(found.name, int(found.version), found.run_id, found.source, metrics, tags, protocol, root)
