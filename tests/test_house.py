"""The rules of the house: who imports whom, how large things are, what a command does not import."""

import ast
import subprocess
import sys
from collections import Counter
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from study.cli import preset

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "tracking", "study")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

PRODUCT_LINES, PRODUCT_FILES, FILE_LINES, TEST_LINES, FLAGS = 13_240, 79, 450, 10_000, 50  # of the first: 12,500
ALLOWED = {("judge", "judges"), ("run", "runs"), ("stage", "stages")}  # in different packages
BASE, MATHS = {"study.checks"}, {"study.training", "study.data", "models"}
ENGINE = {"study.engine", "study.results", "study.measures", "study.data", "tracking"}
MAY_IMPORT = {
    "models": {"models"},
    "tracking": {"tracking"},
    "study.checks": set(),
    "study.plots": set(),
    "study.data": {"study.data"} | BASE,
    "study.training": MATHS | BASE,
    "study.measures": {"study.measures"} | MATHS | BASE,
    "study.results": {"study.results", "study.measures", "study.engine"},
    "study.engine": ENGINE | {"study.config"} | BASE,
    "study.config": {"study.engine", "study.training"} | BASE,
    "study.stages": {"study.stages", "study.config", "study.plots"} | ENGINE | MATHS | BASE,
}
"""Of our own packages; what is not here (commands, cli, api, report) may import all but a command."""
COMMANDS = {f"study.{name}" for name in ("run", "ui", "sample", "predict", "export")}
ONLY = {"mlflow": "tracking", "optuna": "study.engine", "ray": "study.engine", "tyro": "study"}
SHARED = "study.stages.generators"  # by the stages that measure generators
STAGES = {"judge", "transfer", "latent-gan", "conditional-gan", "attention", "translation"}


def package(module: str) -> str:
    """`study.engine` of `study.engine.queue`; `tracking` of `tracking.store`."""
    first, *rest = module.split(".")
    return ".".join([first, *rest[:1]]) if first == "study" else first


def imports(module: str, *, at_once: bool = False) -> set[str]:
    """All that a module imports, inside functions and for type checkers too; or only what it needs to be imported."""
    names: set[str] = set()
    for node in TREES[module].body if at_once else ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & MODULES.keys() or {node.module}
    return names


def test_imports() -> None:
    for module in MODULES:
        ours = {name for name in imports(module) if name.split(".")[0] in PACKAGES}
        allowed = MAY_IMPORT.get(package(module))
        strangers = set() if allowed is None else {name for name in ours if package(name) not in allowed}
        assert not strangers | (ours & COMMANDS), f"{module} may import {allowed} only, and no command"
        for name in imports(module) - ours:
            assert module.startswith(ONLY.get(name.split(".")[0], "")), f"{module} imports {name}"
        if module.startswith("study.stages."):
            own = ".".join(module.split(".")[:3])
            others = {name for name in ours if name.startswith("study.stages.")}
            assert all(f"{name}.".startswith((f"{own}.", f"{SHARED}.")) for name in others), f"{module}: {others}"


def test_no_circle_of_imports() -> None:
    rest = {module: (imports(module, at_once=True) & MODULES.keys()) - {module} for module in MODULES}
    while free := {module for module, needed in rest.items() if not needed & rest.keys()}:
        rest = {module: needed for module, needed in rest.items() if module not in free}
    assert not rest, "these import each other"


@pytest.mark.parametrize("name", ["study.engine", "study.report", "tracking", "models"])
def test_nothing_but_its_file_knows_a_stage_by_name(name: str) -> None:
    for module in [module for module in MODULES if f"{module}.".startswith(f"{name}.")]:
        strings = {node.value for node in ast.walk(TREES[module]) if isinstance(node, ast.Constant)}
        assert not strings & STAGES, module


def test_sizes() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert [module for module, count in lines.items() if count > FILE_LINES] == []
    assert (sum(lines.values()) <= PRODUCT_LINES, len(lines) <= PRODUCT_FILES) == (True, True)
    assert sum(len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")) <= TEST_LINES


def test_names_mean_one_thing() -> None:
    names = sorted({module.rpartition(".")[2] for module in MODULES})
    alike = [pair for pair in combinations(names, 2) if SequenceMatcher(None, *pair).ratio() >= 0.85]
    assert set(alike) <= ALLOWED, "modules with nearly the same name: store and stored have 0.91"
    classes = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in classes.items() if count > 1 and not name.startswith("_")] == []


def settings(config: Any) -> list[Any]:
    values = [getattr(config, each.name) for each in fields(config)]
    return [each for value in values for each in (settings(value) if is_dataclass(value) else [value])]


def test_there_are_few_flags() -> None:
    assert len(settings(preset("demo"))) <= FLAGS


def test_help_imports_no_heavy_package() -> None:
    heavy = {"torch", "mlflow", "optuna", "sklearn", "scipy", "matplotlib"}
    commands = ", ".join(f"{name}.main" for name in (*sorted(COMMANDS), "report.__main__"))
    code = (
        f"import sys\nfrom study import export, predict, report, run, sample, ui\nimport study.report.__main__\n"
        f"for main in ({commands.replace('study.', '')},): main(['--help'])\n"
        f"run.main(['--dry-run'])\nprint(*{heavy} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
