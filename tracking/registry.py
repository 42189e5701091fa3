"""The model registry: the hand-off between stages. Names in, versions with the alias `champion` out."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from tracking.client import client
from tracking.errors import StoreError
from tracking.stored import Stored, logged_model, model_root

CHAMPION = "champion"  # the alias
DATA = "data_digest"  # a run's tag: of the data that it was trained on
REGISTERED = "registered"  # a run's tag: the name and version of its model
PROTOCOL = "protocol"  # a version's tag: with which versions it may be compared
DESCRIBED = "described"  # a version's tag: a fingerprint of the description that we have given it
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


def champion(name: str, protocol: str | None = None) -> Version | None:
    """The version with the alias `champion`, None if there is none.

    Args:
        protocol: That of a version, for the best of those that may be compared with it.
    """
    alias = CHAMPION if protocol is None else _alias_of(protocol)
    number = _aliases(name).get(alias)
    return None if number is None else version(name, number)


def champion_on(name: str, data: str) -> Version | None:
    """The champion that was trained on the data of this digest: that of all, or else the best of its protocol."""
    aliases = _aliases(name)
    for alias in sorted(aliases, key=lambda alias: (alias != CHAMPION, alias)):
        if alias.startswith(CHAMPION):
            found = version(name, aliases[alias])
            if found.tags.get(DATA) == data:
                return found
    return None


def _aliases(name: str) -> dict[str, int]:
    """The versions with an alias, by the alias."""
    # A search, since to ask for a model that is not there is forbidden where a server asks for passwords.
    found = client().search_registered_models(f"name = '{name}'")
    return {alias: int(number) for alias, number in found[0].aliases.items()} if found else {}


def _alias_of(protocol: str) -> str:
    return f"{CHAMPION}-{_digest(protocol)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def version(name: str, number: int) -> Version:
    """The registered version of this number."""
    return _version(client().get_model_version(name, str(number)))


def require_version(name: str, wanted: int | str | None = None) -> Version:
    """The version of this number, or with this alias; None: the champion.

    Raises:
        StoreError: The store does not have it.
    """
    wanted = CHAMPION if wanted is None else wanted
    by_alias = isinstance(wanted, str)
    number = _aliases(name).get(wanted) if isinstance(wanted, str) else wanted
    if by_alias and number is not None:
        return version(name, number)
    known = sorted((each.name, int(each.version)) for each in client().search_model_versions())
    if number is not None and (name, number) in known:
        return version(name, number)
    has = ", ".join(f"{model}/{each}" for model, each in known) or "none"
    missing = f"{name}{'@' if by_alias else '/'}{wanted}"
    raise StoreError(f"no model is registered as {missing} in this store (it has: {has})")


def register(name: str, run_id: str, description: str, protocol: Mapping[str, Any]) -> Version:
    """The version that holds the model of this run: found again if the store has it, else made.

    Args:
        protocol: What must be equal for two versions to be compared: data, labels, and so on.
    """
    text = json.dumps(protocol, sort_keys=True)
    try:
        client().create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = of_run(name, run_id)
    if known is not None:
        known = _named(known)
        if known.protocol != text:  # another objective, say: it competes with others now
            client().set_model_version_tag(name, str(known.number), PROTOCOL, text)
        return replace(known, protocol=text)
    model = logged_model(run_id)
    model_id = model.uri.removeprefix("models:/")
    tags = {PROTOCOL: text}
    made = client().create_model_version(name, model.source, run_id=run_id, model_id=model_id, tags=tags)
    return _named(_version(made))


def _named(version: Version) -> Version:
    """The version, after its run was let say as what its model is registered."""
    if not version.tags or REGISTERED in version.tags:
        return version
    name = f"{version.name} v{version.number}"
    client().set_tag(version.run_id, REGISTERED, name)
    return replace(version, tags={**version.tags, REGISTERED: name})


def of_run(name: str, run_id: str) -> Version | None:
    """The version of this name that holds the model of this run, None if there is none."""
    found = client().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return _version(found[0]) if found else None


def registered_runs() -> set[str]:
    """The runs whose models are registered, by any name."""
    found: set[str] = set()
    token = None
    while True:
        page = client().search_model_versions(page_token=token)
        found |= {each.run_id for each in page if each.run_id}
        token = page.token
        if not token:
            return found


def describe(version: Version, text: str) -> None:
    """Describe the version on its page, unless somebody else has done so."""
    found = client().get_model_version(version.name, str(version.number))
    if not found.description or found.tags.get(DESCRIBED) == _digest(found.description):
        client().update_model_version(version.name, str(version.number), text)
        client().set_model_version_tag(version.name, str(version.number), DESCRIBED, _digest(text))


def promote(
    version: Version,
    metric: str,
    direction: Direction,
    *,
    champions_value: float | None = None,
    insist: bool = False,
) -> Promotion:
    """Move the alias `champion` to this version if it is better than today's champion on one metric.

    Versions compete within one protocol, whose best has an alias of its own (`champion-` and a fingerprint). `champion`
    is the best of the protocol that had it first. A tie keeps today's. Both values are kept as tags of the version. A
    champion whose run was deleted for good cannot be loaded or compared: it gives way.

    Args:
        version: The candidate.
        metric: A metric of both runs.
        direction: Whether less or more of it is better.
        champions_value: The value of the protocol's champion, where that in its run was measured otherwise (by another
            judge, say) and had to be measured anew.
        insist: Move the aliases in any case.
    """
    current, overall = champion(version.name, version.protocol), champion(version.name)
    best = version
    if current is not None and current.metrics and current.number != version.number:
        value = version.metrics[metric]
        against = current.metrics.get(metric, math.nan) if champions_value is None else champions_value
        better = value < against if direction == "minimize" else value > against
        best = version if better or insist else current
        numbers = {metric: value, "champion": current.number, f"champion.{metric}": against}
        for name, entry in {**numbers, "moved": str(best is version).lower()}.items():
            tag = f"promotion.{name}"
            client().set_model_version_tag(version.name, str(version.number), tag, str(entry))
    elif current is not None and current.metrics:
        best = current
    takes = overall is None or not overall.metrics or overall.protocol == version.protocol or insist
    if not takes and overall is not None:
        log.warning(
            "%s stays the champion: its protocol (%s) is another than that of %s (%s), which has the alias %s",
            *(overall.uri, overall.protocol or "unknown", best.uri, version.protocol, _alias_of(version.protocol)),
        )
    # The aliases last: whoever dies before has this done again.
    _set_alias(best, _alias_of(version.protocol), current)
    if takes:
        _set_alias(best, CHAMPION, overall)
    return Promotion(version, best if takes or overall is None else overall, overall)


def _set_alias(version: Version, alias: str, before: Version | None) -> None:
    if before is None or before.number != version.number:
        client().set_registered_model_alias(version.name, alias, str(version.number))


def _version(found: Any) -> Version:
    try:
        if not found.run_id:  # registered by hand, from files
            raise MlflowException("no run", error_code=RESOURCE_DOES_NOT_EXIST)
        run = client().get_run(found.run_id)
        metrics, tags, root = dict(run.data.metrics), dict(run.data.tags), model_root(run.info.experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        metrics, tags, root = {}, {}, ""
    protocol = found.tags.get(PROTOCOL, "")
    return Version(found.name, int(found.version), found.run_id, found.source, metrics, tags, protocol, root)
