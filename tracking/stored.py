"""Models in the store: how they are logged, and how they are loaded again, with a check that nobody changed them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import mlflow.pytorch
import torch
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from torch import Tensor, nn

from tracking.errors import StoreError

DIGEST, WEIGHTS = "model.sha256", "weights.sha256"  # a run's tags: of its model's files, and of the weights alone
LOADED = "registered_model_meta"  # MLflow itself leaves it among a model's files as it loads one by name
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Stored:
    """A model in the store: how it was built, its weights when asked for."""

    uri: str
    source: str  # where its files are
    tags: Mapping[str, str]  # of its run, its digests among them

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the model was logged with: its config, data set, class names, seed."""
        return dict(mlflow.models.Model.load(self._files()).metadata or {})

    def config(self) -> dict[str, Any]:
        """The keyword arguments and settings that the model was logged with."""
        return dict(self.metadata["config"])

    @property
    def weights_digest(self) -> str:
        """That of the weights alone: the same for the same training, whatever the version's number."""
        return self._tag(WEIGHTS)

    def load(self) -> nn.Module:
        """The module itself, in evaluation mode, with `forward` only (a torch.export program)."""
        logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
        return mlflow.pytorch.load_model(self._files())

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, to put into a module rebuilt from `config`, which can then be trained further."""
        return self.load().state_dict()

    def rebuild(self, factory: type[ModuleT]) -> ModuleT:
        """The module as it was built, with its weights, in evaluation mode; can be trained, has its submodules."""
        module = factory(**self.config()["module"])
        module.load_state_dict(self.state_dict())
        return module.eval()

    def _files(self) -> str:
        """The folder of the model's files, brought here from a server.

        Raises:
            StoreError: They are missing, or not those that were logged.
        """
        try:
            folder = mlflow.artifacts.download_artifacts(self.source)
        except (MlflowException, OSError) as error:
            raise StoreError(
                f"the files of {self.uri} are missing: restore them, or delete its run in MLflow, so that it runs again"
            ) from error
        if self._tag(DIGEST) != _digest(Path(folder)):
            raise StoreError(f"the files of {self.uri} were changed since it was logged: it is not loaded")
        return folder

    def _tag(self, name: str) -> str:
        if name not in self.tags:
            raise StoreError(
                f"{self.uri} was not logged by this study, or its run was deleted for good: it has no {name}"
            )
        return self.tags[name]


@dataclass(frozen=True)
class LoggedModel(Stored):
    """The model of a run, registered or not."""

    uri: str
    source: str
    tags: Mapping[str, str]


def log_model(module: nn.Module, example: Tensor, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Log the module with the active run, as `pt2`: a torch.export program, nothing pickled.

    The digests of its files and of its weights become tags of the run: files that were changed since are not loaded.

    Args:
        module: Takes one tensor; logged in evaluation mode, on the CPU.
        example: An input [N, ...] with N >= 2; the batch size stays free.
        config: What it takes to rebuild the module.
        facts: Data set, class names, seed, git commit, kept beside the config.
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
    digests = {DIGEST: _digest(Path(files)), WEIGHTS: weights_digest(module.state_dict())}
    tags = [RunTag(name, value) for name, value in digests.items()]
    mlflow.MlflowClient().log_batch(logged.run_id, tags=tags)
    module.to(device).train(training)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def logged_model(run_id: str) -> LoggedModel:
    """The model that the run has logged.

    Raises:
        StoreError: It has logged none, or the model was deleted.
    """
    run = mlflow.MlflowClient().get_run(run_id)
    outputs = run.outputs
    if outputs is None or not outputs.model_outputs:
        raise StoreError(f"run {run_id} has logged no model")
    model_id = outputs.model_outputs[0].model_id
    try:
        source = mlflow.MlflowClient().get_logged_model(model_id).artifact_location
    except MlflowException as error:
        raise StoreError(
            f"the model of run {run_id} was deleted: restore it, or delete the run in MLflow too, so that it runs again"
        ) from error
    return LoggedModel(f"models:/{model_id}", source, dict(run.data.tags))


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in the folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOADED:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()
