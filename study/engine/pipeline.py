"""From what a command asks for to its outcomes: which stages, on which inputs, checked before anything takes long."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from study.checks import UsageError
from study.engine.stage import Context, Outcome, Session, Stage, model_name

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.data.dataset import Dataset
    from tracking.registry import Version

log = logging.getLogger("study")


@dataclass(frozen=True)
class Request:
    """The stages that a command runs, in order, and their settings.

    Attributes:
        settings: The settings of all stages that there are, by the stage's name.
        versions: The numbers of registered versions to build on, by kind of model, where the user has given them.
    """

    stages: tuple[Stage, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, int]


def requested(config: StudyConfig, known: Sequence[Stage]) -> Request:
    """Return what the settings of a command ask for, of all stages that there are."""
    versions = {kind: int(number) for kind, _, number in (each.partition("=") for each in config.inputs)}
    settings = {stage.name: getattr(config, stage.key) for stage in known}
    return Request(tuple(stage for stage in known if stage.name in config.stages), settings, versions)


def resolve(request: Request, data: Dataset, known: Sequence[Stage]) -> tuple[Request, dict[str, Version]]:
    """Return the request as it runs on a data set, and the versions that it builds on, all checked.

    The versions are those that no stage of the request makes: the numbers that the user has given, else champions.

    Raises:
        UsageError: Data, settings and models do not fit, or a model is missing.
    """
    left_out = "" if data.classes else ", ".join(stage.name for stage in request.stages if stage.needs_classes)
    kept = tuple(stage.on(data) for stage in request.stages if data.classes or not stage.needs_classes)
    sentence = f"{data.name} has no labels, but these stages need class folders: {left_out}"
    if not kept:
        raise UsageError(sentence)
    if left_out:
        log.warning("%s; they are left out", sentence)
    for stage in kept:
        if stage.check is not None:
            stage.check(request.settings[stage.name], data)
    request = replace(request, stages=kept)
    inputs = _inputs(request, data, [stage.on(data) for stage in known])
    for version in inputs.values():
        _check_input(version, data)
    return request, inputs


def _inputs(request: Request, data: Dataset, known: Sequence[Stage]) -> dict[str, Version]:
    from tracking import registry

    found: dict[str, Version] = {}
    made: set[str] = set()
    for stage in request.stages:
        missing = []
        for kind in (kind for kind in stage.inputs if kind not in made | found.keys()):
            name = model_name(data.name, kind)
            if kind in request.versions:
                found[kind] = registry.require_version(name, request.versions[kind])
            elif (champion := registry.champion_on(name, data.digest)) is not None:
                found[kind] = champion
            else:
                other = registry.champion(name)
                why = "was trained on other data" if other and other.metrics else "has lost its run, deleted for good"
                missing.append(f"{name}@champion" + (f" ({other.uri} {why})" if other else ""))
        if missing:
            wanted = " ".join(_with_makers(request.stages, known))
            needed = " and ".join(missing)
            raise UsageError(f"stage {stage.name} needs {needed}, not in this store: run with --stages {wanted}")
        made |= set(stage.outputs)
    for kind, number in request.versions.items():
        if kind not in found:
            raise UsageError(f"--inputs {kind}={number} must be an input of --stages that none of them makes")
    return found


def _with_makers(stages: Sequence[Stage], known: Sequence[Stage]) -> list[str]:
    """Return the names of these stages and of those that make what they need, in order: makers come first."""
    names, kept, needed = {stage.name for stage in stages}, list[str](), set[str]()
    for stage in reversed(known):
        if stage.name in names or needed & set(stage.outputs):
            kept.insert(0, stage.name)
            needed |= set(stage.inputs)
    return kept


def _check_input(version: Version, data: Dataset) -> None:
    """Raise a UsageError unless the version fits the data set."""
    if not version.metrics:
        raise UsageError(f"{version.uri} has lost its run, which was deleted for good: choose another version")
    module = version.config().get("module", {})
    for name, ours in (("image_shape", list(data.image_shape)), ("classes", len(data.classes))):
        if module.get(name, ours) != ours:
            raise UsageError(f"`{name} == {ours}` must hold for {data.name}, but {version.uri} has {module[name]}")
    digest = version.tags.get("data_digest", data.digest)
    if digest != data.digest:
        log.warning("%s was trained on other data of this name (digest %s, not %s)", version.uri, digest, data.digest)


def run_stages(request: Request, session: Session, inputs: Mapping[str, Version]) -> list[Outcome]:
    """Run the stages in order. Each takes what a stage before it has made, else the command's inputs."""
    made = dict(inputs)
    outcomes = []
    for stage in request.stages:
        log.info("%s ...", stage.name)
        settings = request.settings
        reads = {name: {each: getattr(settings[name], each) for each in names} for name, names in stage.reads.items()}
        given = {kind: made[kind] for kind in stage.inputs}
        outcomes.append(stage.run(Context(stage, session, settings[stage.name], reads, given)))
        made |= outcomes[-1].made
    return outcomes
