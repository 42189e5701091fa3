"""The report: the same rows as the study prints, nothing from outside, all escaped, and what is missing is said."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from study import plots
from study.report import __main__ as report
from study.report.collect import collect
from study.report.page import render
from study.stages import all_stages
from tracking.runs import Run, study_run, trial_run
from tracking.store import Store, read_store


class Reader(HTMLParser):
    """The cells of the page's first table, all addresses in it, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.first = True
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "tr" and self.first:
            self.rows.append([])
        if tag == "td" and self.first:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.first &= tag != "table"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.first and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def page(smoke_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert report.main(["--store", str(smoke_store), "--out", str(out)]) == 0
    return out.read_text()


def test_it_has_the_rows_that_the_study_printed(smoke_store: Path, page: str) -> None:
    head, rule, *printed = (smoke_store / "output.txt").read_text().strip().split("\n\n")[0].splitlines()
    starts = [match.start() for match in re.finditer(r"-+", rule)]
    assert head.split() == ["figure", "ours", "verdict", "reference", "baseline"]
    table: list[list[str]] = []
    for line in printed:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if line.startswith("  ") and not line.startswith("    "):
            table.append(cells)
        elif line.startswith(" "):  # a cell that goes on
            table[-1] = [" ".join(filter(None, pair)) for pair in zip(table[-1], cells, strict=True)]
    assert len(table) > 15
    without_verdicts = [
        [cell for cell, name in zip(row, head.split(), strict=True) if name != "verdict"] for row in table
    ]
    assert [row for row in Reader(page).rows if row] == without_verdicts


def test_it_needs_nothing_from_outside_and_is_small(page: str) -> None:
    everything = Reader(page).addresses
    addresses = [address for address in everything if not address.startswith("http://127.0.0.1:5000/#/experiments/")]
    assert {address.partition(":")[0] for address in addresses if not address.startswith("#")} == {"data"}
    assert len([address for address in addresses if address.startswith("data:image/png")]) > 15
    assert len(page) < 10e6


def test_each_stage_leads_to_its_trials_in_mlflow(smoke_store: Path, page: str) -> None:
    read_store(smoke_store)
    links = [address for address in Reader(page).addresses if "viewStateShareKey=trials" in address]
    ids = [mlflow.get_experiment_by_name(f"digits/{stage.name}").experiment_id for stage in all_stages()]
    assert [link.partition("/experiments/")[2].partition("/")[0] for link in links] == ids
    assert "python -m study.ui" in Reader(page).text


def test_it_tells_how_the_numbers_were_made(page: str) -> None:
    text = Reader(page).text
    for stage in all_stages():
        assert stage.name in text
        assert stage.question in text
    for fact in ("python -m study.run smoke --data digits", "torch ", "mlflow ", "digits-autoencoder v1", "test/loss"):
        assert fact in text


def test_the_study_logs_it_on_its_last_parent_run(smoke_store: Path) -> None:
    read_store(smoke_store)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("digits/translation")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.study LIKE '%'")
    path = Path(parent.info.artifact_uri.removeprefix("file://")) / "report.html"
    assert Reader(path.read_text()).rows
    assert str(path) in (smoke_store / "output.txt").read_text()


def test_its_pictures_are_written_and_small(smoke_store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    assert report.main(["--store", str(smoke_store), "--out", str(tmp_path / "r.html"), "--pictures", str(folder)]) == 0
    files = {file.name: file for file in folder.iterdir()}
    assert {"autoencoder-pareto.png", "transfer-curves.png", "conditional-gan-best-samples.png"} <= files.keys()
    for file in files.values():
        assert file.stat().st_size < 200_000
        with Image.open(file) as picture:
            assert min(picture.size) > 100


def open_study_run(store: Store, experiment: str, study: str) -> AbstractContextManager[Run]:
    """A parent run about which nothing is said."""
    return study_run(store, store.experiment(experiment), study, title="", description="", tags={})


EVIL = "<script>alert('x')</script>&<b>"


def test_a_store_with_one_stage_unfinished_and_hostile(store: Store, tmp_path: Path) -> None:
    tags = {"dataset": EVIL, "command": EVIL, "settings": f'{{"a": "{EVIL}"}}'}
    with study_run(
        store, store.experiment("mnist/judge", EVIL), "mnist/judge/0", title=EVIL, description=EVIL, tags=tags
    ) as parent:
        row = {"figure": EVIL, "ours": EVIL, "reference": None, "baseline": EVIL}
        rows = [row, row | {"claim": EVIL, "verdict": "held"}]
        parent.log_json("outcome", {"champion": EVIL, "rows": rows})
        parent.log_figure(
            "f", plots.curves({EVIL: ([1, 2], [3.0, 4.0]), "b": ([1], [2.0])}, "x", "y", EVIL), f"caption {EVIL}"
        )
        parent.log_table("t", {EVIL: [EVIL]})
        with trial_run(parent, EVIL, {"width": EVIL}, {"optuna.state": "FAIL", "reason": EVIL}) as run:
            run.log({"val/accuracy": 0.5, "val/loss": float("nan")})
    with open_study_run(store, "mnist/transfer", "mnist/transfer/0"):
        pass
    out = tmp_path / "report.html"
    assert report.main(["--store", str(tmp_path / "store"), "--out", str(out)]) == 0
    page = out.read_text()
    reader = Reader(page)
    assert page.count("<script>") == 1
    assert "b" not in reader.tags
    assert reader.text.count(EVIL) > 10
    text = " ".join(reader.text.split())
    assert "transfer" in text
    assert "No figures yet" in text
    for stage in ("autoencoder", "latent-gan", "conditional-gan", "attention"):
        assert f"{stage} not in this store: python -m study.run --data mnist --stages {stage}" in text
    assert f"caption {EVIL}" in text


def test_the_newest_finished_study_is_shown(store: Store, tmp_path: Path) -> None:
    for number, error in enumerate((None, None, RuntimeError)):
        try:
            with open_study_run(store, "mnist/judge", f"mnist/judge/{number}") as parent:
                row = {"figure": f"row {number}", "ours": "1", "reference": None, "baseline": None}
                parent.log_json("outcome", {"champion": "", "rows": [row]})
                if error:
                    raise error
        except RuntimeError:
            pass
    page = render(collect("mnist"))
    assert [row[0] for row in Reader(page).rows if row] == ["row 1"]
    assert "newest of 3 studies" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist"], "no study of mnist is in this store (it has: digits)"),
        (["--out", "/nowhere/r.html"], "the folder of --out must exist"),
        (["--store", "/nowhere"], "holds no store"),
    ],
)
def test_reports_that_cannot_be_written(
    smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = ["--store", str(smoke_store), "--out", str(tmp_path / "r.html"), *arguments]
    assert report.main(given) == 2
    assert message in capsys.readouterr().err


def test_a_picture_says_what_it_shows(store: Store) -> None:
    with open_study_run(store, "tiny/judge", "tiny/judge/0") as parent:
        for name in ("second", "first"):
            series = {"conv": ([3, 15], [0.03, 0.0077], [0.0, 0.0001]), "PCA": ([3], [0.05])}
            figure = plots.curves(series, "size", "MSE", f"The {name}", references={"goal": 0.01})
            parent.log_figure(name, figure, "A caption")
    pictures = collect("tiny").sections[0].pictures
    assert [picture.title for picture in pictures] == ["The second", "The first"], "in the order of their making"
    picture = pictures[0]
    assert picture.caption == "A caption"
    assert picture.columns == ["size", "conv", "PCA"]
    assert picture.rows == [["3", "0.03", "0.05"], ["15", "0.0077 ± 0.0001", ""], ["goal", "0.01", ""]]
    assert Image.open(BytesIO(picture.png)).size == picture.size
