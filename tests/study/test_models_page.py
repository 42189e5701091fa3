"""docs/models.md and docs/example.py as they stand, on models of the digits that nobody has trained."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from registered import store_of_models

from study import export, predict, sample

PAGE = re.sub(r" \\\n +", " ", (ROOT / "docs" / "models.md").read_text())
MAINS = {"study.sample": sample.main, "study.predict": predict.main, "study.export": export.main}
SWAPS = {"mnist": "digits", "leaves --label oak": "digits --label 3", "--count 10000": "--count 100"}

pytestmark = pytest.mark.slow


def commands(start: str) -> list[list[str]]:
    """Return the words of the page's command lines that begin so, with the digits in place of its data sets."""
    lines = re.findall(rf"^    ({re.escape(start)}.*?)(?:  #.*)?$", PAGE, re.MULTILINE)
    for before, after in SWAPS.items():
        lines = [line.replace(before, after) for line in lines]
    return [shlex.split(line) for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the store and the files that a reader of the page has."""
    store_of_models(tmp_path / "mlruns")
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    np.savez(tmp_path / "outlines.npz", images=images)
    np.savetxt(tmp_path / "images.csv", images.reshape(20, -1), "%d", ",")
    (tmp_path / "photos").mkdir()
    for picture in ("mine.png", "photos/1.png", "photos/2.png"):
        Image.fromarray(images[0]).resize((90, 60)).save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_and_its_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (asked,) = commands("python -c")
    exec(asked[2], {})
    assert np.array(json.loads(capsys.readouterr().out)["inputs"]).shape == (20, 1, 28, 28)

    given = commands("python -m study.")
    assert {words[2] for words in given} == MAINS.keys()
    for _, _, module, *arguments in given:
        if module == "study.sample" and "--data" not in arguments:
            arguments += ["--data", "digits"]
        out = Path(arguments[arguments.index("--out") + 1])
        assert MAINS[module](arguments) == 0, capsys.readouterr().err
        assert out.exists()
    assert (folder / "classes.csv").read_text().startswith("class,0,1,2")
    assert len(np.load("again.npz")["images"]) == 100

    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(first.replace("mnist", "digits"), names)
    assert names["images"].shape == (64, 1, 28, 28)
    assert 0 <= float(names["images"].min()) < float(names["images"].max()) <= 1
    exec(second, names)
    assert names["model"](names["images"]).shape == (64, 10)


def test_the_example_draws_and_encodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, script, *arguments),) = commands("python docs/example.py")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / script))
    assert len(json.loads(capsys.readouterr().out.partition("latents: ")[2])) == 5
    drawn = np.asarray(Image.open("drawn.png"))
    columns = [drawn[:56, 60 * n : 60 * n + 56] for n in range(17)]
    assert len({each.tobytes() for each in columns}) == 17, "an image, its reconstruction, 15 new ones that differ"
