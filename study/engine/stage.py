"""A stage is one object; this is its type, what it is given, and what it gives back. Light: no torch, no MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from study.engine.identity import fingerprint

if TYPE_CHECKING:
    import torch
    from torch import nn

    from study.data.dataset import Dataset
    from study.engine.launcher import Watch
    from tracking.registry import Version
    from tracking.store import Store

    ModuleT = TypeVar("ModuleT", bound=nn.Module)

KeptModels = Literal["all", "champions"]
Verdict = Literal["held", "did not hold", "undecided"]


KIND = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
"""What stages and kinds of model may be called."""


@dataclass(frozen=True)
class Stage:
    """A part of a study: all that the rest of the project knows of it.

    Attributes:
        name: Lower-case words with hyphens; also the flag's prefix and the end of the experiment's name.
        question: What it is to find out, in a sentence or two.
        config: A frozen dataclass with defaults, all its settings.
        plan: What it would run with a config, in words.
        run: Runs it. What only it needs is imported inside, so that `--help` stays fast.
        check: Refuses, by a `UsageError`, settings that do not fit the data set, before anything is trained.
        inputs: The kinds of model that it builds on: `autoencoder` is `<data>-autoencoder` in the registry.
        inputs_with_classes: Those of the inputs that it does without where the images have no classes.
        outputs: The kinds of model that it registers, the most important one first.
        presets: Its configs in the presets by name; a preset that is not here takes that of `demo`, else the default.
        extent: The settings that say which trials there are, not what one of them computes.
        reads: Settings of other stages that it uses too, by the stage's name.
        recipe: A number that is raised when its code changes what a trial computes.
        needs_classes: Whether it needs labelled images.
        headline: The figure that stands for it at the top of the report: the name of one on its parent run, or
            `best/<name>` of one of its best trial. "": none.
    """

    name: str
    question: str
    config: type
    plan: Callable[[Any], str]
    run: Callable[[Context], Outcome]
    check: Callable[[Any, Dataset], None] | None = None
    inputs: tuple[str, ...] = ()
    inputs_with_classes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    presets: Mapping[str, Any] = field(default_factory=dict)
    extent: tuple[str, ...] = ()
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recipe: int = 1
    needs_classes: bool = True
    headline: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(KIND, self.name):
            raise ValueError(f"a stage's name must be lower-case words with hyphens, but got {self.name!r}")
        if iskeyword(self.key):
            raise ValueError(f"a stage cannot be called {self.name}: that is a word of Python's")
        if not is_dataclass(self.config) or not self.config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ValueError(f"the config of stage {self.name} must be a frozen dataclass, but got {self.config!r}")
        demanded = [each.name for each in fields(self.config) if each.default is each.default_factory is MISSING]
        if demanded:
            raise ValueError(f"settings of stage {self.name} must have defaults, but these have none: {demanded}")
        odd = [name for name, config in self.presets.items() if not isinstance(config, self.config)]
        if odd:
            raise ValueError(f"presets of stage {self.name} must be of its config's type, but these are not: {odd}")
        for kinds in (self.inputs, self.outputs):
            if isinstance(kinds, str) or any(not re.fullmatch(KIND, kind) or iskeyword(kind) for kind in kinds):
                raise ValueError(
                    f"inputs and outputs of stage {self.name} must be tuples of lower-case words with hyphens, "
                    f"but got {kinds!r}"
                )
        unknown = set(self.extent) - {each.name for each in fields(self.config)}
        if unknown:
            raise ValueError(f"stage {self.name} names settings that its config lacks: {', '.join(sorted(unknown))}")
        strangers = set(self.inputs_with_classes) - set(self.inputs)
        if strangers:
            raise ValueError(
                f"`inputs_with_classes` must be among the inputs of stage {self.name}, but got {sorted(strangers)}"
            )

    @property
    def key(self) -> str:
        """Its name as a field of the study's config and as a table of a TOML file."""
        return self.name.replace("-", "_")

    def preset(self, name: str) -> Any:
        """Its config in the preset of this name."""
        return self.presets.get(name, self.presets.get("demo", self.config()))

    def on(self, data: Dataset) -> Stage:
        """Itself as it runs on a data set: without classes, fewer inputs."""
        if data.classes or not self.inputs_with_classes:
            return self
        kept = tuple(kind for kind in self.inputs if kind not in self.inputs_with_classes)
        return replace(self, inputs=kept, inputs_with_classes=())


