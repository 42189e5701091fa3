"""The report: all that a store holds, nothing from outside, all escaped; what is missing is said; two studies."""

import csv
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from commands import Call
from PIL import Image
from studies import copied

from study import plots
from study.engine.stage import Outcome
from study.report import collect as collecting
from study.report.collect import collect, keep, side_by_side
from study.report.page import html, markdown
from study.results import Claim, Row
from study.stages import all_stages
from tracking.runs import Run, study_run, trial_run
from tracking.store import Store, open_store, read_store

NAMES = [stage.name for stage in all_stages()]
TRIAL_COLUMNS = ("stage", "status", "params.lr", "params.batch", "metrics.val/loss", "metrics.test/loss")


def claimed(text: str, p: float, difference: float = -1.0, shown: str = "") -> Claim:
    """A claim of less, decided by this p-value."""
    return Claim(difference, difference - 1, difference + 1, p, (5, 5), text=text, better="less", shown=shown)


PLAIN = Row("size", "3")
SUPPORTED = Row("loss", "1.0 ± 0.1", "1.5", "2.0", claim=claimed("Ours is less", 0.001, shown="2.0 ± 0.2"))
REFUTED = Row("error", "4%", "3%", claim=claimed("It errs less than the reference", 0.001, difference=1.0))
INCONCLUSIVE = Row("error", "4%", claim=claimed("It never errs", 0.9))
EVIL = "<script>alert('x')</script>&<b>"


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of all rows of a page's tables, as text."""
    rows = re.findall("<tr.*?</tr>", page, re.DOTALL)
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def figure(title: str) -> plots.Figure:
    return plots.curves({"y": {"a": ([1, 2], [3.0, 4.0])}}, "x", title)


def add_study(store: Store, stage: str, *rows: Row, number: int = 0, tags: Any = ()) -> tuple[Run, Run]:
    """A study with these rows, a figure `main` on its parent run and a figure `samples` of its best trial."""
    name = f"tiny/{stage}"
    about = {"title": "a study", "description": "", "tags": {"seed": "0", **dict(tags)}}
    with study_run(store, store.experiment(name), f"{name}/{number}", **about) as parent:
        parent.log_figure("main", figure(f"Main of {stage}"), "a caption")
        with trial_run(parent, "trial 0", {"lr": 0.1, "batch": 32}, {"state": "complete"}) as trial:
            trial.log({"val/loss": 0.5, "test/loss": 0.25, "train/loss": 0.1})
            trial.log_figure("samples", figure(f"Samples of {stage}"))
        failed = {"state": "failed", "reason": "it diverged"}
        with trial_run(parent, "trial 1", {"lr": 0.2, "batch": 32}, failed) as run:
            run.log({"val/loss": float("nan")})
        parent.log_table("all", {"kind": ["conv"], "loss": ["0.5"]})
        parent.set_tags({"best.run_id": trial.run_id, "best.version": f"models:/tiny-{stage}/4"})
        parent.log_json("outcome", {"champion": "", "rows": [asdict(row) for row in rows]})
    return parent, trial


