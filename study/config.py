"""What a study does: one frozen dataclass, whose parts are the stages' own; and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from study.harness.launch import Request
from study.harness.launcher import Launcher
from study.harness.settings import UsageError, at_least
from study.harness.stage import KeptModels
from study.stages import all_stages

PRESETS = ("smoke", "demo", "exercise", "full")
DEFAULT = "demo"
MOST_SEEDS = 2**31


@dataclass(frozen=True)
class StudyConfig:
    """A study harness for small generative models on small images; handwritten digits are the built-in case.

    Before the flags comes a preset, or a TOML file that builds on one: smoke (does everything run?), demo (every stage
    in minutes, the default), exercise (the reference's protocol, an hour and a half), full (a wide search, hours).
    """

    data: str = "auto"
    """mnist, fashion-mnist, kmnist, digits, or a path: a folder of class folders, or an array file (.npz).
    auto: MNIST from --data-dir, else downloaded, else scikit-learn's 8x8 digits."""
    data_dir: Path | None = None
    """Folder of MNIST and its like; None: $STUDY_DATA_DIR, else ./data."""
    image_size: int = 28
    """Height and width that images are resized to, in pixels: a multiple of 4 from 16 to 64."""
    colour: bool = False
    """Keep the images' colours; else they are turned to grey."""
    store: Path = Path("mlruns")
    """Folder of the results: mlflow.db, optuna.db, artifacts/."""
    tracking_uri: str | None = None
    """MLflow server in place of the store's mlflow.db, http(s)://host:port."""
    storage: str | None = None
    """Database of Optuna in place of the store's optuna.db, as an SQLAlchemy URL."""
    seed: int = 0
    """What all randomness follows from. The same seed gives the same trial on the same machine with the same number of
    threads (OMP_NUM_THREADS, which --workers sets): sums in another order differ in their last digits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: a GPU if PyTorch sees one."""
    workers: int | Literal["auto"] = "auto"
    """Processes that share the trials, and the processor's cores; other machines may join with the same command.
    auto: $STUDY_WORKERS, else one a core ($OMP_NUM_THREADS cores, if that is set), at most 16, as far as the free
    memory goes (1.5 GiB each); on a GPU, one, or as many as share it (--launcher.gpus). On a cluster: a number."""
    launcher: Launcher = field(default_factory=Launcher)
    keep_models: KeptModels = "all"
    """champions: a stage that is done deletes the models that it has not registered; measures and pictures stay.
    Figures that need them are not made again. A trial that is to become a champion later has lost its model: delete
    its run in MLflow, and it runs again."""
    quiet: bool = False
    """No progress, only the table at the end, warnings and errors."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What to report on the way: info is a line a trial, debug what Optuna, MLflow and SQLAlchemy say too."""
    dry_run: bool = False
    """Print the plan and stop."""
    stages: tuple[str, ...] = ()
    """Stages to run, always in the order of this default."""

    def __post_init__(self) -> None:
        at_least(0, seed=self.seed)
        if self.seed >= MOST_SEEDS:
            raise ValueError(f"`seed < {MOST_SEEDS}` must hold, but got {self.seed}")
        at_least(1, stages=len(self.stages), workers=1 if self.workers == "auto" else self.workers)
        if not 16 <= self.image_size <= 64 or self.image_size % 4:
            raise ValueError(f"`image_size` must be a multiple of 4 from 16 to 64, but got {self.image_size}")

    def request(self) -> Request:
        """The stages to run and the settings of all."""
        known = all_stages()
        given: dict[str, int | None] = {kind: getattr(self.inputs, key) for kind, key in _kinds().items()}  # type: ignore[attr-defined]
        return Request(
            stages=tuple(stage for stage in known if stage.name in self.stages),
            configs={stage.name: getattr(self, stage.key) for stage in known},
            versions={kind: number for kind, number in given.items() if number is not None},
        )

    def with_inputs(self, versions: Mapping[str, int]) -> StudyConfig:
        """The same with exact versions to build on, by kind of model."""
        kinds = _kinds()
        inputs = replace(self.inputs, **{kinds[kind]: number for kind, number in versions.items()})  # type: ignore[attr-defined]
        return replace(self, inputs=inputs)  # type: ignore[call-arg]


INCIDENTAL = (
    *("store", "tracking_uri", "storage", "device", "workers", "launcher", "keep_models"),
    *("quiet", "log_level", "dry_run"),
)
"""Settings that have no part in what a study computes."""


@cache
def config_type() -> type[StudyConfig]:
    """`StudyConfig` with a field for each stage's settings, and the versions of models to build on."""
    known = all_stages()
    common = {each.name for each in fields(StudyConfig)} | {"inputs"}
    for stage in known:
        if stage.key in common:
            raise UsageError(f"a stage cannot be called {stage.name}: the study has a setting of that name")
    names = tuple(stage.name for stage in known)
    versions = make_dataclass(
        "Inputs",
        [(key, int | None, None) for key in _kinds().values()],
        frozen=True,
        namespace={
            "__doc__": "Registered versions to build on, by number; None: what the stages make, or the champion."
        },
    )
    parts = [(stage.key, stage.config, field(default=stage.preset(DEFAULT))) for stage in known]
    return make_dataclass(
        "StudyConfig",
        [
            ("stages", tuple[Literal[names], ...], field(default=names)),  # type: ignore[valid-type]
            ("inputs", versions, field(default=versions())),
            *parts,
        ],
        bases=(StudyConfig,),
        frozen=True,
        namespace={"__doc__": StudyConfig.__doc__},
    )


def preset(name: str) -> StudyConfig:
    """The config of this preset.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in PRESETS:
        raise UsageError(f"the preset must be one of {', '.join(PRESETS)} or a .toml file, but got {name!r}")
    parts: dict[str, Any] = {stage.key: stage.preset(name) for stage in all_stages()}
    return replace(config_type()(), **parts)


def _kinds() -> dict[str, str]:
    """The field of `inputs` for each kind of model that a stage makes or needs."""
    kinds = [kind for stage in all_stages() for kind in (*stage.outputs, *stage.inputs)]
    return {kind: kind.replace("-", "_") for kind in kinds}
