"""docs/models.md and docs/example.py as they stand, on the digits: its commands, its Python, a real server, curl."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from servers import Server

from study import export, predict, sample
from study.data.digits import load_digits
from tracking.store import read_store

PAGE = (ROOT / "docs" / "models.md").read_text()
MAINS = {"study.sample": sample.main, "study.predict": predict.main, "study.export": export.main}


def commands(start: str) -> list[list[str]]:
    """The words of the page's command lines that begin so, for digits in the place of its data sets."""
    lines = re.findall(rf"^    ({re.escape(start)}.*?)(?:  #.*)?$", PAGE, re.MULTILINE)
    swaps = {"mnist": "digits", "leaves --label oak": "digits --label 3", "--count 10000": "--count 100"}
    for before, after in swaps.items():
        lines = [line.replace(before, after) for line in lines]
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def folder(smoke_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store as `mlruns`, and the files that a reader of the page has."""
    made = tmp_path_factory.mktemp("reader")
    (made / "mlruns").symlink_to(smoke_store)
    digits = load_digits().test.images[:20].squeeze(1).numpy()
    np.savez(made / "images.npz", images=digits)
    np.savez(made / "outlines.npz", images=digits)
    np.savetxt(made / "images.csv", digits.reshape(20, -1), "%d", ",")
    Image.fromarray(digits[0]).resize((90, 60)).save(made / "mine.png")
    return made


def test_its_commands_and_its_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    given = commands("python -m study.")
    assert {words[2] for words in given} == MAINS.keys()
    for _, _, module, *arguments in given:
        if module == "study.sample" and "--data" not in arguments:
            arguments += ["--data", "digits"]
        out = Path(arguments[arguments.index("--out") + 1])
        if out.name == "images.npz":
            out.unlink()
        assert MAINS[module](arguments) == 0, arguments
        assert out.exists()
    assert (folder / "classes.csv").read_text().startswith("class,0,1,2")
    assert len(np.load("again.npz")["images"]) == 100

    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(first.replace("mnist", "digits"), names)
    assert names["images"].shape == (64, 1, 28, 28)
    assert 0 <= float(names["images"].min()) < float(names["images"].max()) <= 1
    exec(second, names)
    read_store(folder / "mlruns")
    images = load_digits().test.images[:20].float() / 255
    expected = mlflow.pyfunc.load_model("models:/digits-judge/1").predict(images.numpy())
    np.testing.assert_allclose(names["model"].eval()(images).detach().numpy(), expected, atol=1e-5)


def test_the_example_draws_and_encodes(folder: Path, tmp_path: Path) -> None:
    (words,) = commands("python docs/example.py")
    _, script, data, store, picture = words
    command = [sys.executable, ROOT / script, data, folder / store, folder / picture]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    latents = json.loads(done.stdout.partition("latents: ")[2])
    read_store(folder / "mlruns")
    kept = mlflow.pyfunc.load_model("models:/digits-autoencoder@champion")
    assert len(latents) == kept.metadata.metadata["config"]["module"]["latent_dim"]
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
    columns = [drawn[:56, 60 * n : 60 * n + 56] for n in range(17)]
    assert all(each.std() > 0 for each in columns[:2])
    assert len({each.tobytes() for each in columns}) == 17, "an image, its reconstruction, 15 that differ"
    lines = [line for line in (ROOT / script).read_text().splitlines() if line.strip()]
    assert len(lines) <= 22


class ModelServer(Server):
    """The page's `mlflow models serve`, on another port."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        (self.words,) = commands("mlflow models serve")
        self.words[self.words.index("--port") + 1] = str(self.port)
        (exports,) = commands("export MLFLOW")
        self.environment = {**os.environ, **dict(word.split("=", 1) for word in exports[1:])}

    def command(self) -> list[str]:
        return [sys.executable, "-m", *self.words]

    def owner(self) -> dict[str, object]:
        # MLflow starts uvicorn by its name.
        path = f"{Path(sys.executable).parent}:{self.environment['PATH']}"
        return {"cwd": self.folder, "env": {**self.environment, "PATH": path}}

    def answers(self) -> bool:
        asked = ["curl", "--fail", "--silent", f"http://127.0.0.1:{self.port}/ping"]
        return subprocess.run(asked, capture_output=True).returncode == 0


@pytest.fixture
def served(folder: Path) -> Iterator[ModelServer]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: Debian's package is called curl")
    server = ModelServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_curl_gets_from_mlflow_what_the_model_gives(served: ModelServer, folder: Path, tmp_path: Path) -> None:
    def output(words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=served.environment, capture_output=True, text=True, timeout=300, check=True
        )
        return done.stdout

    (tmp_path / "mlruns").symlink_to(folder / "mlruns")
    ((_, *download),) = commands("mlflow artifacts download")
    output([sys.executable, "-m", "mlflow", *download])
    (curl,) = commands("curl")
    curl = [word.replace(":5001/", f":{served.port}/") for word in curl]
    assert "@serving_input_example.json" in curl
    answer = json.loads(output(curl))["predictions"]
    read_store(folder / "mlruns")
    kept = mlflow.pyfunc.load_model("models:/digits-judge@champion")
    asked = np.array(json.loads((tmp_path / "serving_input_example.json").read_text())["inputs"], np.float32)
    np.testing.assert_allclose(answer, kept.predict(asked), atol=1e-5)

    images = load_digits().test.images[20:27].squeeze(1).numpy()
    np.savez(tmp_path / "images.npz", images=images)
    (body,) = commands("python -c")
    (tmp_path / body[-1]).write_text(output([sys.executable, *body[1:-2]]))
    answer = json.loads(output([*curl[:-1], f"@{body[-1]}"]))["predictions"]
    np.testing.assert_allclose(answer, kept.predict(images[:, None].astype(np.float32) / 255), atol=1e-5)
