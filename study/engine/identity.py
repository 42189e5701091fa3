"""What a study is known by, and what its trials were computed with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
PACKAGES = ("models", "tracking", "study")  # the code that decides what is computed


def fingerprint(content: Any) -> str:
    """Eight hexadecimal digits of plain data."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def computed_with(device: Any) -> dict[str, str]:
    """What a trial is computed with, as tags: code, versions, device, threads."""
    import torch

    commit, dirty = code_state()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": str(torch.get_num_threads()),
    }


@cache
def code_digest(*others: str) -> str:
    """A digest of the code that makes trials, figures and rows: of our packages, and of these further files."""
    root = Path(__file__).resolve().parents[2]
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    digest = hashlib.sha256()
    for path in (*files, *map(Path, others)):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


@cache
def code_state() -> tuple[str, str]:
    """The commit of the code that runs, and whether it was changed since: "true" or "false".

    "unknown" for both unless this very file is tracked in a checkout: the user's own repository around an installed
    copy, or one that GIT_DIR names, says nothing about this code.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return UNKNOWN, UNKNOWN
    status = ("status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--", *PACKAGES)
    if (said := _git(here.parents[2], *status)) is None or "branch.oid (initial)" in said:
        return UNKNOWN, UNKNOWN
    commit, *lines = said.removeprefix("# branch.oid ").splitlines()
    return commit, str(any(not line.startswith("#") for line in lines)).lower()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in this folder; None where it cannot."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Another user's checkout is read too: git would refuse it, and the commit would be unknown.
    command = ["git", "-c", "safe.directory=*", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def versions() -> str:
    """Of Python and of the packages that the figures depend on."""
    packages = ("torch", "numpy", "scikit-learn", "optuna", "mlflow")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version_of(name)}" for name in packages)])
