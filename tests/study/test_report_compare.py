"""`study.report --compare`: two studies side by side, from stores with rows that were written by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlflow
import pytest
from studies import copied

from study.report import __main__ as report
from study.report.compare import differences
from study.stages import all_stages
from tracking.runs import study_run
from tracking.store import open_store, read_store

FIRST, SECOND = (stage.name for stage in all_stages()[:2])
HERE = [
    ("accuracy (model v2)", "95.0% ± 0.5%", None),
    ("loss", "0.0051", "held"),
    ("error", "paired 0.131 ± 0.010, unpaired 0.096 ± 0.035", None),
    ("a way", "conv", None),
    ("... on noise", "1.0 ± 0.1", None),
    ("... on noise", "2.0 ± 0.1", None),
    ("new", "1", None),
]
THERE = [
    ("accuracy (model v1)", "93.0% ± 1.4%", None),
    ("loss", "0.0071", "undecided"),
    ("error", "paired 0.100 ± 0.010, unpaired 0.106 ± 0.005", None),
    ("a way", "conv+fc", None),
    ("... on noise", "1.2 ± 0.1", None),
    ("... on noise", "2.5 ± 0.1", None),
    ("old", "1", None),
]
TABLE = [
    ["accuracy", "95.0% ± 0.5%", "93.0% ± 1.4%", "+2.0 points", "yes", "-"],
    ["loss", "0.0051", "0.0071", "-0.0020", "no spread", "held, there undecided"],
    ["error", HERE[2][1], THERE[2][1], "paired +0.031, unpaired -0.010", "paired", "-"],
    ["a way", "conv", "conv+fc", "-", "-", "-"],
    ["... on noise", "1.0 ± 0.1", "1.2 ± 0.1", "-0.2", "no", "-"],
    ["... on noise", "2.0 ± 0.1", "2.5 ± 0.1", "-0.5", "yes", "-"],
]


def add(folder: Path, stage: str, seed: int, rows: list[tuple[str, str, str | None]], data: str = "abc") -> None:
    """A finished study of this seed with these rows: figure, ours, verdict."""
    store = open_store(folder)
    tags = {"seed": str(seed), "command": f"python -m study.run --seed {seed}", "data_digest": data}
    name = f"tiny/{stage}"
    with study_run(
        store, store.experiment(name), f"{name}/{seed}-{len(rows)}", title="", description="", tags=tags
    ) as parent:
        kept = [{"figure": figure, "ours": ours, "reference": None, "baseline": None} for figure, ours, _ in rows]
        for row, (_, _, verdict) in zip(kept, rows, strict=True):
            row |= {"claim": "It is so", "verdict": verdict} if verdict else {}
        parent.log_json("outcome", {"champion": "", "rows": kept})


class Report:
    """Runs the command on one store."""

    def __init__(self, folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self._capsys = folder, out, capsys

    def write(self, other: Any) -> str:
        """The last line that it prints about the page."""
        given = ("--store", self.folder, "--out", self.out, "--markdown", self.out.with_suffix(".md"))
        assert report.main([*map(str, given), "--compare", str(other)]) == 0
        return self._capsys.readouterr().out.splitlines()[1]

    def refused(self, other: Any) -> str:
        """Its one sentence."""
        assert report.main(["--store", str(self.folder), "--out", str(self.out), "--compare", str(other)]) == 2
        assert not self.out.exists()
        return self._capsys.readouterr().err

    @property
    def section(self) -> str:
        return self.out.read_text().partition('<section id="compared">')[2].partition("</section>")[0]

    @property
    def rows(self) -> list[list[str]]:
        rows = re.findall(r"<tr.*?</tr>", self.section, re.DOTALL)
        return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows if "<td" in row]

    @property
    def marked(self) -> list[str]:
        return re.findall(r'<tr class="marked"><td>(.*?)</td>', self.section)


@pytest.fixture
def here(empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    """The report on a store with studies of seeds 0 and, the newest, 1."""
    folder = copied(empty_store, tmp_path / "store")
    add(folder, FIRST, 0, THERE)
    add(folder, FIRST, 1, HERE)
    return Report(folder, tmp_path / "report.html", capsys)


def test_two_seeds_of_one_store(here: Report) -> None:
    assert here.write(0) == "beside seed 0: 6 rows in both, 3 of them apart beyond the spread, 1 without a spread"
    assert here.rows == TABLE
    assert here.marked == ["accuracy", "error", "... on noise"]
    text = here.section
    for fact in (f"Only here: {FIRST}, new.", f"Only there: {FIRST}, old.", "--seed 0", "--seed 1"):
        assert fact in text
    table = here.out.with_suffix(".md").read_text().partition("## Beside seed 0")[2].partition("\n## ")[0]
    lines = [line.split(" | ")[1:] for line in table.splitlines() if line.startswith(f"| {FIRST} ")]
    assert [[cell.removesuffix(" |") for cell in line] for line in lines] == TABLE


def test_the_other_way_round_is_the_older_study_of_the_newest_seed(here: Report) -> None:
    add(here.folder, FIRST, 0, [("loss", "0.0060", None)])
    here.write(1)
    assert here.rows == [["loss", "0.0060", "0.0051", "+0.0009", "no spread", "-, there held"]]
    assert here.marked == []


def test_another_store(here: Report, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose studies are of other images under the same name; a stage that only one has is left out."""
    other = copied(empty_store, tmp_path / "7")
    add(other, FIRST, 1, THERE, data="xyz")
    add(other, SECOND, 1, THERE)
    before = (other / "mlflow.db").read_bytes()
    assert "6 rows in both" in here.write(other)
    assert here.rows == TABLE
    assert f"{FIRST}: other images under the same name" in here.section
    assert (other / "mlflow.db").read_bytes() == before


