"""The table of trials, claims, rows, and the printed table."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from study.engine.stage import Outcome
from study.measures.stats import compare
from study.results import Measured, Row, Table, claim, findings, printed, verdicts


def trial(number: int, part: str, metric: float | None, **params: object) -> Measured:
    return Measured(number, part, "", params, (), str(number), {} if metric is None else {"fd": metric})


TABLE = Table(
    [
        *(trial(number, "seeds", 1.0 + number, size=3, kind="conv") for number in range(3)),
        trial(3, "seeds", 9.0, size=10, kind="conv"),
        trial(4, "seeds", 5.0, size=10, kind="fc"),
        trial(5, "other", None, size=3, kind="conv"),
    ]
)


def test_the_table_groups_trials() -> None:
    assert TABLE.values("fd", part="seeds", size=3) == [1.0, 2.0, 3.0]
    assert TABLE.values("fd", size=lambda size: size > 3) == [9.0, 5.0]
    assert TABLE.values("fd", repeat=0) == [], "no trial has such a parameter"
    assert TABLE.cell("fd", "{:.1f}", size=3) == "2.0 ± 1.0"
    assert TABLE.cell("fd", "{:.0%}", kind="fc") == "500%", "of a single value the mean alone"
    assert TABLE.cell("fd", part="other") is None
    assert TABLE.series("size", "fd", "kind") == {
        "conv": ([3, 10], [2.0, 9.0], [1.0, 0.0]),
        "fc": ([10], [5.0], [0.0]),
    }


def test_verdicts() -> None:
    low, high = [1.0, 1.1, 0.9, 1.05, 0.95], [2.0, 2.1, 1.9, 2.05, 1.95]
    assert compare(low, high).verdict == compare(high, low, better="more").verdict == "supported"
    assert compare(high, low).verdict == compare(low, 0.5).verdict == "refuted"
    assert compare(low, 1.0).verdict == "inconclusive"
    assert compare(low, 1.0, margin=0.2).verdict == "equivalent"
    assert compare(low, high, factor=0.5, margin=0.2).verdict == "equivalent"
    assert compare([1.0], high).verdict == compare(low, []).verdict == compare([1.0, float("nan")], 1.0).verdict
    shifted = [value + 0.01 for value in low]
    assert compare(low, shifted).verdict == "inconclusive"
    assert compare([1.0, 2.0, 3.0], [1.1, 2.11, 3.1], paired=True).verdict == "supported"
    for wrong in ({"better": "most"}, {"factor": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            compare(low, high, **wrong)  # type: ignore[arg-type]


def test_a_row_survives_json() -> None:
    row = Row("fd", "1", claim=claim("It is less", [1.0, 1.1, 0.9], [2.0, 2.1, 1.9], shown="GMM 2.0"), found="It is.")
    read = Row(**json.loads(json.dumps(asdict(row))))
    assert read.rival == "GMM 2.0"
    assert read.claim is not None
    assert read == row
    assert read.claim.verdict == "supported"
    with pytest.raises(ValueError, match="must be text"):
        Row("fd", 1.0)  # type: ignore[arg-type]


def test_the_printed_table() -> None:
    row = Row("a figure of many words that does not fit into its column", "1.0", "2.0", claim=claim("x", [1.0], 2.0))
    outcomes = [Outcome("judge", {}, (row, Row("other", "3", found="It reads 3.")))]
    lines = printed(outcomes).splitlines()
    assert lines[0].split() == ["figure", "ours", "reference", "baseline", "verdict"]
    assert lines[2] == "judge"
    assert "inconclusive" in lines[3]
    assert lines[4].startswith("    ")
    assert findings(outcomes) == ["judge: It reads 3."]
    assert verdicts(outcomes[0].rows) == "1 inconclusive"
