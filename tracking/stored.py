"""Models in the store: how they are logged, and how they are loaded again, with a check that nobody changed them.

MLflow and torch.export are imported where they are used: a command that only needs the weights does without.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import torch
import yaml
from torch import Tensor, nn

from tracking.archive import read_weights
from tracking.errors import StoreError

FILES, WEIGHTS = "model.files", "weights.sha256"  # a run's tags: of each file of its model, and of the weights alone
AGAIN = "it is not loaded; restore it, or delete its run in MLflow, so that it runs again"
PYTORCH = "pytorch"  # the flavor of our models
ARCHIVE = "data/model.pt2"
EXAMPLE = "input_example.json"
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class NoModelError(StoreError):
    """The run has no model: it has logged none, or it was deleted."""


class Stored:
    """A model in the store: how it was built, its weights when asked for."""

    uri: str
    source: str  # where its files are
    tags: Mapping[str, str]  # of its run, its digests among them
    root: str  # where the models of its run's experiment are

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the model was logged with: its config, data set, class names, seed."""
        with self._files() as folder:
            return dict(_description(folder).get("metadata") or {})

    def config(self) -> dict[str, Any]:
        """The keyword arguments and settings that the model was logged with."""
        return dict(self.metadata["config"])

    @property
    def weights_digest(self) -> str:
        """That of the weights alone: the same for the same training, whatever the version's number."""
        if WEIGHTS not in self.tags:
            raise StoreError(f"{self.uri} was not logged by this study, or its run was deleted for good")
        return self.tags[WEIGHTS]

    def load(self) -> nn.Module:
        """The module itself, in evaluation mode, with `forward` only (a torch.export program)."""
        import mlflow.pytorch

        logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
        with self._files() as folder, TemporaryDirectory() as plain:
            if "%" in str(folder):  # MLflow reads it as a URL's, and would look elsewhere
                folder = Path(copytree(folder, Path(plain) / "model"))
            return mlflow.pytorch.load_model(str(folder))

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, to put into a module rebuilt from `config`, which can then be trained further."""
        with self._files() as folder:
            weights = read_weights(folder / ARCHIVE)
        if weights is None or weights_digest(weights) != self.weights_digest:
            return self.load().state_dict()
        return weights

    def example(self) -> Tensor:
        """The inputs that the model was logged with, float32 [N, ...] with N >= 2."""
        with self._files() as folder:
            return torch.tensor(json.loads((folder / EXAMPLE).read_text()))

    def rebuild(self, factory: type[ModuleT]) -> ModuleT:
        """The module as it was built, with its weights, in evaluation mode; can be trained, has its submodules."""
        module = factory(**self.config()["module"])
        module.load_state_dict(self.state_dict())
        return module.eval()

    @contextmanager
    def _files(self) -> Iterator[Path]:
        """The folder of the model's files, brought here from a server for as long as they are used.

        Raises:
            StoreError: They are missing, not those that were logged, elsewhere than the store keeps its models, or
                they bring code along.
        """
        if FILES not in self.tags:
            raise StoreError(
                f"{self.uri} was not logged by this study, or its run was deleted for good: it is not loaded"
            )
        if not lies_below(self.source, self.root):
            raise StoreError(f"the files of {self.uri} are outside the store, at {self.source}: it is not loaded")
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(_local(self.source))
            except OSError as error:
                raise StoreError(f"the files of {self.uri} are missing: {AGAIN}") from error
            for name, digest in self._manifest().items():
                file = folder / name
                if not file.is_file():
                    raise StoreError(f"the file {name} of {self.uri} is missing: {AGAIN}")
                if _digest(file) != digest:
                    raise StoreError(f"the file {name} of {self.uri} was changed since it was logged: {AGAIN}")
            flavors = _description(folder)["flavors"]
            if any(flavor.get("code") for flavor in flavors.values()) or PYTORCH not in flavors:
                raise StoreError(f"{self.uri} brings code along or is no PyTorch model: it is not loaded")
            yield folder

    def _manifest(self) -> dict[str, str]:
        """The digests of the model's files by their names; a StoreError if somebody has edited the tag."""
        with suppress(ValueError):
            found = json.loads(self.tags[FILES])
            if isinstance(found, dict) and "MLmodel" in found:
                return found
        raise StoreError(f"the run's tag {FILES} of {self.uri} was changed since it was logged: {AGAIN}")


@dataclass(frozen=True)
class LoggedModel(Stored):
    """The model of a run, registered or not."""

    uri: str
    source: str
    tags: Mapping[str, str]
    root: str


