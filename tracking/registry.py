"""The model registry: the hand-off between stages. Names in, versions with the alias `champion` out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
import mlflow.pytorch
import torch
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from tracking.runs import gallery
from tracking.store import StoreError

CHAMPION, DIGEST = "champion", "model.sha256"  # an alias; a run's tag
LOADED = "registered_model_meta"  # MLflow itself leaves it among a model's files as it loads one by name
Direction = Literal["minimize", "maximize"]


class _Stored:
    """A model in the store: how it was built, its weights when asked for."""

    uri: str
    source: str  # where its files are
    digest: str | None  # of its files, None for those of before there were digests

    def config(self) -> dict[str, Any]:
        """The keyword arguments and settings that the model was logged with."""
        metadata = mlflow.models.Model.load(self._files()).metadata or {}
        return dict(metadata["config"])

    def load(self) -> nn.Module:
        """The module itself, in evaluation mode, with `forward` only (a torch.export program)."""
        logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
        return mlflow.pytorch.load_model(self._files())

    def _files(self) -> str:
        """The folder of the model's files, brought here from a server.

        Raises:
            StoreError: They are not those that were logged.
        """
        folder = mlflow.artifacts.download_artifacts(self.source)
        if self.digest is not None and _digest(Path(folder)) != self.digest:
            raise StoreError(f"the files of {self.uri} were changed since it was logged: it is not loaded")
        return folder

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, to put into a module rebuilt from `config`, which can then be trained further."""
        return self.load().state_dict()


@dataclass(frozen=True)
class LoggedModel(_Stored):
    """The model of a run, registered or not."""

    uri: str
    source: str
    digest: str | None


@dataclass(frozen=True)
class Version(_Stored):
    """A registered version, and where it comes from."""

    name: str
    number: int
    run_id: str
    source: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]  # of its run, the versions of its inputs among them

    @property
    def uri(self) -> str:  # type: ignore[override]
        return f"models:/{self.name}/{self.number}"

    @property
    def digest(self) -> str | None:  # type: ignore[override]
        return self.tags.get(DIGEST)


@dataclass(frozen=True)
class Promotion:
    """What `promote` did. `sitting` is the version that held the alias before, None if none did."""

    version: Version
    champion: Version
    metric: str
    value: float
    sitting: Version | None
    sitting_value: float | None


def log_model(module: nn.Module, example: Tensor, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Log the module with the active run, as `pt2`: a torch.export program, nothing pickled.

    The digest of its files becomes a tag of the run: files that were changed since are not loaded.

    Args:
        module: Takes one tensor; logged in evaluation mode, on the CPU.
        example: An input [N, ...] with N >= 2; the batch size stays free.
        config: What it takes to rebuild the module.
        facts: Data set, seed, git commit, kept beside the config.
    """
    training, device = module.training, example.device
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logged = mlflow.pytorch.log_model(
        module.cpu().eval(),
        name="model",
        input_example=example.cpu().numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"mlflow=={mlflow.__version__}"],
        metadata={"config": dict(config), **facts},
    )
    files = mlflow.artifacts.download_artifacts(logged.artifact_path)
    mlflow.MlflowClient().set_tag(logged.run_id, DIGEST, _digest(Path(files)))
    module.to(device).train(training)


def logged_model(run_id: str) -> LoggedModel:
    """The model that the run has logged.

    Raises:
        StoreError: It has logged none.
    """
    run = mlflow.MlflowClient().get_run(run_id)
    outputs = run.outputs
    if outputs is None or not outputs.model_outputs:
        raise StoreError(f"run {run_id} has logged no model")
    model_id = outputs.model_outputs[0].model_id
    source = mlflow.MlflowClient().get_logged_model(model_id).artifact_location
    return LoggedModel(f"models:/{model_id}", source, run.data.tags.get(DIGEST))


def champion(name: str) -> Version | None:
    """The version with the alias `champion`, None if there is none."""
    # A search, since to ask for a model that is not there is forbidden where a server asks for passwords.
    found = mlflow.MlflowClient().search_registered_models(f"name = '{name}'")
    if not found or CHAMPION not in found[0].aliases:
        return None
    return version(name, int(found[0].aliases[CHAMPION]))


def version(name: str, number: int) -> Version:
    """The registered version of this number."""
    return _version(mlflow.MlflowClient().get_model_version(name, str(number)))


def require_champion(name: str) -> Version:
    """Like `champion`, but a missing one is an error that names it.

    Raises:
        StoreError: No version of `name` has the alias.
    """
    return require_version(name, None)


def require_version(name: str, number: int | None) -> Version:
    """The version of this number, None: the champion.

    Raises:
        StoreError: The store does not have it.
    """
    if number is None:
        found = champion(name)
        if found is not None:
            return found
    known = sorted((each.name, int(each.version)) for each in mlflow.MlflowClient().search_model_versions())
    if number is not None and (name, number) in known:
        return version(name, number)
    missing = f"{name}@{CHAMPION}" if number is None else f"{name}/{number}"
    has = ", ".join(f"{model}/{each}" for model, each in known) or "none"
    raise StoreError(f"no model is registered as {missing} in this store (it has: {has})")


def register(name: str, run_id: str, description: str) -> Version:
    """The version that holds the model of this run: found again if the store has it, else made."""
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if known:
        return _version(known[0])
    model = logged_model(run_id)
    model_id = model.uri.removeprefix("models:/")
    return _version(client.create_model_version(name, model.source, run_id=run_id, model_id=model_id))


def describe(version: Version, text: str) -> None:
    """Describe the version on its page: this text, then the figures of its run."""
    text = f"{text}\n\n{gallery(version.run_id)}"
    mlflow.MlflowClient().update_model_version(version.name, str(version.number), text)


def promote(
    version: Version,
    metric: str,
    direction: Direction,
    *,
    sitting_value: float | None = None,
    insist: bool = False,
) -> Promotion:
    """Move the alias `champion` to this version if it is better than the sitting champion on one metric.

    Both values are logged as tags of the version. A tie keeps the sitting champion.

    Args:
        version: The candidate.
        metric: A metric of both runs.
        direction: Whether less or more of it is better.
        sitting_value: The sitting champion's value, where that in its run was measured otherwise (by another
            judge, say) and had to be measured anew.
        insist: Move the alias in any case.
    """
    client = mlflow.MlflowClient()
    sitting = champion(version.name)
    value = version.metrics[metric]
    if sitting is not None and sitting_value is None:
        sitting_value = sitting.metrics[metric]
    better = sitting_value is None or (value < sitting_value if direction == "minimize" else value > sitting_value)
    moves = sitting is None or (sitting.number != version.number and (better or insist))
    tags = {f"promotion.{metric}": value, "promotion.moved": str(moves).lower()}
    if sitting is not None and sitting.number != version.number:
        tags |= {"promotion.sitting": sitting.number, f"promotion.sitting.{metric}": sitting_value}
    if sitting is None or sitting.number != version.number:
        for key, entry in tags.items():
            client.set_model_version_tag(version.name, str(version.number), key, str(entry))
    if moves:  # last: whoever dies before has this done again
        client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
    winner = version if moves or sitting is None else sitting
    return Promotion(version, winner, metric, value, sitting, sitting_value)


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in the folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOADED:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _version(found: Any) -> Version:
    run = mlflow.MlflowClient().get_run(found.run_id)
    return Version(
        found.name, int(found.version), found.run_id, found.source, dict(run.data.metrics), dict(run.data.tags)
    )
