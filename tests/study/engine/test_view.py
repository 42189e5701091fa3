"""Which columns and charts follow from what was searched."""

from __future__ import annotations

from typing import Any

import pytest

from study.engine import view
from study.engine.search import Result, Search, choice, integer, log_uniform
from study.engine.stage import Row
from study.engine.view import trials_view
from tracking.registry import Version

METRICS = {"val/loss": 1.0, "train/loss": 1.0, "test/loss": 1.0, "critic/loss": 1.0, "cost": 1.0}
BEST = Version("tiny-model", 1, "run", "", METRICS, {}, "", "")
SPACE = {"size": integer(1, 9), "rate": log_uniform(1e-3, 1), "kind": choice("a", "b")}
MAIN = Search({"val/loss": "minimize", "val/pcc": "minimize"}, SPACE)


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the best run has logged."""
    monkeypatch.setattr(view, "logged_pictures", lambda run: {"samples": 7})
    monkeypatch.setattr(view, "is_curve", lambda run, name: name in ("val/loss", "train/loss"))


def results(*params: dict[str, Any]) -> list[Result]:
    return [Result(number, str(number), each, (1.0, 1.0), "run") for number, each in enumerate(params)]


def charts(made: view.View, section: str) -> list[tuple[str, str]]:
    return [(chart["type"], chart["displayName"]) for chart in made.sections[section]]


def test_what_decides_comes_first_then_what_was_searched_then_the_figures() -> None:
    found = results({"size": 1, "rate": 0.1, "kind": "a"}, {"size": 2, "rate": 0.2, "kind": "a"})
    rows = [Row("test loss", "1", metric="test/loss"), Row("other", "1"), Row("again", "2", metric="test/loss")]
    made = trials_view([(MAIN, found)], {"cost": "maximize"}, rows, BEST)
    assert made.order_by == ("cost", "maximize")
    assert made.deciding == ["cost", "val/loss", "val/pcc"]
    assert made.params == ["size", "rate"], "kind was the same in all trials"
    assert made.others == ["test/loss"]
    assert charts(made, "Objectives") == [("SCATTER", "val/pcc")]
    parallel = ("PARALLEL", "all together")
    assert charts(made, "val/loss against what was searched") == [("SCATTER", "size"), ("SCATTER", "rate"), parallel]
    assert charts(made, "Training") == [("LINE", "val/loss"), ("LINE", "train/loss")]
    assert [chart["step"] for chart in made.sections["Pictures"]] == [7]


def test_each_objective_is_held_against_its_own_searches() -> None:
    other = Search({"error": "minimize"}, {"heads": integer(1, 9)})
    searched = [
        (Search({"val/loss": "minimize"}, {"size": integer(1, 9)}), results({"size": 1}, {"size": 2})),
        (other, results({"heads": 3}, {"heads": 4})),
    ]
    made = trials_view(searched, {}, [], BEST)
    assert made.order_by == ("val/loss", "minimize")
    assert charts(made, "val/loss against what was searched") == [("SCATTER", "size")]
    assert charts(made, "error against what was searched") == [("SCATTER", "heads")]
    assert made.others == ["test/loss", "error"], "without key figures in the rows: those of the test images"
