"""The rules of the house: who imports whom, how large things are, and what a command does not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("models", "tracking", "study") for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (file for file in FILES)
}
MOST_LINES, MOST_POSITIONAL = 300, 5

MAY_IMPORT = {
    "models": {"models"},
    "tracking": {"tracking"},
    "study.data": {"study.data", "study.checks"},
    "study.training": {"study.training", "study.data", "models"},
    "study.measures": {"study.measures", "study.training", "study.data", "models"},
    "study.engine": {"study.engine", "study.data", "tracking"},
    "study.stages": {
        "study.stages",
        "study.engine",
        "study.training",
        "study.measures",
        "study.config",
        "study.checks",
        "study.plots",
        "study.data",
        "models",
        "tracking",
    },
}
"""Of our own rooms; the commands (run, sample, report) and what they share (cli, config) may import all of these."""


def room(module: str) -> str:
    """The room that a module of ours is in: a package of the house, or the module itself where it has none."""
    first, *rest = module.split(".")
    return ".".join([first, *rest[:1]]) if first == "study" else first


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("models", "tracking", "study")


def imports(path: Path) -> set[str]:
    """Every module that the file names in an import, inside functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found = submodules & MODULES.keys()
            names |= found or {node.module}
            if submodules - found:
                names.add(node.module)
    return names


def touches(path: Path, *packages: str) -> set[str]:
    return {name for name in imports(path) if any(name == p or name.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("module", MODULES)
def test_import_rules(module: str) -> None:
    path = MODULES[module]
    ours = {name for name in imports(path) if is_ours(name)}
    allowed = MAY_IMPORT.get(room(module))
    if allowed is not None:
        strangers = {name for name in ours if room(name) not in allowed}
        assert not strangers, f"{module} may import {sorted(allowed)} only"
    if room(module) != "tracking":
        assert not touches(path, "mlflow"), "only tracking imports mlflow"
    if room(module) != "study.engine":
        assert not touches(path, "optuna"), "only study.engine imports optuna"
    assert not touches(path, "study.run"), "nothing imports the command"
    if module.startswith("study.stages."):
        subject = ".".join(module.split(".")[:3])
        others = {
            name for name in ours if name.startswith("study.stages.") and not f"{name}.".startswith(f"{subject}.")
        }
        assert not others, "stages never import each other"


def test_no_circle_of_imports() -> None:
    arrows = {
        module: {name for name in imports(path) if name in MODULES} - {module} for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for following in sorted(arrows[module]):
                visit(following, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


STAGES = ("judge", "autoencoder", "transfer", "latent-gan", "conditional-gan", "attention", "translation")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_knows_a_stage_by_name(path: Path) -> None:
    """Strings that are a stage's name stand in its own folder only. (`autoencoder` is a kind of model too.)"""
    place = path.relative_to(ROOT)
    if place.parts[:2] == ("study", "stages") or place == Path("study/sample.py"):
        return
    strings = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not strings & {*STAGES, *(name.replace("-", "_") for name in STAGES)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            positional = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
            if positional[:1] in (["self"], ["cls"]):
                positional = positional[1:]
            assert len(positional) <= MOST_POSITIONAL, f"{node.name} takes {positional}"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["study.run", "--help"], ["study.run", "--dry-run"]),
        *([f"study.{name}", "--help"] for name in ("sample", "report", "export", "predict", "ui")),
    ],
)
def test_light_commands_import_no_heavy_package(arguments: list[str]) -> None:
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit as done: assert done.code in (0, None), done.code\n"
        "print(*sorted({'torch', 'mlflow', 'optuna', 'sklearn', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert done.stderr.strip() == ""