def log_model(module: nn.Module, example: Tensor, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Log the module with the active run, as `pt2`: a torch.export program, nothing pickled.

    The digests of its files and of its weights become tags of the run: files that were changed since are not loaded.

    Args:
        module: Takes one tensor; logged in evaluation mode, on the CPU.
        example: An input [N, ...] with N >= 2; the batch size stays free.
        config: What it takes to rebuild the module.
        facts: Data set, class names, seed, git commit, kept beside the config.
    """
    import mlflow.pytorch
    from mlflow.entities import RunTag

    from tracking.client import client

    # torch.export would pickle weights that are laid out in another order.
    plain = copy.deepcopy(module).cpu().eval().to(memory_format=torch.contiguous_format)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logged = mlflow.pytorch.log_model(
        plain,
        name="model",
        input_example=example.cpu().numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"mlflow=={mlflow.__version__}"],
        metadata={"config": dict(config), **facts},
        validate_serving_input=False,  # it loads what was just written: a third of the time to log a model
    )
    with _local(logged.artifact_path) as folder:
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        manifest = json.dumps({name: _digest(path) for name, path in files.items()})
    digests = {FILES: manifest, WEIGHTS: weights_digest(module.state_dict())}
    tags = [RunTag(name, value) for name, value in digests.items()]
    client().log_batch(logged.run_id, tags=tags)


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
        NoModelError: It has logged none, or the model was deleted.
    """
    from mlflow.exceptions import MlflowException

    from tracking.client import client

    run = client().get_run(run_id)
    outputs = run.outputs
    if outputs is None or not outputs.model_outputs:
        raise NoModelError(f"run {run_id} has logged no model")
    model_id = outputs.model_outputs[0].model_id
    try:
        source = client().get_logged_model(model_id).artifact_location
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NoModelError(
            f"the model of run {run_id} was deleted: restore it, if its files are still there,"
            " or delete the run in MLflow too, so that it runs again"
        ) from error
    return LoggedModel(f"models:/{model_id}", source, dict(run.data.tags), model_root(run.info.experiment_id))


def kept_model(run_id: str) -> LoggedModel | None:
    """The model that the run has logged, None if there is none, or it was deleted (see `delete_model`)."""
    try:
        return logged_model(run_id)
    except NoModelError:
        return None


def delete_model(run_id: str) -> None:
    """Delete the model that the run has logged, its files too; nothing where there is none.

    Raises:
        StoreError: The files are outside the store.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from tracking.client import client

    model = kept_model(run_id)
    if model is None:
        return
    if not lies_below(model.source, model.root):
        raise StoreError(f"the files of {model.uri} are outside the store, at {model.source}: they are not deleted")
    with suppress(MlflowException, OSError):  # a process may have stopped half way: the files are gone already
        get_artifact_repository(model.source).delete_artifacts()
    client().delete_logged_model(model.uri.removeprefix("models:/"))


def model_root(experiment_id: str) -> str:
    """Where the models of an experiment's runs are; "" if its database names a place outside the open store."""
    import mlflow

    from tracking.client import ARTIFACTS, client

    root = client().get_experiment(experiment_id).artifact_location.rstrip("/")
    artifacts = ARTIFACTS.get(mlflow.get_tracking_uri())
    return root if artifacts is None or lies_below(root, artifacts) else ""


def lies_below(address: str, root: str) -> bool:
    """Whether an address is below another one, whatever way it is written: with %2e%2e for .., say."""
    plain, above = unquote(address), unquote(root).rstrip("/")
    return bool(above) and plain.startswith(f"{above}/") and ".." not in plain.split("/")


@contextmanager
def _local(source: str) -> Iterator[Path]:
    """A model's folder: where it lies, or a copy of it from a server, which does not stay.

    Raises:
        OSError: It is not there.
    """
    if source.startswith(("file:", "/")):
        folder = Path(url2pathname(urlsplit(source).path) if source.startswith("file:") else source)
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        yield folder
        return

    import mlflow.artifacts

    from tracking.client import if_there

    with TemporaryDirectory() as copy:
        brought = ""
        with if_there():
            brought = mlflow.artifacts.download_artifacts(source, dst_path=copy)
        if not brought:
            raise FileNotFoundError(source)
        yield Path(brought)


def _description(folder: Path) -> dict[str, Any]:
    """What MLflow has written down of a model: flavors, metadata."""
    return yaml.safe_load((folder / "MLmodel").read_text())


def _digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
