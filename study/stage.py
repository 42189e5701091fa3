"""What every stage is given and gives back: its context, its study in the store, its outcome."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from study.cli import command_of
from study.config import QUESTIONS, StageName, StudyConfig
from study.data import Dataset
from study.progress import short
from study.search import Objective, Result, Search, Trial, run_search, study_name
from tracking import registry
from tracking.registry import Direction, LoggedModel, Promotion, Version
from tracking.runs import Run, study_run
from tracking.store import Store

OUTPUTS: dict[StageName, tuple[str, ...]] = {
    "judge": ("judge", "second-judge"),
    "autoencoder": ("autoencoder",),
    "transfer": ("classifier",),
    "latent-gan": ("latent-gan",),
    "conditional-gan": ("conditional-gan",),
}
"""The kinds of model that each stage registers; their names are `<data set>-<kind>`."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Row:
    """One line of the final table. None: there is none."""

    figure: str
    ours: str
    reference: str | None = None
    baseline: str | None = None


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of repeats, the latter 0 for a single one."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def with_spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation in this format, "{:.1%}" say; of a single value only itself."""
    middle, width = map(form.format, spread(values))
    return f"{middle} ± {width}" if len(values) > 1 else middle


@dataclass(frozen=True)
class Outcome:
    """A stage's champion, and its figures for the final table."""

    stage: StageName
    champion: Version
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Context:
    """What a stage works with; the data set lies on the device."""

    config: StudyConfig
    preset: str
    dataset: Dataset
    store: Store
    device: torch.device

    def references(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """The reference's figures, which are MNIST's: none on another data set."""
        return figures if self.dataset.name == "mnist" else {}

    def model_name(self, kind: str) -> str:
        return model_name(self.dataset.name, kind)

    def input(self, kind: str) -> Version:
        """The champion of this kind, resolved once: the stage goes on with this very version."""
        return registry.require_champion(self.model_name(kind))

    def champion(self, kind: str) -> Version | None:
        """The sitting champion of this kind, None if there is none."""
        return registry.champion(self.model_name(kind))

    def rebuild(self, version: Version | LoggedModel, kind: type[ModuleT]) -> ModuleT:
        """The stored module with its weights, in evaluation mode; can be trained, has its submodules."""
        module = kind(**version.config()["module"])
        module.load_state_dict(version.state_dict())
        return module.to(self.device).eval()

    @contextmanager
    def study(
        self, stage: StageName, description: str, settings: Mapping[str, Any], inputs: Mapping[str, Version]
    ) -> Iterator[Study]:
        """The stage's study and its parent run: those of an earlier call with the same settings, or new ones.

        Args:
            settings: All that decides what a trial computes.
            inputs: The champions that the stage builds on, by kind.
        """
        data = self.dataset
        input_tags = {f"input.{kind}": version.uri for kind, version in inputs.items()}
        settings = {"seed": self.config.seed, **settings, **input_tags}
        name = study_name(data.name, stage, settings)
        facts = {"dataset": data.name, "seed": self.config.seed, "git_commit": git_commit()}
        tags = {
            "preset": self.preset,
            "command": command_of(self.preset, replace(self.config, data=data.name)),  # type: ignore[arg-type]
            "settings": json.dumps(settings, default=str),
            "versions": versions(),
            "images": f"{len(data.train):,} training, {len(data.val):,} validation, {len(data.test):,} test",
            **facts,
            **input_tags,
        }
        about = f"{QUESTIONS[stage]}\n\n{description}"
        models = [registry.logged_model(version.run_id).uri for version in inputs.values()]
        made_from = (data.name, data.digest, len(data.train), models)
        experiment = self.store.experiment(f"{data.name}/{stage}", QUESTIONS[stage])
        with study_run(self.store, experiment, name, about, tags) as parent:
            parent.rename(f"{self.preset}, seed {self.config.seed} ({name.rpartition('/')[2]})")
            parent.log_inputs(*made_from)
            yield Study(self, stage, name, parent, facts | input_tags, made_from)


@dataclass(frozen=True)
class Study:
    """A stage's study under way: its searches, its models, its promotion."""

    context: Context
    stage: StageName
    name: str
    parent: Run
    facts: Mapping[str, Any]
    made_from: tuple[str, str, int, list[str]]  # data set, its digest and size, and models
    results: list[Result] = field(default_factory=list)  # of all its searches so far

    def search(self, search: Search, objective: Objective, part: str = "") -> list[Result]:
        """Run what is missing of a search; every trial starts from the study's seed.

        Args:
            part: Tells several searches of one study apart.
        """
        seed = self.context.config.seed_for(0)

        def seeded(trial: Trial) -> tuple[float, ...]:
            torch.manual_seed(seed)
            values = ", ".join(short({"": value})[1:] for value in trial.params.values())
            trial.run.rename(f"{part or 'trial'} {trial.number}{values and ': '}{values}")
            trial.run.set_tags(self.facts)
            trial.run.log_inputs(*self.made_from)
            return objective(trial)

        name = f"{self.name}/{part}" if part else self.name
        label = f"{self.stage} {part}".rstrip()
        results = run_search(name, search, seeded, self.context.store, self.parent, seed, label)
        self.results.extend(results)
        return results

    def close(self, end: Callable[[], Outcome]) -> Outcome:
        """What follows the trials: promotion, figures, rows. Done once, by whichever process comes first.

        The others, and later calls, get the same outcome from the parent run, as long as trials, settings, code and
        champion are the same. If the process dies, another one does it again from the start: `end` must allow that.
        """
        with self.context.store.lock(f"{self.context.dataset.name}/{self.stage}/close"):
            sitting = self.context.champion(OUTPUTS[self.stage][0])
            kept = self.parent.read_json("outcome")
            if kept is not None and sitting is not None and kept["of"] == self._fingerprint(sitting):
                return Outcome(self.stage, sitting, tuple(Row(**row) for row in kept["rows"]))
            outcome = end()
            kept = {"of": self._fingerprint(outcome.champion), "champion": outcome.champion.uri}
            self.parent.log_json("outcome", kept | {"rows": [asdict(row) for row in outcome.rows]})
            return outcome

    def _fingerprint(self, champion: Version) -> str:
        """Of all that an outcome depends on."""
        settings = asdict(self.context.config)[self.stage.replace("-", "_")]
        trials = [(result.number, result.run_id) for result in self.results]
        content = [champion.uri, trials, settings, git_commit()]
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()

    def log_model(self, module: nn.Module, example: Tensor, config: Mapping[str, Any]) -> None:
        """Log the module with the trial's run; `config["module"]` are its constructor's arguments."""
        registry.log_model(module, example, config, {key: str(value) for key, value in self.facts.items()})

    def promote(
        self, result: Result, kind: str, metric: str, direction: Direction, description: str, **options: Any
    ) -> Promotion:
        """Register the trial's model and make it the champion if it is better (see `registry.promote`)."""
        version = registry.register(self.context.model_name(kind), result.run_id, description)
        registry.describe(version, self._pedigree(result, version, metric))
        promotion = registry.promote(version, metric, direction, **options)
        self.parent.set_tags({"best.run_id": result.run_id, "best.version": version.uri, "best.metric": metric})
        self.parent.log({f"best/{metric}": promotion.value})
        if promotion.sitting_value is not None:
            self.parent.log({f"sitting/{metric}": promotion.sitting_value})
        return promotion

    def _pedigree(self, result: Result, version: Version, metric: str) -> str:
        """Where a version comes from and how good it is, in Markdown."""
        told = [name for name in sorted(version.metrics) if name == metric or name.startswith(("test/", "sample/"))]
        return "\n\n".join(
            [
                f"Trial {result.number} of {self.name}: {short(result.params)}",
                f"Made from: {', '.join(f'{name} {value}' for name, value in self.facts.items())}",
                "\n".join(f"- {name}: {version.metrics[name]:.4g}" for name in told),
            ]
        )


def model_name(dataset: str, kind: str) -> str:
    """The registered name of a kind of model on a data set: `mnist-autoencoder`."""
    return f"{dataset}-{kind}"


def settings_of(config: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a stage's config, less those that only say how many trials there are."""
    return {name: value for name, value in asdict(config).items() if name not in left_out}


@cache
def git_commit() -> str:
    """The commit of the code that runs, "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def versions() -> str:
    """Of Python and of the packages that the figures depend on."""
    packages = ("torch", "numpy", "scikit-learn", "optuna", "mlflow")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version_of(name)}" for name in packages)])
