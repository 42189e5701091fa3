"""Models in the store: weights as safetensors, the config beside them; a registered one as a torch.export program too.

Nothing is unpickled, and nothing from a store runs as code: a model is rebuilt as one of the classes in the package
`models`; the program of a model of another class is read only if it is the one that was logged.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from mlflow import MlflowException
from mlflow.entities import LoggedModelOutput
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from tracking.errors import StoreError, opened
from tracking.store import client, path_of, read_artifact

if TYPE_CHECKING:
    from tracking.runs import Run

WEIGHTS, EXAMPLE, ABOUT, PROGRAM = "weights.safetensors", "example.safetensors", "model.json", "data/model.pt2"
WEIGHTS_DIGEST, PROGRAM_DIGEST = "weights.sha256", "program.sha256"  # tags of the run
AGAIN = "it is not loaded; restore it, or delete its run in MLflow, so that it runs again"
CACHE = "cache"  # the folder among the artifacts of a run, and the start of its tags
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Stored:
    """A model in the store: its address, the address of its files, the tags of its run."""

    uri: str
    location: str
    tags: Mapping[str, str]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Its config, data set, class names, seed."""
        return self._about["metadata"]

    def config(self) -> dict[str, Any]:
        """Return the arguments of its constructor, `config["module"]`, and the settings that it was trained with."""
        return dict(self.metadata["config"])

    @property
    def weights_digest(self) -> str:
        """The digest of the weights: the same for the same training, whatever the number of the version."""
        if WEIGHTS_DIGEST in self.tags:
            return self.tags[WEIGHTS_DIGEST]
        raise StoreError(f"{self.uri} was not logged by this study, or its run was deleted for good: it is not loaded")

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights; a StoreError if they are missing, or were changed since they were logged."""
        with suppress(SafetensorError):
            weights = load(self._read(WEIGHTS))
            if weights_digest(weights) == self.weights_digest:
                return weights
        raise StoreError(f"the file {WEIGHTS} of {self.uri} was changed since it was logged: {AGAIN}")

    def rebuild(self, factory: type[ModuleT]) -> ModuleT:
        """Return a module of this class with the weights, in evaluation mode; it can be trained."""
        module = factory(**self.config()["module"])
        module.load_state_dict(self.state_dict())
        return module.eval()

    def load(self) -> nn.Module:
        """Return the module in evaluation mode; one of a class that is not ours as a program with `forward` only."""
        if self._about["class"]:
            with torch.random.fork_rng(devices=[]):
                return self.rebuild(_class(self._about["class"]))
        program = self._read(PROGRAM)
        if hashlib.sha256(program).hexdigest() != self.tags.get(PROGRAM_DIGEST):
            raise StoreError(f"the file {PROGRAM} of {self.uri} was changed since it was logged: {AGAIN}")
        return torch.export.load(io.BytesIO(program)).module()

    def example(self) -> Tensor:
        """Return the inputs that the model was logged with, float32 [N, ...] with N >= 2."""
        return load(self._read(EXAMPLE))["inputs"]

    @cached_property
    def _about(self) -> dict[str, Any]:
        with suppress(ValueError, TypeError):
            found = json.loads(self._read(ABOUT))
            return {name: found[name] for name in ("class", "metadata")}
        raise StoreError(f"the file {ABOUT} of {self.uri} was changed since it was logged: {AGAIN}")

    def _read(self, name: str) -> bytes:
        """Return the content of one of the files of a model that this study has logged."""
        content = read_artifact(f"{self.location}/{name}") if self.weights_digest else None
        if content is not None:
            return content
        raise StoreError(f"the file {name} of {self.uri} is missing: {AGAIN}")


@dataclass(frozen=True)
class LoggedModel(Stored):
    """The model of a run, registered or not."""

    uri: str
    location: str
    tags: Mapping[str, str]


def log_model(run: Run, module: nn.Module, example: Tensor, config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Log the module, which takes one tensor, with the run. The digest of its weights becomes a tag of the run.

    If `config["module"]` does not rebuild it as a class of the package `models`, its program is exported at once; else
    as it is registered, since that takes long. `example` is an input [N, ...] with N >= 2; `facts` (data set, class
    names, seed, git commit) are kept beside the config. Return the id of the logged model.
    """
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    about: dict[str, Any] = {"class": _rebuilt_as(module, config), "metadata": {"config": dict(config), **facts}}
    tags = {WEIGHTS_DIGEST: weights_digest(weights)}
    model_id = client().create_logged_model(run.experiment_id, "model", run.run_id).model_id
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        if about["class"] is None:
            _export(module, example, about["metadata"], folder)
            tags[PROGRAM_DIGEST] = hashlib.sha256((folder / PROGRAM).read_bytes()).hexdigest()
        folder.mkdir(exist_ok=True)
        save_file(weights, folder / WEIGHTS)
        save_file({"inputs": example.cpu().contiguous()}, folder / EXAMPLE)
        (folder / ABOUT).write_text(json.dumps(about))
        client().log_model_artifacts(model_id, str(folder))
    client().finalize_logged_model(model_id, "READY")
    client().log_outputs(run.run_id, [LoggedModelOutput(model_id, 0)])
    run.set_tags(tags)
    return model_id


