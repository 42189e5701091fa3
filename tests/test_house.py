"""The rules of the house: who imports whom, and what a command does not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("models", "tracking", "study") for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Every module that the file names in an import, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def touches(path: Path, *packages: str) -> set[str]:
    return {name for name in imports(path) if any(name == p or name.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_rules(path: Path) -> None:
    place = path.relative_to(ROOT)
    package = place.parts[0]
    if package == "models":
        assert not touches(path, "tracking", "study", "mlflow", "optuna")
    if package == "tracking":
        assert not touches(path, "models", "study", "optuna")
    if package != "tracking":
        assert not touches(path, "mlflow"), "only tracking imports mlflow"
    if place not in (Path("study/search.py"), Path("study/slots.py")):
        assert not touches(path, "optuna"), "only study/search.py and study/slots.py import optuna"
    if place in (
        Path("study/training.py"),
        Path("study/metrics.py"),
        Path("study/data.py"),
        Path("study/config.py"),
    ):
        assert not touches(path, "tracking", "study.search", "study.stages"), "numerics know nothing of tracking"
    if place.parent == Path("study/stages"):
        assert not touches(path, "study.stages"), "stages never import each other"


@pytest.mark.parametrize(
    "arguments",
    [["study.run", "--help"], ["study.run", "--dry-run"], ["study.sample", "--help"], ["study.report", "--help"]],
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
