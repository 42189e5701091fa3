"""The stages in order; nothing else in the project knows one by name.

A stage of somebody else's plugs in as an entry point of the group `study.stages`: an object of type
`study.engine.stage.Stage` in an installed package. It runs after those that make what it needs.
"""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import entry_points

from study.checks import UsageError
from study.engine.stage import Stage
from study.stages.attention import ATTENTION
from study.stages.autoencoder import AUTOENCODER
from study.stages.conditional_gan import CONDITIONAL_GAN
from study.stages.judge import JUDGE
from study.stages.latent_gan import LATENT_GAN
from study.stages.transfer import TRANSFER
from study.stages.translation import TRANSLATION

GROUP = "study.stages"
OURS = (JUDGE, AUTOENCODER, TRANSFER, LATENT_GAN, CONDITIONAL_GAN, ATTENTION, TRANSLATION)
added: list[Stage] = []  # that are not installed (`study.api.run`)


def all_stages() -> tuple[Stage, ...]:
    """Our stages, those of installed packages, and those that were added.

    Raises:
        UsageError: A package's stage cannot be imported, is no `Stage`, or has a name that is taken.
    """
    found, others = list(OURS), [(f"the stage {getattr(each, 'name', each)}", each) for each in added]
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        origin = f"the stage {point.value}{f' of the package {point.dist.name}' if point.dist else ''}"
        try:
            stage = point.load()
        except Exception as error:  # whatever the package raises as it is imported
            raise UsageError(f"{origin} cannot be loaded: {type(error).__name__}: {error}") from error
        others.append((origin, stage))
    for origin, stage in others:
        if not isinstance(stage, Stage):
            raise UsageError(f"{origin} must be a study.engine.stage.Stage, but is a {type(stage).__name__}")
        taken = next((each for each in found if each.key == stage.key), None)
        if taken is stage:
            continue  # installed twice, as a package in development may be
        if taken is not None:
            raise UsageError(f"{origin} is called {stage.name}, as another stage is: rename or uninstall it")
        makers = {kind: each.name for each in found for kind in each.outputs}
        for kind in stage.outputs:
            if kind in makers:
                raise UsageError(f"{origin} registers the kind {kind!r}, as {makers[kind]} does: rename it")
        found.append(stage)
    return _ordered(found)


def _ordered(stages: list[Stage]) -> tuple[Stage, ...]:
    """Each stage after those that make what it needs, otherwise in their own order.

    Raises:
        UsageError: A stage reads the settings of one that is not there, or two need what the other makes.
    """
    known = {stage.name: {each.name for each in fields(stage.settings)} for stage in stages}
    for stage in stages:
        for other, settings in stage.reads.items():
            if not set(settings) <= known.get(other, set()):
                raise UsageError(f"the stage {stage.name} reads settings of {other} that are not there: {settings}")
    ordered: list[Stage] = []
    rest = list(stages)
    while rest:
        waiting = {kind for stage in rest for kind in stage.outputs}
        ready = next((stage for stage in rest if not waiting & set(stage.inputs)), None)
        if ready is None:
            raise UsageError(f"these stages need what each other makes: {', '.join(stage.name for stage in rest)}")
        ordered.append(ready)
        rest.remove(ready)
    return tuple(ordered)
