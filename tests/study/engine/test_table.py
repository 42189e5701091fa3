"""The rule by which a claim is decided, against SciPy; and how claims and verdicts are kept and printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.engine.stage import Outcome, Row
from study.engine.table import findings, table, verdict, verdicts, with_spread
from tracking.registry import Version


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.3])
@pytest.mark.parametrize("better", ["less", "more"])
@pytest.mark.parametrize("repeats", [None, 1, 2, 7])
def test_the_rule_is_scipys_t_test(factor: float, better: str, repeats: int | None) -> None:
    """Welch's of repeats, Student's where the others were measured once, that of one sample for a fixed goal."""
    generator = np.random.default_rng(0)
    found = set()
    for _ in range(200):
        ours = list(generator.normal(1, generator.uniform(0.01, 1), generator.integers(2, 8)))
        against = list(generator.normal(1 / factor, generator.uniform(0.01, 3), repeats or 1))
        scaled = [factor * value for value in against]
        if repeats is None:
            tested = stats.ttest_1samp(ours, scaled[0])
        else:
            tested = stats.ttest_ind(ours, scaled, equal_var=repeats == 1)
        ahead = -tested.statistic if better == "less" else tested.statistic
        expected = "undecided" if tested.pvalue >= 0.05 else "held" if ahead > 0 else "did not hold"
        assert verdict(ours, against[0] if repeats is None else against, better=better, factor=factor) == expected
        found.add(expected)
    assert found == {"held", "did not hold", "undecided"}


@pytest.mark.parametrize("repeats", [2, 3, 10])
def test_chance_alone_decides_one_claim_in_twenty(repeats: int) -> None:
    generator = np.random.default_rng(repeats)
    sides = generator.normal(size=(4000, 2, repeats))
    decided = np.mean([verdict(list(ours), 0.0) != "undecided" for ours, _ in sides])
    assert decided == pytest.approx(0.05, abs=0.01)
    assert np.mean([verdict(list(ours), list(others)) != "undecided" for ours, others in sides]) < 0.06
    assert np.mean([verdict(list(ours), [others[0]]) != "undecided" for ours, others in sides]) < 0.06


@pytest.mark.parametrize(
    ("ours", "against", "expected"),
    [
        ([1.0, 1.2, 1.1], 2.0, "held"),  # a fixed goal
        ([1.0, 1.2, 1.1], 1.15, "undecided"),
        ([1.0, 1.2, 1.1], 0.5, "did not hold"),
        ([1.0, 1.2, 1.1], 1.27, "undecided"),  # 2.9 standard errors of three values
        ([1.0, 1.2, 1.1], [2.0], "held"),  # measured once: it may spread as ours do
        ([1.0, 1.2, 1.1], [1.4], "undecided"),
        ([1.0, 1.2, 1.1], 1.4, "held"),
        ([1.0, 1.0], [2.0, 2.0], "held"),  # no spread at all
        ([1.0, 1.0], 2, "held"),
        ([1.0, 1.0], [1.0], "undecided"),
        ([0.3, 0.3], [0.1 + 0.2], "undecided"),  # equal but for rounding
        ([1.0], [2.0], "undecided"),  # one seed has no spread
        ([1.0], 2.0, "undecided"),
        ([1.0], [2.0, 2.1], "undecided"),
        ([], [2.0], "undecided"),
        ([1.0, 1.1], [], "undecided"),
        ([], [], "undecided"),
        ([1.0, nan], [2.0], "undecided"),
        ([1.0, 1.1], [nan], "undecided"),
        ([1.0, 1.1], nan, "undecided"),
        ([1.0, inf], [2.0, 2.1], "undecided"),
        ([1.0, 1.1], [inf], "undecided"),
        ([1.0, 1.1], inf, "undecided"),
    ],
)
def test_edge_cases(ours: Sequence[float], against: Sequence[float] | float, expected: str) -> None:
    assert verdict(ours, against) == expected
    others = -against if isinstance(against, int | float) else [-value for value in against]
    mirrored = verdict([-value for value in ours], others, better="more")
    assert mirrored == expected


@pytest.mark.parametrize("wrong", [{"better": "minimize"}, {"factor": 0.0}, {"factor": nan}, {"factor": inf}])
def test_what_the_rule_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="but got"):
        verdict([1.0, 1.1], [2.0], **wrong)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verdict": "held"}, "a verdict needs a claim"),
        ({"verdict": "held", "claim": ""}, "a verdict needs a claim"),
        ({"claim": "Less is more"}, "a claim needs a verdict"),
        ({"claim": "Less is more", "verdict": "true"}, "must be one of held, did not hold, undecided"),
        ({"claim": "Less is more", "verdict": ["held"]}, "must be one of held, did not hold, undecided"),
    ],
)
def test_claim_and_verdict_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row("loss", "1.0", **fields)


PLAIN = Row("size", "3")
CLAIMED = Row("loss", "1.0 ± 0.1", "1.5", "2.0", "Ours is less", "held")
OTHER = Row("error", "4%", "5%", claim="It errs less than the reference", verdict="did not hold")
ALONE = Row("error", "4%", claim="It never errs", verdict="undecided")


def test_the_table_has_verdicts_only_if_there_are_some() -> None:
    plain = table([Outcome("first", {}, (PLAIN,))]).splitlines()
    assert plain[0].split() == ["figure", "ours", "reference", "baseline"]
    assert plain[2:] == ["first", "  size  3     -          -"]
    both = table([Outcome("first", {}, (PLAIN, OTHER))]).splitlines()
    assert both[0].split() == ["figure", "ours", "verdict", "reference", "baseline"]
    assert both[3].split() == ["size", "3", "-", "-", "-"]
    assert re.split(r"\s{2,}", both[4].strip()) == ["error", "4%", "did not hold", "5%", "-"]
    assert len(both[1].split()) == 5


def test_a_stage_stands_above_its_rows_with_all_versions_that_it_registered() -> None:
    made = {
        name: Version(f"mnist-{name}", number, "run", "", {}, {}, "", "")
        for number, name in enumerate(("judge", "other"), 1)
    }
    lines = table([Outcome("first", made, (PLAIN,)), Outcome("second", {}, (PLAIN,))]).splitlines()
    assert lines[2] == "first: mnist-judge v1, mnist-other v2"
    assert lines[4] == "second"


SAYS = Row("loss", "1.0", found="It loses 1.0")


def test_findings_are_a_sentence_a_stage_or_its_first_row() -> None:
    assert findings([Outcome("none", {}, ())]) == []
    assert findings([Outcome("first", {}, (PLAIN, SAYS)), Outcome("second", {}, (OTHER, ALONE))]) == [
        "first: It loses 1.0",
        "second: error: 4% against 5%",
    ]


def test_of_more_than_five_stages_those_that_say_it_in_a_sentence_are_kept_then_the_last() -> None:
    outcomes = [Outcome(f"s{number}", {}, (PLAIN, SAYS) if number < 4 else (PLAIN,)) for number in range(7)]
    assert [line.partition(":")[0] for line in findings(outcomes)] == ["s0", "s1", "s2", "s3", "s6"]
    said = [Outcome(f"s{number}", {}, (SAYS,)) for number in range(6)]
    assert [line.partition(":")[0] for line in findings(said)] == ["s1", "s2", "s3", "s4", "s5"]


def test_verdicts_are_counted() -> None:
    assert verdicts([Outcome("first", {}, (PLAIN,))]) == ""
    both = [Outcome("first", {}, (PLAIN, CLAIMED)), Outcome("second", {}, (OTHER, ALONE, ALONE))]
    assert verdicts(both) == "1 held, 1 did not hold, 2 undecided"


def test_a_claim_is_shown_against_its_rival_and_not_against_all_baselines() -> None:
    row = Row("FD", "0.3", None, "real 0.1, GMM 0.2, SMOTE 0.4", "It is less than GMM's", "did not hold", "GMM 0.2")
    assert row.against == "GMM 0.2"
    assert findings([Outcome("gan", {}, (row,))]) == ["gan: FD: 0.3 against GMM 0.2"]


def test_a_long_cell_goes_on_in_the_next_line_of_its_column() -> None:
    words = [f"word{number}" for number in range(30)]
    rows = (Row("a", "1", "2", " ".join(words)), Row("b", "x" * 90, "3"), Row(" ".join(words), "4", "5"))
    lines = table([Outcome("test", {}, rows)]).splitlines()
    assert [word for line in lines for word in line.split() if word.startswith("word")] == words * 2, "all is there"
    place = {name: lines[0].index(name) for name in lines[0].split()}
    first, second, third = (next(line for line in lines if line.startswith(f"  {row.figure[:5]}")) for row in rows)
    assert first.index("word0") == place["baseline"]
    assert lines[4].index("word") == place["baseline"]
    assert "x" * 90 in second, "what cannot be wrapped is not cut"
    assert third[place["reference"]] == "5"


def test_a_measure_that_is_undefined_is_shown_as_such() -> None:
    """Python's own `stdev` ends in an AttributeError."""
    assert with_spread([nan, nan], "{:.2f}") == with_spread([nan, 1.0], "{:.2f}") == "nan ± nan"
    assert with_spread([nan], "{:.2f}") == "nan"
    assert with_spread([1.0, 3.0], "{:.2f}") == "2.00 ± 1.41"
