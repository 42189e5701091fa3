"""Which columns and charts follow from what was varied, and what the page of a version says."""

from types import SimpleNamespace
from typing import Any

import pytest

from study.engine import mlflow_pages as pages
from study.engine.stage import Candidate
from study.results import Result, Row
from tracking import views
from tracking.registry import Version
from tracking.runs import Run

METRICS = {"val/loss": 1.0, "train/loss": 1.0, "test/loss": 1.0, "critic/loss": 1.0, "cost": 1.0}
BEST = Version("tiny-model", 1, "run", METRICS, {})


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the best run has logged."""
    monkeypatch.setattr(views, "logged_pictures", lambda run: {"samples": 7})
    curves = ("val/loss", "train/loss")
    monkeypatch.setattr(pages, "metric_history", lambda run, name: ([0] * (1 + (name in curves)), []))
    monkeypatch.setattr(views, "figures_of", lambda run: {name: f"![{name}]({run})" for name in ("samples", "loss")})
    monkeypatch.setattr(views, "run_address", lambda run: f"#/{run}")


def part(title: str, *metrics: str) -> Any:
    return SimpleNamespace(title=title, objectives=dict.fromkeys(metrics, "minimize"))


def results(title: str, *params: dict[str, Any]) -> list[Result]:
    return [Result(number, title, str(number), each, (1.0, 1.0), "run") for number, each in enumerate(params)]


def charts(made: views.View, section: str) -> list[tuple[str, str]]:
    return [(chart["type"], chart["displayName"]) for chart in made.sections[section]]


def test_what_decides_comes_first_then_what_varies_in_its_own_parts_then_the_figures() -> None:
    found = results("a", {"size": 1, "rate": 0.1, "kind": "a"}, {"size": 2, "rate": 0.2, "kind": "a"})
    found += results("b", {"heads": 3}, {"heads": 4})
    parts = [part("a", "val/loss", "val/pcc"), part("b", "error")]
    rows = [Row("test loss", "1", metric="test/loss"), Row("other", "1"), Row("again", "2", metric="test/loss")]
    made = pages.trials_view(parts, found, {"cost": "maximize"}, rows, BEST)
    wanted = (("cost", "maximize"), ["cost", "val/loss", "val/pcc"], False)
    assert (made.order_by, made.deciding, made.repeated) == wanted, "no trial has a seed"
    assert made.params == ["size", "rate", "heads"], "kind was the same in all trials"
    assert (made.others, charts(made, "Objectives")) == (["test/loss", "error"], [("SCATTER", "val/pcc")])
    parallel = ("PARALLEL", "all together")
    assert charts(made, "val/loss by parameter") == [("SCATTER", "size"), ("SCATTER", "rate"), parallel]
    assert charts(made, "error by parameter") == [("SCATTER", "heads")]
    assert charts(made, "Training") == [("LINE", "val/loss"), ("LINE", "train/loss")]
    assert [chart["step"] for chart in made.sections["Pictures"]] == [7]
    plain = pages.trials_view(parts, found, {}, [], BEST)
    assert plain.order_by == ("val/loss", "minimize")
    assert plain.others == ["test/loss", "error"], "without key figures in the rows: those of the test images"


@pytest.mark.parametrize("many", [1, 99])
def test_a_page_shows_the_best_picture_the_figures_and_the_lineage(many: int) -> None:
    judge = Version("tiny-judge", 2, "r2", {"a": 1.0}, {"trial.study": "tiny/judge/0", "mlflow.runName": "trial 7"})
    context: Any = SimpleNamespace(
        stage=SimpleNamespace(question="How many?", headline="best/loss"),
        inputs={"judge": judge, "lost": Version("tiny-lost", 1, "r3", {}, {})},
        dataset=SimpleNamespace(name="tiny", digest="0123"),
        session=SimpleNamespace(seed=4, command="python -m study.run " + "x" * 60 * many),
    )
    rows = [Row("loss | test", "1 ± 2", baseline="3", metric="test/loss"), Row("other", "1")]
    (result,) = results("", {"size": 1})
    candidate = Candidate(result, "val/loss", picture="samples")
    text = pages.model_page(context, Run("parent", "1", "tiny/x/0"), BEST, candidate, rows)
    assert "[Trial 0](#/run) (size=1) of the study [tiny/x/0](#/parent), chosen by val/loss 1." in text
    assert text.index("![samples](run)") < text.index("1 ± 2") < text.index("![loss](run)")
    lineage = "[tiny-judge v2](#/models/tiny-judge/versions/2)&emsp; | [trial 7](#/r2)&emsp; | tiny/judge/0"
    assert all(part in text for part in ("loss &#124; test", lineage, "deleted"))
    assert not [part for part in ("other", "reference") if part in text], "a row without a metric, an empty column"
    assert ("seed 4: `python" in text) == (many == 1), "what does not fit is left out"
    assert len(text) <= 5000