REFERENCE_SHAPE = (1, 28, 28)  # of the reference's images


@dataclass(frozen=True)
class Row:
    """One line of the final table. None: there is none.

    Attributes:
        claim: A sentence that could turn out false: "A WGAN comes nearer to the test images than 200 Gaussians".
        verdict: What the study says of the claim (see `study.engine.table.verdict`).
        rival: What the claim is held against, where the baseline's cell holds more than that.
        metric: The trials' metric that the row sums up, if it is one of the figures to look at first: a column of the
            trials in MLflow; the row stands on the pages of the registered models.
        found: What was found, as a sentence for the end of `study.run`; one row of a stage has it.

    Raises:
        ValueError: A cell is no text, there is only one of claim and verdict, or the verdict is none of the three.
    """

    figure: str
    ours: str
    reference: str | None = None
    baseline: str | None = None
    claim: str | None = None
    verdict: Verdict | None = None
    rival: str | None = None
    metric: str | None = None
    found: str | None = None

    def __post_init__(self) -> None:
        texts = (self.figure, self.ours, *filter(lambda each: each is not None, (self.reference, self.baseline)))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the cells of a row must be text, but row {self.figure!r} has {texts!r}")
        if self.verdict is not None and self.verdict not in get_args(Verdict):
            known = ", ".join(get_args(Verdict))
            raise ValueError(f"a verdict must be one of {known}, but row {self.figure!r} has {self.verdict!r}")
        if self.verdict is not None and not self.claim:
            raise ValueError(f"a verdict needs a claim, but row {self.figure!r} has only the verdict {self.verdict!r}")
        if self.claim is not None and self.verdict is None:
            raise ValueError(f"a claim needs a verdict, but row {self.figure!r} has only the claim {self.claim!r}")

    @property
    def against(self) -> str | None:
        """What ours is held against: the rival, else the baseline, else the reference."""
        return self.rival or self.baseline or self.reference


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
    watch: Watch | None = None  # this process only looks on: called as it waits for workers on other machines

    def model_name(self, kind: str) -> str:
        """The registered name of a kind of model: `mnist-autoencoder`."""
        return model_name(self.dataset.name, kind)


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    Attributes:
        config: Its own settings.
        others: The settings of other stages that it reads, by the stage's and the setting's name.
        inputs: The exact versions that it builds on, by kind.
    """

    stage: Stage
    session: Session
    config: Any
    others: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Version]

    @property
    def dataset(self) -> Dataset:
        return self.session.dataset

    @property
    def device(self) -> torch.device:
        return self.session.device

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
        return self.inputs[kind].rebuild(factory).to(self.device)

    def kept_arrays(self, kind: str, make: Callable[[], Mapping[str, Any]], *others: object) -> dict[str, Any]:
        """Arrays that follow from an input model and the data set, made once a store and kept beside the model.

        Args:
            others: What else they follow from, if anything.
        """
        from tracking.arrays import kept_arrays

        version, digest = self.inputs[kind], self.dataset.digest
        name = f"{version.weights_digest[:16]}-{digest}-{self.stage.recipe}"
        if others:
            name = f"{name}-{fingerprint(others)}"
        with self.session.store.locks.hold(f"{version.uri}/{name}"):
            return kept_arrays(version.run_id, name, make)

    def identity(self) -> dict[str, Any]:
        """All that decides what a trial of this stage computes, beside the trial's own parameters."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in self.stage.extent}
        return {
            "recipe": self.stage.recipe,
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
