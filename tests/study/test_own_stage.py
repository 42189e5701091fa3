"""The stage of docs/own-stage.md, taken from the page as it stands, plugged in as an installed package, and run."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from commands import Call
from conftest import ROOT
from studies import Studies

PAGE = (ROOT / "docs" / "own-stage.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
TOML = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
Plug = Callable[[str], None]
BROKEN_PACKAGES = [
    ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
    ("STAGE = 3", "must be a study.engine.stage.Stage"),
    (CODE.replace('*("linear-probe",', '*("judge",'), "is called judge"),
    (CODE.replace('outputs=("linear-probe",)', 'outputs=("judge",)'), "registers the kind 'judge'"),
    (CODE.replace('identity_excludes=("trials",)', 'identity_excludes=("tries",)'), "identity_excludes"),
]


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Puts a package with this module where Python finds installed ones."""

    def put(module: str) -> None:
        info = tmp_path / "site" / "linear_probe-1.0.dist-info"
        info.mkdir(parents=True)
        (tmp_path / "site" / "linear_probe.py").write_text(module)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: linear-probe\nVersion: 1.0\n")
        (line,) = re.findall(r'^linear-probe = "(.*)"$', TOML, re.MULTILINE)
        (info / "entry_points.txt").write_text(f"[study.stages]\nlinear-probe = {line}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        sys.modules.pop("linear_probe", None)

    yield put
    monkeypatch.undo()
    sys.modules.pop("linear_probe", None)


def test_the_page_shows_a_short_stage_and_flags_follow_from_the_object(plug: Plug, fresh: Studies) -> None:
    assert len(CODE.splitlines()) - CODE.count("\n\n") <= 62
    assert len(re.findall(r"^ *from (?:models|study|tracking)\S* import", CODE, re.MULTILINE)) <= 6
    assert '[project.entry-points."study.stages"]' in TOML
    plug(CODE)
    assert "--linear-probe.trials" in fresh.call("--help").out
    assert "5" in fresh.call("--dry-run", "--linear-probe.trials", 5).out.partition("linear-probe")[2]


@pytest.mark.parametrize(("module", "message"), BROKEN_PACKAGES)
def test_a_broken_package_is_named_in_one_sentence(plug: Plug, fresh: Studies, module: str, message: str) -> None:
    plug(module)
    refused = fresh.call("--dry-run").error
    assert (message in refused, "linear_probe:STAGE" in refused) == (True, True), refused


@pytest.mark.slow
def test_it_runs_reports_and_loads_by_name(plug: Plug, fresh: Studies, tmp_path: Path, called: Call) -> None:
    plug(CODE)
    given = ("smoke", "--data", "digits", "--autoencoder.latent-dims", 5, "--autoencoder.free-trials", 0)
    given += ("--stages", "judge", "autoencoder", "linear-probe", "--repeats", 3)
    done = fresh.run(*given)
    assert re.search(r"\nlinear-probe: digits-linear-probe v1\n +test accuracy, linear layer +\d", done.out)
    before = fresh.trials().keys()
    again = fresh.run(*given).table, fresh.trials().keys()
    assert again == (done.table, before), "the same command trains nothing"
    assert called("report", "--store", fresh.store, "--out", tmp_path / "r.html").code == 0
    page, claim = (tmp_path / "r.html").read_text(), "A linear layer reads more than chance"
    assert all(text in page for text in ("How much of the class can a linear layer read from the latents?", claim))
    client = fresh.client
    assert "mlflow.sharedViewState.trials" in client.get_experiment_by_name("digits/linear-probe").tags
    description = client.get_model_version("digits-linear-probe", "1").description
    assert "test accuracy, linear layer" in description
    assert "[digits-autoencoder v1](#/models/digits-autoencoder/versions/1)" in description
    model = mlflow.pyfunc.load_model("models:/digits-linear-probe@champion")
    assert model.predict(np.zeros((3, 1, 28, 28), np.float32)).shape == (3, 10)
    fresh.run("smoke", "--data", "digits", "--stages", "linear-probe", "--seed", 1)
