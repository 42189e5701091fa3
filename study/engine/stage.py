"""A stage is one object; this is its type, what it is given, and what it gives back. Light: no torch, no MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from study.engine.identity import fingerprint
from study.results import Row

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        rules = {
            "presets must be of the settings' type": [
                name for name, preset in self.presets.items() if not isinstance(preset, self.settings)
            ],
            "identity_excludes must be settings": sorted(set(self.identity_excludes) - names),
            "optional_inputs must be inputs": sorted(set(self.optional_inputs) - set(self.inputs)),
        }
        for rule, odd in rules.items():
            if odd:
                raise ValueError(f"{rule} of stage {self.name}, but got {', '.join(odd)}")

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
    watch: Watch | None = None  # this process only looks on: called as it waits for workers on other machines

    def model_name(self, kind: str) -> str:
        """The registered name of a kind of model: `mnist-autoencoder`."""
        return model_name(self.dataset.name, kind)


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


def model_name(dataset: str, kind: str) -> str:
    """The registered name of a kind of model on a data set: `mnist-autoencoder`."""
    return f"{dataset}-{kind}"


def seed_for(seed: int, number: int) -> int:
    """Seed of a repeat or a draw; those of studies of different seeds do not overlap below a seed of 21,474, and hardly
    ever above: the remainder is that of a prime, so that every seed gives another one.
    """
    return (100_000 * seed + number) % (2**31 - 1)
