"""A registered model, by the name that a command line or a script gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from study.checks import UsageError, expanded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tracking.registry import Version

Part = Literal["encoder", "decoder"]
NAME = re.compile(r"(?:models:/)?([\w.-]+)(?:@([\w-]+)|/([1-9]\d{0,8}))?", re.ASCII)


def registered(name: str, store: Path = Path("mlruns"), tracking_uri: str | None = None) -> Version:
    """The version that is meant by NAME, the champion, by NAME@ALIAS or by NAME/NUMBER.

    Args:
        store: The study's folder.
        tracking_uri: MLflow server in place of the folder.

    Raises:
        UsageError: The name is none of these.
        StoreError: The store cannot be read, or does not have it.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"the model must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got {name!r}")
    model, alias, number = found.groups()
    from tracking.environment import check_environment
    from tracking.store import read_store

    check_environment()
    read_store(expanded(store, "--store"), tracking_uri)

    from tracking import registry

    return registry.require_version(model, int(number) if number else alias)


def module_of(version: Version, part: Part | None) -> tuple[nn.Module, Tensor]:
    """The model, or this part of it, in evaluation mode, and some inputs for it, [N, ...] with N >= 2.

    Raises:
        UsageError: It has no such part: it is no autoencoder.
    """
    inputs = version.example()
    if part is None:
        return version.load(), inputs

    import torch

    from models.autoencoder import Autoencoder

    try:
        whole = version.rebuild(Autoencoder)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # built from other settings, or other weights
        raise UsageError(f"--part can be given of an autoencoder only, but got {version.uri}") from error
    if part == "encoder":
        return whole.encoder, inputs
    with torch.no_grad():
        return whole.decoder, whole.encoder(inputs)