@pytest.fixture(scope="module")
def folder(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with studies of two stages, to be read only."""
    folder = copied(empty_store, tmp_path_factory.mktemp("report") / "store")
    store = open_store(folder)
    add_study(store, NAMES[1], REFUTED, PLAIN, INCONCLUSIVE, tags={"command": "python -m study.run smoke"})
    add_study(store, NAMES[0], PLAIN, SUPPORTED)
    return folder


def test_the_page_has_claims_rows_figures_tables_and_trials(folder: Path, tmp_path: Path, called: Call) -> None:
    files = {flag: tmp_path / flag for flag in ("out", "markdown", "csv", "pictures")}
    given = [word for flag, file in files.items() for word in (f"--{flag}", file)]
    code, out, _ = called("report", "--store", folder, *given)
    assert (code, out.splitlines()[0]) == (0, f"tiny: {NAMES[0]}, {NAMES[1]}")
    page = files["out"].read_text()
    rows, text = rows_of(page), unescape(page)
    claims = re.findall(r'<li class="([a-z-]+)">(.*?)</li>', page, re.DOTALL)
    assert [kind for kind, _ in claims] == ["supported", "refuted", "inconclusive"], "in the order of stages and rows"
    assert all(cell in claims[0][1] for cell in ("1.0 ± 0.1", "2.0 ± 0.2"))
    for row in (["size", "3", "-", "-"], ["loss", "1.0 ± 0.1", "1.5", "2.0"], ["kind", "loss"], ["conv", "0.5"]):
        assert row in rows
    assert ["trial", "state", "lr", "val/loss", "test/loss", "seconds"] in rows
    for row in (["trial 0", "complete", "0.1", "0.5", "0.25"], ["trial 1", "failed: it diverged", "0.2", "nan", "-"]):
        assert row in [each[:5] for each in rows]
    for part in ("batch 32", "a caption", f"tiny-{NAMES[1]} v4", "python -m study.run smoke", "1 complete, 1 failed"):
        assert part in text
    assert all(f"--stages {stage}" in text for stage in NAMES[2:]), "what the store lacks"
    addresses = re.findall(r'(?:src|href)="(.*?)"', page)
    assert all(each.startswith(("#", "data:image/png", "http://127.0.0.1:5000/#")) for each in addresses)
    assert len([each for each in addresses if "experiments/" in each]) == 2
    pictures = {file.stem for file in files["pictures"].iterdir() if Image.open(BytesIO(file.read_bytes())).size}
    assert pictures == {f"{name}-{each}" for name in NAMES[:2] for each in ("main", "best-samples")}
    lines = files["markdown"].read_text().splitlines()
    decided = "| supported | Ours is less | 1.0 ± 0.1 | 2.0 ± 0.2 | -1 (-2 to 0; 5 against 5) |"
    assert f"{decided} {NAMES[0]} |" in lines
    assert {"| loss | 1.0 ± 0.1 | 1.5 | 2.0 |", "| conv | 0.5 |"} <= {*lines}
    with files["csv"].open(newline="") as file:
        found = [[row[name] for name in TRIAL_COLUMNS] for row in csv.DictReader(file)]
    trials = [["complete", "0.1", "32", "0.5", "0.25"], ["failed", "0.2", "32", "", ""]]
    assert found == [[stage, *trial] for stage in (NAMES[1], NAMES[0]) for trial in trials]


def test_whatever_comes_from_the_store_is_escaped(store: Store) -> None:
    row = Row(EVIL, EVIL, baseline=EVIL, claim=claimed(EVIL, 0.001, difference=1.0))
    parent, trial = add_study(store, NAMES[0], row, tags={"dataset": EVIL, "command": EVIL, "settings": EVIL})
    parent.log_figure("f", figure(EVIL), EVIL)
    trial.set_tags({"state": EVIL, "mlflow.runName": EVIL})
    parent.log_table("t", {EVIL: [EVIL]})
    with study_run(store, store.experiment("tiny/" + NAMES[1]), "x", title=EVIL, description=EVIL, tags={}):
        page = collect("tiny")
    written = html(page)
    assert (written.count("<script"), "<b>" in written, "alert('" in written) == (1, False, False)
    assert unescape(written).count(EVIL) > 10
    assert all(note in written for note in ("This study is running", "No figures yet"))
    lines = [line for line in markdown(page).splitlines() if not line.startswith("    ")]  # else code
    assert "<" not in "".join(lines).replace("\\<", "")
    assert all(line.count(" | ") in (0, 1, 3, 5) for line in lines if line.startswith("|"))


def test_the_newest_finished_study_or_the_one_of_the_command_is_shown(store: Store) -> None:
    runs = [add_study(store, NAMES[0], Row(f"row {number}", "1"), number=number)[0] for number in range(2)]
    third = study_run(store, store.experiment(f"tiny/{NAMES[0]}"), "a third", title="", description="", tags={})
    with pytest.raises(RuntimeError), third:
        raise RuntimeError
    assert [row.figure for row in collect("tiny").sections[0].rows or ()] == ["row 1"]
    assert "newest of 3 studies" in html(collect("tiny"))
    place = keep("tiny", [Outcome(NAMES[0], {}, (), runs[0].run_id)])
    assert ("row 0" in Path(place).read_text(), runs[0].run_id in place) == (True, True), "logged on that run"


def test_a_headline_is_the_picture_that_the_stage_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_store(folder)
    headlines = dict(zip(NAMES, ("main", "best/samples"), strict=False))
    stages = tuple(replace(stage, headline=headlines.get(stage.name, "samples")) for stage in all_stages())
    monkeypatch.setattr(collecting, "all_stages", lambda: stages)
    titles = [picture.title for _, picture in collect("tiny").headlines]
    assert titles == [f"Main of {NAMES[0]}", f"Samples of {NAMES[1]}"]


def test_a_damaged_artifact_is_left_out_with_a_note(folder: Path, tmp_path: Path) -> None:
    store = copied(folder, tmp_path / "copy")
    for path, content, left_out in (
        ("figures/main.png", b"\x89PNG my diary", "figures/main.png"),
        ("tables/all.csv", b"\xff\xfe\x00", "tables/all.csv"),
        ("outcome.json", b'{"rows": [{"figure": 3}]}', "the table"),
        ("outcome.json", b"[1, 2]", "the table"),
    ):
        file = next(store.glob(f"artifacts/**/{path}"))
        before = file.read_bytes()
        file.write_bytes(content)
        read_store(store)
        page = collect("tiny")
        (note,) = [note for section in page.sections for note in section.notes]
        assert note.startswith(f"{left_out} is left out")
        assert f"Samples of {NAMES[0]}" in html(page)
        file.write_bytes(before)


def test_what_cannot_be_reported(folder: Path, tmp_path: Path, called: Call) -> None:
    (tmp_path / "file").touch()
    page = tmp_path / "r.html"
    for flags, message in {
        ("--data", "mnist"): "no study of mnist is in this store (it has: tiny)",
        ("--data", ""): "must not be empty",
        ("--store", "/nowhere"): "holds no store",
        ("--out", tmp_path): "--out must be a file, but got the folder",
        ("--out", "/nowhere/r.html"): "the folder of --out must exist",
        ("--out", "/proc/r.html"): "--out /proc/r.html cannot be written",
        ("--out", folder / "mlflow.db"): "--out must not be a store's database",
        ("--out", "/dev/full"): "--out /dev/full cannot be written: No space left on device",
        ("--markdown", page): "--markdown must be another file than --out",
        ("--csv", page): "--csv must be another file than --out",
        ("--csv", next(folder.rglob("all.csv"))): "--csv must not be one of the store's artifacts",
        ("--pictures", tmp_path / "file"): "--pictures",
        ("--compare", "/nowhere"): "must be a seed or the folder of a store, but got /nowhere",
        ("--compare", "-1"): "must be a seed or the folder of a store, but got -1",
    }.items():
        code, _, errors = called("report", "--store", folder, "--out", page, *flags)
        assert (code, errors.count("\n"), message in errors, page.exists()) == (2, 1, True, False), errors


def test_a_pipe_is_an_output_and_an_error_leaves_what_was_there(folder: Path, tmp_path: Path, called: Call) -> None:
    page = tmp_path / "old.html"
    page.write_text("as it was")
    page.chmod(0o640)
    (tmp_path / "link.html").symlink_to(page)
    flags = ("--store", folder, "--out")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        assert called("report", *flags, tmp_path / "pipe")[0] == 0
        assert "</html>" in read.result(timeout=60)
    with patch("study.report.page.html", lambda page: 1 / 0), pytest.raises(ZeroDivisionError):
        called("report", *flags, page)
    assert page.read_text() == "as it was"
    assert called("report", *flags, tmp_path / "link.html").code == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (page.stat().st_mode & 0o777, "</html>" in page.read_text()) == (0o640, True)
    assert not [*tmp_path.glob(".study*")]


def side(store: Store, stage: str, seed: int, more: str, there: str, p: float, digest: str = "abc") -> Run:
    """A study of this seed with four rows, of which two have one name, and one that only this side has."""
    rows = [Row("loss", f"0.5{there}", claim=claimed("It is so", p)), Row("size", f"3{there}")]
    rows += [Row("size", f"4{there}"), Row(more, "1")]
    return add_study(store, stage, *rows, number=seed, tags={"seed": str(seed), "data_digest": digest})[0]


def test_two_seeds_and_two_stores_side_by_side(store: Store, empty_store: Path, tmp_path: Path, called: Call) -> None:
    here, other, page = tmp_path / "store", copied(empty_store, tmp_path / "<b>7"), tmp_path / "r.html"
    first = side(store, NAMES[0], 0, "old", " there", 0.9)
    side(store, NAMES[0], 1, "new", "", 0.001)
    side(store, NAMES[1], 0, "new", "", 0.001)  # the same study on both sides: it is left out
    seeds = ("--out", page, "--markdown", tmp_path / "r.md", "--compare", 0)
    assert "beside seed 0: 3 rows in both" in called("report", "--store", here, *seeds).out
    found = side_by_side(collect("tiny"), collect("tiny", seed=0), "seed 0")
    cells = [("loss", "0.5", "supported, there inconclusive"), ("size", "3", "-"), ("size", "4", "-")]
    assert found.rows[1:] == [(NAMES[0], figure, ours, f"{ours} there", decided) for figure, ours, decided in cells]
    assert found.notes == [f"{NAMES[0]}, {figure}: only on one side" for figure in ("new", "old")]
    for text in (page.read_text(), (tmp_path / "r.md").read_text()):
        assert "supported, there inconclusive" in text
    first.log_json("outcome", {"rows": [{"unknown": 1}]})
    assert called("report", "--store", here, *seeds).code == 0
    assert f"{NAMES[0]}, there: the table is left out" in page.read_text()
    side(open_store(other), NAMES[0], 1, "old", " there", 0.9, digest="xyz")
    before = (other / "mlflow.db").read_bytes()
    assert called("report", "--store", here, "--out", page, "--compare", other).code == 0
    assert (other / "mlflow.db").read_bytes() == before, "reading changes nothing"
    assert f"{NAMES[0]}: other images under the same name" in page.read_text()
    assert "<b>" not in page.read_text()
    for wrong, message in {
        "7": "no study of tiny with seed 7 is in this store (it has: seeds 0, 1)",
        copied(here, tmp_path / "copy"): "a comparison needs another study of the same stages, but got ",
        copied(empty_store, tmp_path / "empty"): "no study of tiny is in this store (it has: none)",
    }.items():
        assert message in called("report", "--store", here, "--out", page, "--compare", wrong).error
