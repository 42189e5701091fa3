"""The pages: links and lengths of lines; docs/models.md, docs/example.py and the notebook docs/tour.ipynb work."""

import json
import linecache
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call
from conftest import ROOT
from PIL import Image
from registered import store_of_models

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "mlruns" / "README.md"])
TOUR = ROOT / "docs" / "tour.ipynb"
GENERATED = ROOT / "docs" / "results.md"
MODELS = re.sub(r" \\\n +", " ", (ROOT / "docs" / "models.md").read_text())
SWAPS = {"mnist": "digits", "leaves --label oak": "digits --label 3", "--count 10000": "--count 100"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository_and_lines_are_short(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) + re.findall(r'src="([^":]+)"', text)
    targets = [(page.parent / link).resolve() for link in links]
    assert [str(target) for target in targets if not target.exists()] == []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # else this is a copy without its history
        tracked = {ROOT / name for name in listed.stdout.splitlines()}
        assert [str(target) for target in targets if target.is_file() and target not in tracked] == []
    lines = [] if page == GENERATED else text.splitlines()
    assert [line for line in lines if len(line) > 120 and not line.lstrip().startswith("|")] == []


def commands(start: str) -> list[list[str]]:
    """Return the words of the command lines that begin so, with the digits in place of the page's data sets."""
    lines = re.findall(rf"^    ({re.escape(start)}.*?)(?:  #.*)?$", MODELS, re.MULTILINE)
    for before, after in SWAPS.items():
        lines = [line.replace(before, after) for line in lines]
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_page_of_models_and_the_example(tmp_path: Path, monkeypatch, capsys) -> None:
    """In a folder with the store, of models of the digits that nobody has trained, and a reader's files."""
    store_of_models(tmp_path / "mlruns")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez("images.npz", images=images)
    np.savez("outlines.npz", images=images)
    np.savetxt("images.csv", images.reshape(20, -1), "%d", ",")
    Path("photos").mkdir()
    for picture in ("mine.png", "photos/1.png", "photos/2.png"):
        Image.fromarray(images[0]).resize((90, 60)).save(picture)
    (asked,) = commands("python -c")
    exec(asked[2], {})
    assert np.array(json.loads(capsys.readouterr().out)["inputs"]).shape == (20, 1, 28, 28)
    given = commands("python -m study.")
    assert {words[2] for words in given} == {"study.sample", "study.predict", "study.export"}
    for _, _, module, *arguments in given:
        data = ["--data", "digits"] if module == "study.sample" and "--data" not in arguments else []
        done = call(module.removeprefix("study."), capsys, *arguments, *data)
        assert done.code == 0, done.errors
        assert Path(arguments[arguments.index("--out") + 1]).exists()
    assert Path("classes.csv").read_text().startswith("class,0,1,2")
    assert len(np.load("again.npz")["images"]) == 100
    first, second = re.findall(r"```python\n(.*?)```", MODELS, re.DOTALL)
    names: dict = {}
    exec(first.replace("mnist", "digits"), names)
    assert names["images"].shape == (64, 1, 28, 28)
    assert 0 <= float(names["images"].min()) < float(names["images"].max()) <= 1
    exec(second, names)
    assert names["model"](names["images"]).shape == (64, 10)
    ((_, script, *arguments),) = commands("python docs/example.py")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / script))
    assert len(json.loads(capsys.readouterr().out.partition("latents: ")[2])) == 5
    drawn = np.asarray(Image.open("drawn.png"))
    columns = {drawn[:56, 60 * n : 60 * n + 56].tobytes() for n in range(17)}
    assert len(columns) == 17, "an image, its reconstruction, 15 new ones that differ"


def test_the_tour_is_small_and_shows_what_ran() -> None:
    text = TOUR.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [word for word in ("Traceback", "/tmp", "/home", "/root", "/work") if word in text]
    assert (len(text) < 400_000, text.count('"image/png"')) == (True, 3), "a curve, sevens, a walk"


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(TOUR.read_text())["cells"]):
        if cell["cell_type"] == "code":  # as Jupyter does: the text of a cell can be asked for
            lines, name = cell["source"], f"cell {number}"
            linecache.cache[name] = (len(lines), None, lines, name)  # type: ignore[assignment]
            exec(compile("".join(lines), name, "exec"), names)
    assert (names["sevens"].shape, names["walk"].shape) == ((24, 1, 16, 16), (12, 1, 16, 16))
    assert {*names["trials"]["status"]} <= {"complete", "pruned"}
    assert float(names["right"]) > 0.2, "chance is 10 %"
