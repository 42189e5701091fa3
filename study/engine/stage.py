"""A stage is one object: its type, what it is given, what it gives back; and which stages a command runs, on what.

Light: no torch, no MLflow.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from keyword import iskeyword
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from study.checks import UsageError
from study.engine.identity import fingerprint
from study.results import Row
from tracking.errors import StoreError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from study.config import StudyConfig
    from study.data.dataset import Dataset
    from study.engine.launchers import Watch
    from study.engine.study import Study
    from study.results import Result
    from tracking.registry import Direction, Version
    from tracking.store import Store

    ModuleT = TypeVar("ModuleT", bound=nn.Module)

KeptModels = Literal["all", "champions"]
KIND = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
"""What stages and kinds of model may be called."""
REFERENCE_SHAPE = (1, 28, 28)  # of the reference's images
log = logging.getLogger("study")


@dataclass(frozen=True)
class Stage:
    """A part of a study: all that the rest of the project knows of it.

    Attributes:
        name: Lower-case words with hyphens; also the flag's prefix and the end of the experiment's name.
        question: What it is to find out, in a sentence or two.
        settings: A frozen dataclass with defaults.
        run: Runs the stage. What only the stage needs is imported inside, so that `--help` stays fast.
        version: A number that is raised when the stage's code changes what a trial computes.
        check: Refuses, by a `UsageError`, settings that do not fit the data set, before anything is trained.
        inputs: The kinds of model that the stage builds on: `autoencoder` is `<data>-autoencoder` in the registry.
        optional_inputs: The inputs that are dropped for unlabelled data.
        outputs: The kinds of model that it registers, the most important one first.
        presets: Its settings in the presets by name; a missing preset takes those of `demo`, else the defaults.
        identity_excludes: Settings that say which trials there are, not what a trial computes.
        reads: Settings of other stages that it uses too, by the stage's name.
        needs_classes: Whether it needs labelled images.
        headline: The figure that stands for it at the top of the report: the name of one on its parent run, or
            `best/<name>` of one of its best trial. "": none.

    Raises:
        ValueError: A name, a setting or a preset is not valid; the message names the rule.
    """

    name: str
    question: str
    settings: type
    run: Callable[[Context], Outcome]
    version: int = 1
    check: Callable[[Any, Dataset], None] | None = None
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    presets: Mapping[str, Any] = field(default_factory=dict)
    identity_excludes: tuple[str, ...] = ()
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs_classes: bool = True
    headline: str = ""

    def __post_init__(self) -> None:
        for kind in (self.name, *self.inputs, *self.outputs):
            if not re.fullmatch(KIND, kind) or iskeyword(kind.replace("-", "_")):
                raise ValueError(f"names of stages and models must be lower-case words with hyphens, but got {kind!r}")
        if not is_dataclass(self.settings) or not self.settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ValueError(f"the settings of stage {self.name} must be a frozen dataclass, but got {self.settings!r}")
        try:
            self.settings()
        except TypeError as error:
            raise ValueError(f"the settings of stage {self.name} must all have defaults: {error}") from error
        names = {each.name for each in fields(self.settings)}
        odd_presets = [name for name, preset in self.presets.items() if not isinstance(preset, self.settings)]
        for rule, odd in (
            ("presets must be of the settings' type", odd_presets),
            ("identity_excludes must be settings", {*self.identity_excludes} - names),
            ("optional_inputs must be inputs", {*self.optional_inputs} - {*self.inputs}),
        ):
            if odd:
                raise ValueError(f"{rule} of stage {self.name}, but got {', '.join(sorted(odd))}")

    @property
    def key(self) -> str:
        """The name as a field of the study's settings and as a table of a TOML file."""
        return self.name.replace("-", "_")

    def preset(self, name: str) -> Any:
        """Return the settings in the preset of this name."""
        return self.presets.get(name, self.presets.get("demo", self.settings()))

    def on(self, data: Dataset) -> Stage:
        """Return the stage as it runs on a data set: on unlabelled data without its optional inputs."""
        if data.classes or not self.optional_inputs:
            return self
        kept = tuple(kind for kind in self.inputs if kind not in self.optional_inputs)
        return replace(self, inputs=kept, optional_inputs=())