def test_a_stage_with_the_same_study_on_both_sides_is_said(here: Report) -> None:
    add(here.folder, SECOND, 0, HERE)
    here.write(0)
    assert here.rows == TABLE
    assert f"{SECOND}: the same study on both sides" in here.section


def test_what_cannot_be_compared(here: Report, empty_store: Path, tmp_path: Path) -> None:
    assert "no study of tiny with seed 7 is in this store (it has: 0, 1)" in here.refused(7)
    assert "must be a seed or the folder of a store, but got /nowhere: it has no mlflow.db" in here.refused("/nowhere")
    assert "must be a seed or the folder of a store, but got -1: it has no mlflow.db" in here.refused("-1")
    same = "--compare must be another study, but the report itself is about that of "
    assert f"{same}seed 1" in here.refused(1)
    assert f"{same}{here.folder}" in here.refused(here.folder)
    assert f"{same}{tmp_path}/copy" in here.refused(copied(here.folder, tmp_path / "copy"))
    assert "no study of tiny is in the store to compare with (it has: none)" in here.refused(
        copied(empty_store, tmp_path / "empty")
    )
    add(here.folder, FIRST, 2, [("quite another", "1", None)])
    assert "the studies of tiny here and those of seed 0 have no row in common" in here.refused(0)


def test_damaged_rows_of_the_other_are_told(here: Report) -> None:
    read_store(here.folder)
    client = mlflow.MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    (other,) = client.search_runs(experiments, "tags.seed = '0'")
    for damaged in ({"rows": [{"unknown": 1}], "champion": ""}, {"rows": []}, []):
        client.log_dict(other.info.run_id, damaged, "outcome.json")
        assert f"--compare: the rows of run {other.info.run_id} cannot be read" in here.refused(0)


def test_what_comes_from_the_other_store_is_escaped(here: Report, empty_store: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    other = copied(empty_store, tmp_path / evil.replace("/", ""))
    add(other, FIRST, 0, [("loss", evil, None), (evil, evil, None)])
    here.write(other)
    assert here.out.read_text().count("<script>") == 1
    assert here.out.with_suffix(".md").read_text().count("<script>") == 0


@pytest.mark.parametrize(
    ("ours", "other", "expected"),
    [
        ("3", "3", [("", "0", None)]),
        ("2,996", "12,026", [("", "-9030", None)]),
        ("-", "-", []),
        ("0.3 ± 0.1", "0.1 ± 0.1", [("", "+0.2", False)]),  # in floats 0.3 - 0.1 is below 0.2, and 0.1 + 0.2 above 0.3
        ("0.3 ± 0.1", "0.1 ± 0.0", [("", "+0.2", True)]),
        ("0.3 ± 0.1", "0.1", [("", "+0.2", None)]),
        ("2.0e-06", "3.0e-06", [("", "-1.0e-6", None)]),
        ("0.30 (2,996 steps)", "0.17 ± 0.01 (32,100 steps)", [("", "+0.13", None)]),
        ("16 of 30 (36% to 70%)", "10 of 30 (20% to 50%)", []),
        ("15, conv+fc", "15, conv", []),
        ("15, conv", "10, conv", [("", "+5", None)]),
        ("a 1.0 ± 0.1, b 2%; c 3", "a 1.5 ± 0.1, b 4%; c 3", [("a", "-0.5", True), ("b", "-2 points", None), ("c", "0", None)]),  # noqa: E501
        ("paired 590 steps to half", "paired 836 steps to half", [("paired", "-246", None)]),
        ("3%", "3", []),
        ("a 3", "b 3", []),
        ("1, 2", "1", []),
    ],
)  # fmt: skip
def test_the_numbers_of_cells_of_one_form(ours: str, other: str, expected: list[tuple]) -> None:
    assert [(each.label, each.text, each.beyond) for each in differences(ours, other)] == expected
