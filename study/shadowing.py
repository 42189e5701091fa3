"""Imported first by every command: are the packages that Python finds under our names ours?

`python -m` looks into the current folder first, so that a `models` of the user's hides ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("models", "tracking")
OTHERS = (
    *("PIL", "filelock", "jinja2", "matplotlib", "mlflow", "numpy", "onnx", "onnxruntime", "optuna"),
    *("safetensors", "scipy", "sklearn", "sqlalchemy", "torch", "torchvision", "tqdm", "tyro"),
)
"""Packages that we use: a script that tries one out often has its name."""


def hidden() -> str | None:
    """A sentence about the first package that something of the same name hides; None: all are found."""
    try:
        here = Path.cwd()
    except OSError:
        return "the current folder was deleted: run from another one"
    for name in (*OURS, *OTHERS):
        try:
            found = find_spec(name)
        except ValueError:  # It is in use, and was made by hand.
            continue
        if found is None:
            continue
        place = _place(found.origin, found.submodule_search_locations or ())
        if place is None or place == ROOT / name or (name in OTHERS and place.parent != here):
            continue
        if name in OURS and found.origin is None:
            _load(name)
            continue
        whose = "of this study" if name in OURS else "that this study needs"
        if place.parent == here:
            command = getattr(sys.modules["__main__"].__spec__, "name", None) or "study.run"
            help_ = f"run from another folder, or as python -P -m {command.removesuffix('.__main__')}"
        else:
            help_ = f"take {place.parent} out of PYTHONPATH"
        return f"{place} hides the package {name!r} {whose}: {help_}"
    return None


def _place(origin: str | None, folders: Iterable[str]) -> Path | None:
    """Where a package or module lies: its folder, or its file."""
    for folder in folders:
        return Path(folder)
    return None if origin is None else Path(origin)


def _load(name: str) -> None:
    """A folder without `__init__.py` hides no installed package, but one that is installed as editable: load ours."""
    spec = spec_from_file_location(name, ROOT / name / "__init__.py", submodule_search_locations=[str(ROOT / name)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_sentence = hidden()
if _sentence is not None:
    if not (getattr(sys.modules["__main__"].__spec__, "name", None) or "").startswith("study."):
        raise ImportError(_sentence)
    print(f"error: {_sentence}", file=sys.stderr)
    sys.exit(2)
