"""The model registry, the hand-off between stages: names in, versions with the alias `champion` out."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from mlflow import MlflowException

from tracking.errors import StoreError
from tracking.models import Stored, complete, logged_model
from tracking.store import client, search

CHAMPION = "champion"  # the alias
DATA = "data_digest"  # the tag of a run: the data that it was trained on
REGISTERED = "registered"  # the tag of a run: the name and version of its model
PROTOCOL = "protocol"  # the tag of a version: with which versions it may be compared
DESCRIBED = "described"  # the tag of a version: a fingerprint of the description that we have given it
Direction = Literal["minimize", "maximize"]
log = logging.getLogger("study")


@dataclass(frozen=True)
class Version(Stored):
    """A registered version, and where it comes from. Without its run, which was deleted for good, it has no metrics."""

    name: str
    number: int
    run_id: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]  # of its run, the versions of its inputs among them
    protocol: str = ""  # "" where it was not registered by this study
    created: datetime | None = None

    @property
    def uri(self) -> str:  # type: ignore[override]
        """The address of the version."""
        return f"models:/{self.name}/{self.number}"

    @cached_property
    def location(self) -> str:  # type: ignore[override]
        """The address of the files of its run's model."""
        return logged_model(self.run_id).location


def champion(name: str, protocol: str | None = None) -> Version | None:
    """Return the champion of all, or of the versions with a protocol; None if there is none."""
    number = _aliases(name).get(CHAMPION if protocol is None else _alias_of(protocol))
    return None if number is None else version(name, number)


def champions() -> list[Version]:
    """Return the champion of each name that has one, in order."""
    found = sorted((each.name, each.aliases.get(CHAMPION)) for each in search(client().search_registered_models))
    return [version(name, int(number)) for name, number in found if number is not None]


def champion_on(name: str, data: str) -> Version | None:
    """Return the champion that was trained on the data of this digest: that of all, else the best of a protocol."""
    aliases = _aliases(name)
    for alias in sorted(aliases, key=lambda alias: (alias != CHAMPION, alias)):
        if alias.startswith(CHAMPION):
            found = version(name, aliases[alias])
            if found.tags.get(DATA) == data:
                return found
    return None


def version(name: str, number: int) -> Version:
    """Return the registered version of this number."""
    return _version(client().get_model_version(name, str(number)))


def require_version(name: str, wanted: int | str | None = None) -> Version:
    """Return the version of this number, or with this alias; None: the champion. A StoreError says what there is."""
    wanted = CHAMPION if wanted is None else wanted
    number = _aliases(name).get(wanted) if isinstance(wanted, str) else wanted
    known = sorted((each.name, int(each.version)) for each in search(client().search_model_versions))
    if number is not None and (name, number) in known:
        return version(name, number)
    missing = f"{name}{'@' if isinstance(wanted, str) else '/'}{wanted}"
    has = ", ".join(f"{model}/{each}" for model, each in known) or "none"
    raise StoreError(f"no model is registered as {missing} in this store (it has: {has})")


def register(name: str, run_id: str, description: str, protocol: Mapping[str, Any]) -> Version:
    """Return the version with the model of this run, made if missing; versions of one protocol can be compared."""
    text = json.dumps(protocol, sort_keys=True)
    try:
        client().create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    found = _version(known[0]) if known else None
    if found is None:
        model = logged_model(run_id)
        complete(model)
        of = model.uri.removeprefix("models:/")
        found = _version(client().create_model_version(name, model.location, run_id, {PROTOCOL: text}, model_id=of))
    elif found.protocol != text:  # another objective, say: it competes with others now
        client().set_model_version_tag(name, str(found.number), PROTOCOL, text)
    shown = {REGISTERED: f"{name} v{found.number}"} | dict(found.tags)
    if found.tags and REGISTERED not in found.tags:
        client().set_tag(run_id, REGISTERED, shown[REGISTERED])
    return replace(found, protocol=text, tags=shown)


def registered_runs() -> set[str]:
    """Return the ids of the runs whose models are registered, by any name."""
    return {each.run_id for each in search(client().search_model_versions) if each.run_id}


def describe(version: Version, text: str) -> None:
    """Describe the version on its page, unless somebody else has done so."""
    found = client().get_model_version(version.name, str(version.number))
    if not found.description or found.tags.get(DESCRIBED) == _digest(found.description):
        client().update_model_version(version.name, str(version.number), text)
        client().set_model_version_tag(version.name, str(version.number), DESCRIBED, _digest(text))


def promote(
    version: Version, metric: str, direction: Direction, *, champions_value: float | None = None, force: bool = False
) -> None:
    """Move the alias `champion` to this version if it is better than today's champion on one metric, or by force.

    Versions compete within one protocol, whose best has an alias of its own (`champion-` and a fingerprint). `champion`
    is the best of the protocol that had it first. A tie keeps today's. Both values are kept as tags of the version. A
    champion that cannot be compared gives way: its run was deleted for good, or it lacks the metric.

    `champions_value` is that of the protocol's champion, where it had to be measured anew (by another judge, say).
    """
    current, overall = champion(version.name, version.protocol), champion(version.name)
    best = version
    if current is not None and current.metrics and current.number != version.number:
        value = version.metrics[metric]
        against = current.metrics.get(metric, math.nan) if champions_value is None else champions_value
        better = value < against if direction == "minimize" else value > against
        best = version if better or math.isnan(against) or force else current
        numbers = {metric: value, "champion": current.number, f"champion.{metric}": against}
        for name, entry in {**numbers, "moved": str(best is version).lower()}.items():
            client().set_model_version_tag(version.name, str(version.number), f"promotion.{name}", str(entry))
    takes = overall is None or not overall.metrics or overall.protocol == version.protocol or force
    if not takes and overall is not None:
        log.warning(
            "%s stays the champion: its protocol (%s) is another than that of %s (%s), which has the alias %s",
            *(overall.uri, overall.protocol or "unknown", best.uri, version.protocol, _alias_of(version.protocol)),
        )
    # The aliases last: whoever dies before has this done again.
    for alias, before in {_alias_of(version.protocol): current, **({CHAMPION: overall} if takes else {})}.items():
        if before is None or before.number != best.number:
            client().set_registered_model_alias(version.name, alias, str(best.number))


def _aliases(name: str) -> dict[str, int]:
    """Return the numbers of the versions with an alias, by the alias."""
    # A search, since to ask for a model that is not there is forbidden where a server asks for passwords.
    found = client().search_registered_models(f"name = '{name}'")
    return {alias: int(number) for alias, number in found[0].aliases.items()} if found else {}


def _alias_of(protocol: str) -> str:
    return f"{CHAMPION}-{_digest(protocol)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _version(found: Any) -> Version:
    metrics: Mapping[str, float] = {}
    tags: Mapping[str, str] = {}
    if found.run_id:  # else it was registered by hand, from files
        try:
            data = client().get_run(found.run_id).data
            metrics, tags = data.metrics, data.tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(found.name, int(found.version), found.run_id, metrics, tags, found.tags.get(PROTOCOL, ""), created)