@dataclass(frozen=True)
class Candidate:
    """A trial whose model is registered, and competes for the alias `champion`.

    Attributes:
        metric: The metric by which champions are compared.
        direction: Whether less or more of it is better.
        force: Make it the champion in any case, within its protocol.
        protocol: What must be equal for a comparison, beside the data: the number of labels, say.
        picture: The figure of its run that shows it best; "": the one that stands for the stage.
        measure_again: Today's value of the champion, where the value in its run was measured otherwise; None: it holds.
    """

    result: Result
    metric: str
    direction: Direction = "minimize"
    force: bool = False
    protocol: Mapping[str, str] = field(default_factory=dict)
    picture: str = ""
    measure_again: Callable[[Version], float | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a stage gives back: the versions that it made, by kind, and its rows of the final table."""

    stage: str
    made: Mapping[str, Version]
    rows: tuple[Row, ...]
    run_id: str = ""  # of the study's parent run


@dataclass(frozen=True)
class Session:
    """What all stages of a command share; the data set lies on the device."""

    dataset: Dataset
    store: Store
    device: torch.device
    seed: int
    preset: str
    command: str  # the command line that finds the same trials again
    keep_models: KeptModels = "all"
    repeats: int = 1  # seeds or draws of all that is compared
    deadline: float = inf  # by `time.monotonic`: no trial begins after it
    watch: Watch | None = None  # this process only looks on: called as it waits for workers on other machines

    def model_name(self, kind: str) -> str:
        """The registered name of a kind of model: `mnist-autoencoder`."""
        return f"{self.dataset.name}-{kind}"


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    Attributes:
        settings: The stage's own.
        others: The settings of other stages that it reads, by the stage's and the setting's name.
        inputs: The exact versions that it builds on, by kind.
    """

    stage: Stage
    session: Session
    settings: Any
    others: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Version]

    @property
    def dataset(self) -> Dataset:
        return self.session.dataset

    @property
    def device(self) -> torch.device:
        return self.session.device

    @property
    def repeats(self) -> range:
        """The numbers of the seeds or draws of all that is compared."""
        return range(self.session.repeats)

    def seed_for(self, number: int) -> int:
        """Seed of a repeat or a draw; those of a study of another seed are others."""
        return seed_for(self.session.seed, number)

    def references(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """The reference's figures, which are MNIST's: none on another data set."""
        return figures if self.has_reference else {}

    @property
    def has_reference(self) -> bool:
        """Whether the reference has figures for these data: MNIST's images as they are."""
        return self.dataset.name == "mnist" and tuple(self.dataset.image_shape) == REFERENCE_SHAPE

    def module(self, kind: str, factory: type[ModuleT]) -> ModuleT:
        """An input's module with its weights, in evaluation mode; can be trained, has its submodules."""
        import torch

        with torch.random.fork_rng(devices=[]):  # building a module draws numbers, which a trial must not miss
            return self.inputs[kind].rebuild(factory).to(self.device)

    def open(self, description: str) -> AbstractContextManager[Study]:
        """Open the stage's study: that of an earlier call of the same identity, or a new one."""
        from study.engine.study import open_study

        return open_study(self, description)

    def cached_arrays(self, kind: str, make: Callable[[], Mapping[str, Any]], *others: object) -> dict[str, Any]:
        """Arrays that follow from an input model and the data set, made once a store and kept beside the model.

        Args:
            others: What else they follow from, if anything.
        """
        from tracking.models import cached_arrays

        version, digest = self.inputs[kind], self.dataset.digest
        name = f"{version.weights_digest[:16]}-{digest}-{self.stage.version}"
        if others:
            name = f"{name}-{fingerprint(others)}"
        with self.session.store.locks.hold(f"{version.uri}/{name}"):
            return cached_arrays(version.run_id, name, make)

    def identity(self) -> dict[str, Any]:
        """All that decides what a trial of this stage computes, beside the trial's own parameters."""
        settings = {
            name: value for name, value in asdict(self.settings).items() if name not in self.stage.identity_excludes
        }
        return {
            "version": self.stage.version,
            "seed": self.session.seed,
            "settings": settings,
            "others": {name: dict(read) for name, read in self.others.items()},
            "data": self.dataset.digest,
            "inputs": {kind: version.weights_digest for kind, version in self.inputs.items()},
        }


def seed_for(seed: int, number: int) -> int:
    """Seed of a repeat or a draw; those of studies of different seeds do not overlap below a seed of 21,474, and hardly
    ever above: the remainder is that of a prime, so that every seed gives another one.
    """
    return (100_000 * seed + number) % (2**31 - 1)


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
            name = f"{data.name}-{kind}"
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
        try:
            outcomes.append(stage.run(Context(stage, session, settings[stage.name], reads, given)))
        except StoreError:  # it has not enough trials
            if time.monotonic() < session.deadline:
                raise
        if time.monotonic() > session.deadline:
            log.info("the time limit has come in %s; the same command goes on from here", stage.name)
            break
        made |= outcomes[-1].made
    return outcomes
