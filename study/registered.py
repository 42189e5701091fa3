"""A registered model, by the name that a command line gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from study.files import expanded
from study.harness.settings import UsageError

if TYPE_CHECKING:
    from tracking.registry import Version

NAME = re.compile(r"(?:models:/)?([\w.-]+)(?:@([\w-]+)|/([1-9]\d{0,8}))?", re.ASCII)


def registered(name: str, store: Path, tracking_uri: str | None) -> Version:
    """The version that is meant by NAME, the champion, by NAME@ALIAS or by NAME/NUMBER.

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
