"""`study.report --compare`: two studies side by side, from stores with rows and trials that were written by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pytest
from commands import call
from studies import copied

from study.report.collect import collect, compare
from study.results import Claim, Row
from study.stages import all_stages
from tracking.runs import study_run, trial_run
from tracking.store import open_store, read_store

FIRST, SECOND = (stage.name for stage in all_stages()[:2])


COMMON = [("accuracy", "95.0% ± 0.5%", None), ("loss", "0.5", "supported"), ("noise", "1", None), ("noise", "2", None)]


def claimed(verdict: str) -> Claim:
    """A claim with this verdict, supported or inconclusive."""
    return Claim(-1.0, -2.0, 0.0, 0.001 if verdict == "supported" else 0.9, (5, 5), text="It is so", better="less")


def rows(more: str, there: str, verdict: Any) -> list[Row]:
    """Rows that both studies have, and one more that only this one has."""
    return [
        Row(figure, ours + there, claim=claimed(verdict) if decided else None, metric="test/loss")
        for figure, ours, decided in (*COMMON, (more, "1", None))
    ]


HERE, THERE = rows("new", "", "supported"), rows("old", " there", "inconclusive")
ROWS = [
    (FIRST, figure, ours, f"{ours} there", "supported, there inconclusive" if decided else "-")
    for figure, ours, decided in COMMON
]


def add(folder: Path, stage: str, seed: int, rows: list[Row], loss: float, data: str = "abc") -> None:
    """A finished study of this seed, with three repeats of two settings, one of which differs between seeds."""
    store = open_store(folder)
    tags = {"seed": str(seed), "command": f"python -m study.run --seed {seed}", "data_digest": data}
    about: Any = {"title": "", "description": "", "tags": tags}
    with study_run(store, store.experiment(f"tiny/{stage}"), f"tiny/{stage}/{seed}", **about) as parent:
        for repeat in range(3):
            for params in ({"lr": 0.1}, {"lr": loss}):
                with trial_run(parent, "trial", {**params, "repeat": repeat}, {}) as trial:
                    trial.log({"test/loss": loss + 0.01 * repeat, "train/loss": 1.0})
        parent.log_json("outcome", {"champion": "", "rows": [asdict(each) for each in rows]})


@pytest.fixture
def folder(empty_store: Path, tmp_path: Path) -> Path:
    """A store with studies of seeds 0 and, the newest, 1."""
    folder = copied(empty_store, tmp_path / "store")
    add(folder, FIRST, 0, THERE, 0.7)
    add(folder, FIRST, 1, HERE, 0.5)
    return folder


def test_two_seeds_of_one_store(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(folder, SECOND, 0, HERE, 0.5)  # the same study on both sides: it is left out
    flags = ("--out", tmp_path / "r.html", "--markdown", tmp_path / "r.md", "--compare", 0)
    code, out, _ = call("report", capsys, "--store", folder, *flags)
    assert code == 0
    assert "beside seed 0: 4 rows in both; 1 measures of trials with the same parameters, 1 of them apart" in out
    found = compare(collect("tiny"), collect("tiny", seed=0), "seed 0")
    assert found.rows[1:] == ROWS
    assert found.measures[1:] == [(FIRST, "lr 0.1", "test/loss", "0.51 ± 0.01", "0.71 ± 0.01", "-0.2", "yes")]
    assert found.notes == [f"{FIRST}, {figure}: only on one side" for figure in ("new", "old")]
    page, tables = (tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()
    for text in (page, tables):
        assert "supported, there inconclusive" in text
        assert "0.71 ± 0.01" in text
    assert "python -m study.run --seed 0" in page


def test_another_store(folder: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of other images under the same name; a stage that only one has is left out; reading changes nothing."""
    other = copied(empty_store, tmp_path / "<b>7")
    add(other, FIRST, 1, THERE, 0.7, data="xyz")
    add(other, SECOND, 1, THERE, 0.7)
    before = (other / "mlflow.db").read_bytes()
    flags = ("--out", tmp_path / "r.html", "--compare", other)
    assert call("report", capsys, "--store", folder, *flags)[0] == 0
    assert (other / "mlflow.db").read_bytes() == before
    page = (tmp_path / "r.html").read_text()
    assert f"{FIRST}: other images under the same name" in page
    assert "<b>" not in page


def test_what_cannot_be_compared(
    folder: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other, message in {
        "7": "no study of tiny with seed 7 is in this store (it has: seeds 0, 1)",
        "1": "--compare must be another study of the same stages, but got seed 1",
        str(copied(folder, tmp_path / "copy")): "--compare must be another study of the same stages, but got ",
        str(copied(empty_store, tmp_path / "empty")): "no study of tiny is in this store (it has: none)",
    }.items():
        code, _, errors = call("report", capsys, "--store", folder, "--out", tmp_path / "r.html", "--compare", other)
        assert (code, message in errors) == (2, True), errors
    read_store(folder)
    client = mlflow.MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    (other_run,) = client.search_runs(experiments, "tags.seed = '0'")
    assert not (tmp_path / "r.html").exists()
    client.log_dict(other_run.info.run_id, {"rows": [{"unknown": 1}]}, "outcome.json")
    assert call("report", capsys, "--store", folder, "--out", tmp_path / "r.html", "--compare", 0)[0] == 0
    assert f"{FIRST}, there: the table is left out" in (tmp_path / "r.html").read_text()
