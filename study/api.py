"""The study from Python and notebooks: registered models by their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from study.checks import UsageError, expanded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracking.models import Stored

Part = Literal["encoder", "decoder"]
NAME = re.compile(r"(?:models:/)?([\w.-]+)(?:@([\w-]+)|/([1-9]\d{0,8}))?", re.ASCII)


def registered(name: str, store: Path = Path("mlruns"), tracking_uri: str | None = None) -> Stored:
    """Return the registered version that NAME (the champion), NAME@ALIAS or NAME/NUMBER stands for.

    Args:
        store: The study's folder.
        tracking_uri: MLflow server in place of the folder.

    Raises:
        UsageError: The name has another form.
        StoreError: The store cannot be read, or does not have the version.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"the model must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got {name!r}")
    model, alias, number = match[1], match[2] or "champion", int(match[3]) if match[3] else None
    folder = expanded(store, "--store")
    from tracking.store import read_store

    read_store(folder, tracking_uri)
    from tracking import registry

    return registry.require_version(model, number or alias)


def module_of(version: Stored, part: Part | None = None) -> tuple[nn.Module, Tensor]:
    """Return a model, or a part of an autoencoder, in evaluation mode, and inputs for it, [N, ...] with N >= 2.

    Raises:
        UsageError: The model has no such part.
    """
    module, inputs = version.load(), version.example()
    if part is None:
        return module, inputs
    from models.autoencoder import Autoencoder

    if not isinstance(module, Autoencoder):
        raise UsageError(f"--part can be given of an autoencoder only, but got {version.uri}")
    return (module.encoder, inputs) if part == "encoder" else (module.decoder, module.encoder(inputs).detach())
