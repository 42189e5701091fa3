"""From what a command asks for to its outcomes: which stages, on which inputs, checked before anything takes long."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.checks import UsageError
from study.engine.stage import Context, Outcome, Session, Stage, model_name

if TYPE_CHECKING:
    from study.data.dataset import Dataset
    from tracking.registry import Version

log = logging.getLogger("study")


@dataclass(frozen=True)
class Request:
    """The stages that a command runs, in order, and their settings.

    Attributes:
        configs: The settings of all stages that there are, by the stage's name.
        versions: The numbers of registered versions to build on, by kind of model, where the user has given them.
    """

    stages: tuple[Stage, ...]
    configs: Mapping[str, Any]
    versions: Mapping[str, int]


def resolve_inputs(request: Request, data: Dataset, known: Sequence[Stage]) -> dict[str, Version]:
    """The exact versions that no stage of this command makes: those that were asked for, else today's champions.

    Args:
        request: With its stages as they run on these data.
        known: All stages that there are.

    Raises:
        UsageError: One is not in the registry, or is asked for and made by the same command.
    """
    from tracking import registry

    found: dict[str, Version] = {}
    made: dict[str, str] = {}
    for stage in request.stages:
        for kind in stage.inputs:
            if kind in made or kind in found:
                continue
            name = model_name(data.name, kind)
            if kind in request.versions:
                found[kind] = registry.require_version(name, request.versions[kind])
                continue
            champion = registry.champion_on(name, data.digest)
            if champion is None:
                wanted = " ".join(each.name for each in _with_makers(request.stages, [each.on(data) for each in known]))
                missing = _missing(stage, made, data)
                raise UsageError(f"stage {stage.name} needs {missing}, not in this store: run with --stages {wanted}")
            found[kind] = champion
        made |= dict.fromkeys(stage.outputs, stage.name)
    for kind, number in request.versions.items():
        if kind in made:
            raise UsageError(
                f"--inputs.{kind} {number} cannot be used together with the stage {made[kind]}, which makes one:"
                f" leave it out of --stages, or leave out --inputs.{kind}"
            )
        if kind not in found:
            raise UsageError(f"--inputs.{kind} {number} is used by none of the stages of this command")
    return found


def _missing(stage: Stage, made: Mapping[str, str], data: Dataset) -> str:
    """What a stage needs and the store lacks; with what it has instead, a model of other data of the same name."""
    from tracking import registry

    missing = []
    for kind in stage.inputs:
        name = model_name(data.name, kind)
        if kind not in made and registry.champion_on(name, data.digest) is None:
            other = registry.champion(name)
            hint = ""
            if other is not None and not other.metrics:
                hint = f" ({other.uri} has lost its run, which was deleted for good)"
            elif other is not None:
                hint = f" (of these very data: {other.uri} was trained on others of this name)"
            missing.append(f"{name}@champion{hint}")
    return " and ".join(missing)


def _with_makers(stages: Sequence[Stage], known: Sequence[Stage]) -> list[Stage]:
    """These stages and those that make what they need, in order."""
    names = {stage.name for stage in stages}
    while True:
        needed = {kind for stage in known if stage.name in names for kind in stage.inputs}
        makers = {stage.name for stage in known if needed & set(stage.outputs)}
        if makers <= names:
            return [stage for stage in known if stage.name in names]
        names |= makers


def check_inputs(inputs: Mapping[str, Version], data: Dataset) -> None:
    """Check that the models that a command builds on fit its data set.

    Raises:
        UsageError: One is for images of another shape, or for other classes.
    """
    for version in inputs.values():
        if not version.metrics:
            raise UsageError(f"{version.uri} has lost its run, which was deleted for good: choose another version")
        module = version.config().get("module", {})
        for name, ours in (("image_shape", list(data.image_shape)), ("classes", len(data.classes))):
            if name in module and module[name] != ours:
                raise UsageError(f"`{name} == {ours}` must hold for {data.name}, but {version.uri} has {module[name]}")
        digest = version.tags.get("data_digest", data.digest)
        if digest != data.digest:
            log.warning(
                "%s was trained on other data of the same name (digest %s, today's is %s)",
                *(version.uri, digest, data.digest),
            )


def leave_out_unlabelled(stages: Sequence[Stage], data: Dataset) -> tuple[Stage, ...]:
    """The stages that can work on the data set, as they run on it: without classes, only those that need none.

    Raises:
        UsageError: None of them can.
    """
    if data.classes:
        return tuple(stages)
    kept = tuple(stage.on(data) for stage in stages if not stage.needs_classes)
    rest = ", ".join(stage.name for stage in stages if stage.needs_classes)
    sentence = f"{data.name} has no labels, but these stages need class folders: {rest}"
    if not kept:
        raise UsageError(sentence)
    if rest:
        log.warning("%s; they are left out", sentence)
    return kept


def run_stages(request: Request, session: Session, inputs: Mapping[str, Version]) -> list[Outcome]:
    """Run the stages in order. Each takes what a stage before it has made, else the command's inputs."""
    made = dict(inputs)
    outcomes = []
    for stage in request.stages:
        log.info("%s ...", stage.name)
        context = Context(
            stage=stage,
            session=session,
            settings=request.configs[stage.name],
            others={
                name: {setting: getattr(request.configs[name], setting) for setting in settings}
                for name, settings in stage.reads.items()
            },
            inputs={kind: made[kind] for kind in stage.inputs},
        )
        outcome = stage.run(context)
        made |= outcome.made
        outcomes.append(outcome)
    return outcomes
