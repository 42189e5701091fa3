"""The stage of docs/own-stage.md, taken from the page as it stands, installed as a package of its own, and run."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import ROOT, Command

from tracking.store import read_store

PAGE = (ROOT / "docs" / "own-stage.md").read_text()


def code(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def install(folder: Path, name: str, module: str, entry_points: str) -> dict[str, str]:
    """Make a wheel with this module and install it with pip into a folder. Gives the environment that finds it."""
    distribution = name.replace("-", "_")
    info = f"{distribution}-1.0.dist-info"
    files = {
        f"{distribution}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    wheel = folder / f"{distribution}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, content)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return {"PYTHONPATH": f"{ROOT}:{target}"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    toml = code("toml")
    (line,) = re.findall(r'^linear-probe = "(.*)"$', toml, re.MULTILINE)
    assert '[project.entry-points."study.stages"]' in toml
    entry_points = f"[study.stages]\nlinear-probe = {line}\n"
    return install(tmp_path_factory.mktemp("package"), "linear-probe", code("python"), entry_points)


def test_the_page_shows_a_short_stage() -> None:
    assert len([line for line in code("python").splitlines() if line.strip()]) <= 80


def test_flags_and_plan_follow_from_the_object(command: Command, installed: dict[str, str]) -> None:
    helped = command("study.run", "--help", env=installed)
    assert "--linear-probe.trials" in helped.stdout
    planned = command("study.run", "--dry-run", "--linear-probe.trials", 5, env=installed)
    assert "linear-probe: 5 learning rates, 10 epochs each" in planned.stdout
    wrong = command("study.run", "--dry-run", "--linear-probe.trials", 0, env=installed)
    assert wrong.returncode == 2
    assert "`1 <= trials` must hold, but got 0" in " ".join(wrong.stderr.replace("│", " ").split())


def test_it_runs_reports_and_loads_by_name(command: Command, installed: dict[str, str], tmp_path: Path) -> None:
    stages = ["--stages", "judge", "autoencoder", "linear-probe", "--autoencoder.latent-dims", 5]
    where = ["--data", "digits", "--store", tmp_path / "s"]
    done = command("study.run", "smoke", *stages, *where, env=installed)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\nlinear-probe: digits-linear-probe v1\n +test accuracy, linear layer +\d", done.stdout)
    claim = "Averaged over learning rates, a linear layer reads more of the class than chance"
    found = re.search(r"mean over the trials +(\d.*% ± \d.*?%) +(held|undecided) .* chance 10\.0%\n", done.stdout)
    assert found is not None
    assert re.search(r"\n  linear-probe: A linear layer reads \d+\.\d% of the classes from the latents\n", done.stdout)
    again = command("study.run", "smoke", *stages, *where, env=installed)
    assert "trial" not in again.stderr, "the same command trains nothing"
    report = command("study.report", "--store", tmp_path / "s", "--out", tmp_path / "r.html", env=installed)
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "r.html").read_text()
    assert "How much of the class can a linear layer read from the latents?" in page
    for text in (claim, found[1], found[2]):
        assert text in page.partition("All figures")[0]

    read_store(tmp_path / "s")
    client = mlflow.MlflowClient()
    assert "mlflow.sharedViewState.trials" in client.get_experiment_by_name("digits/linear-probe").tags
    description = client.get_model_version("digits-linear-probe", "1").description
    assert "test accuracy, linear layer" in description
    assert "[digits-autoencoder v1](#/models/digits-autoencoder/versions/1)" in description
    model = mlflow.pyfunc.load_model("models:/digits-linear-probe@champion")
    assert model.predict(np.zeros((3, 1, 28, 28), np.float32)).shape == (3, 10)
    alone = command("study.run", "smoke", "--stages", "linear-probe", *where, "--seed", 1, env=installed)
    assert alone.returncode == 0, alone.stderr
    without = command("study.report", "--store", tmp_path / "s", "--out", tmp_path / "r.html")
    assert without.returncode == 0, "an uninstalled stage's experiment does no harm"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
        ("STAGE = 3", "must be a study.engine.stage.Stage, but is a int"),
        (code("python").replace('name="linear-probe"', 'name="judge"'), "is called judge, as another stage is"),
        (code("python").replace('outputs=("linear-probe",)', 'outputs=("judge",)'), "registers the kind 'judge'"),
        (code("python").replace('extent=("trials",)', 'extent=("tries",)'), "names settings that its config lacks"),
    ],
)
def test_a_broken_package_is_named_in_one_sentence(command: Command, tmp_path: Path, module: str, message: str) -> None:
    environment = install(tmp_path, "broken", module, "[study.stages]\nbroken = broken:STAGE\n")
    done = command("study.run", "--dry-run", env=environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "broken" in done.stderr
    assert "Traceback" not in done.stderr