def complete(model: LoggedModel) -> None:
    """Add to a logged model what MLflow needs to load it, if that is not there: its torch.export program."""
    if model._about["class"] is not None:
        with TemporaryDirectory() as temporary:
            _export(model.load(), model.example(), model.metadata, Path(temporary) / "model")
            client().log_model_artifacts(model.uri.removeprefix("models:/"), str(Path(temporary) / "model"))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def logged_model(run_id: str) -> LoggedModel:
    """Return the model that the run has logged; a StoreError if it has logged none, or the model was deleted."""
    run = client().get_run(run_id)
    if run.outputs is None or not run.outputs.model_outputs:
        raise StoreError(f"run {run_id} has logged no model")
    model_id = run.outputs.model_outputs[0].model_id
    try:
        location = client().get_logged_model(model_id).artifact_location
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise StoreError(f"the model of run {run_id} was deleted: delete the run too, so that it runs again") from error
    return LoggedModel(f"models:/{model_id}", location, dict(run.data.tags))


def kept_model(run_id: str) -> LoggedModel | None:
    """Return the model that the run has logged, None if there is none, or it was deleted (see `delete_model`)."""
    with suppress(StoreError):
        return logged_model(run_id)
    return None


def delete_model(run_id: str) -> None:
    """Delete the model that the run has logged, if any, with its files; files outside the store are a StoreError."""
    if (model := kept_model(run_id)) is None:
        return
    if model.location.startswith("file:"):
        folder = path_of(model.location).resolve()
        if not any(folder.is_relative_to(store.resolve()) for store in opened):
            raise StoreError(f"the files of {model.uri} are outside the store, at {folder}: they are not deleted")
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with suppress(MlflowException, OSError):  # a process may have stopped half way: the files are gone already
            get_artifact_repository(model.location).delete_artifacts()
    client().delete_logged_model(model.uri.removeprefix("models:/"))


def cached_arrays(run_id: str, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays that are cached beside the run; made anew where their file is missing, or was changed.

    The name, of letters, digits, "-" and ".", should contain the digests of all that the arrays are made from.
    """
    run, tag, file = client().get_run(run_id), f"{CACHE}.{name}", f"{name}.npz"
    content = read_artifact(f"{run.info.artifact_uri}/{CACHE}/{file}") if tag in run.data.tags else None
    if content is not None and hashlib.sha256(content).hexdigest() == run.data.tags[tag]:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    made = dict(make())
    with TemporaryDirectory() as folder, suppress(MlflowException):  # a run that was deleted: nothing is cached
        np.savez(path := Path(folder) / file, **made)  # type: ignore[arg-type]
        client().log_artifact(run_id, str(path), CACHE)
        client().set_tag(run_id, tag, hashlib.sha256(path.read_bytes()).hexdigest())
    return made


def _export(module: nn.Module, example: Tensor, metadata: Mapping[str, Any], folder: Path) -> None:
    """Write the module, in evaluation mode, as MLflow loads it: a torch.export program of any batch size."""
    import mlflow.pytorch

    # torch.export would pickle weights that are laid out in another order.
    plain = copy.deepcopy(module).cpu().eval().to(memory_format=torch.contiguous_format)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.pytorch.save_model(
        plain,
        folder,
        input_example=example.cpu().numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"mlflow=={mlflow.__version__}"],
        metadata=dict(metadata),
        serialization_format="pt2",
    )


def _rebuilt_as(module: nn.Module, config: Mapping[str, Any]) -> str | None:
    """Return the name of the module's class, None if the config does not rebuild it as one of ours."""
    name = f"{type(module).__module__}:{type(module).__qualname__}"
    with suppress(Exception), torch.random.fork_rng(devices=[]), torch.device("meta"):  # no weights are made
        again = _class(name)(**config["module"]).state_dict()
        own = module.state_dict()
        if {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in own.items()}:
            return name
    return None


def _class(name: str) -> type[nn.Module]:
    """Return the class of this name, `models.gan:LatentGenerator` say, which must be one of ours."""
    module, _, kind = name.partition(":")
    found = getattr(import_module(module), kind, None) if module.startswith("models.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise StoreError(f"a model of the class {name} is not loaded: it is none of the package `models`")
    return found
