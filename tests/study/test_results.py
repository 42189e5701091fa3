"""The table of trials, claims, rows, and the printed table."""

import random
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_ind

from study.measures.stats import benjamini_hochberg, compare, holm
from study.results import Claim, Result, Row, Table, claim, compared, corrected


def trial(number: int, part: str, metric: float | None, **params: object) -> Result:
    return Result(number, part, "", params, (), str(number), {} if metric is None else {"fd": metric})


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
    assert TABLE.series("size", "fd", "kind") == {"conv": ([3, 10], [2.0, 9.0], [1.0, 0.0]), "fc": ([10], [5.0], [0.0])}


LOW, HIGH = [1.0, 1.1, 0.9, 1.05, 0.95], [2.0, 2.1, 1.9, 2.05, 1.95]


def decided(*sides: Any, **rule: Any) -> str:
    """The verdict of a claim about these two sides, alone."""
    found = claim("It is so", *sides, **rule)
    return found.verdict if found else "none"


def test_verdicts() -> None:
    assert decided(LOW, HIGH) == decided(HIGH, LOW, better="more") == "supported"
    assert decided(HIGH, LOW) == decided(LOW, 0.5) == "refuted"
    assert decided(LOW, 1.0) == "inconclusive"
    assert decided(LOW, 1.0, margin=0.2) == decided(LOW, HIGH, factor=0.5, margin=0.2) == "equivalent"
    close: Any = claim("It is so", LOW, [value + 0.01 for value in LOW])
    assert (close.verdict, "0.16 would be found" in close.interval) == ("inconclusive", True), "by SciPy's ttest power"
    assert decided([1.0, 2.0, 3.0], [1.1, 2.11, 3.1], paired=True) == "supported"
    for few in ((LOW[:2], HIGH), (LOW, HIGH[:2]), (LOW, []), (LOW[:2], 1.0), ([1.0, 1.1, float("nan")], 1.0)):
        assert decided(*few) == "none"
    for wrong in ({"better": "most"}, {"factor": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            claim("It is so", LOW, HIGH, **wrong)


def test_intervals_equivalence_and_power_agree_with_scipy_and_statsmodels() -> None:
    chance = random.Random(0)
    for _ in range(50):
        ours = [chance.gauss(0, 1) for _ in range(chance.randint(3, 8))]
        rival = [chance.gauss(0.5, 2) for _ in range(chance.randint(3, 8))]
        found, wanted = compare(ours, rival, margin=1.5), scipy_stats.ttest_ind(ours, rival, equal_var=False)
        assert (found.p, found.low, found.high) == pytest.approx((wanted.pvalue, *wanted.confidence_interval()))
        assert found.equivalent == (ttost_ind(ours, rival, -1.5, 1.5, usevar="unequal")[0] <= 0.05)
        goal = compare(ours, 0.7)
        assert goal.p == pytest.approx(scipy_stats.ttest_1samp(ours, 0.7).pvalue)
        assert (goal.low + goal.high) / 2 == pytest.approx(goal.difference) == pytest.approx(mean(ours) - 0.7)
        effect = goal.detectable / stdev(ours)
        assert TTestPower().power(effect, len(ours), 0.05) == pytest.approx(0.8, abs=0.05)


def test_claims_are_corrected_for_their_number() -> None:
    chance = random.Random(0)
    for count in (1, 2, 9, 25):
        p_values = [chance.random() ** 3 for _ in range(count)]
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
        assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1])
    assert holm([]) == benjamini_hochberg([]) == []
    near = Claim(-1.0, -2.0, 0.0, 0.03, (5, 5), text="near", better="less")
    rows = [[Row("a", "1", claim=near), Row("b", "1")], [Row("c", "1", claim=replace(near, p=0.5))]]
    first, second = corrected(rows)
    assert near.verdict == "supported"
    assert [row.claim and row.claim.verdict for row in (*first, *second)] == ["inconclusive", None, "inconclusive"]
    ((one, _), _) = corrected([rows[0], [Row("c", "1", claim=replace(near, p=0.5, primary=True))]])
    assert one.claim.verdict == "supported", "primary claims are corrected by themselves"


def test_a_row_shows_others_beside_ours_and_claims_against_the_first_of_them_or_a_goal() -> None:
    others, ours = {"GMM-5": [3.0, 3.1, 3.2], "real images": [0.5], "reconstructions": []}, [1.0, 1.1, 1.2]
    row = compared("figure", ours, others, "{:.1f}", text="nearer", metric="m")
    assert (row.ours, row.baseline, row.metric) == ("1.1 ± 0.1", "GMM-5 3.1 ± 0.1, real images 0.5", "m")
    assert (row.claim.verdict, row.claim.shown, row.claim.counts) == ("supported", "GMM-5 3.1 ± 0.1", (3, 3))
    goal = compared("figure", ours, others, "{:.1f}", text="more", goal=2.0, better="more")
    assert str(goal.baseline).startswith("goal 2.0, GMM-5 ")
    assert (goal.claim.verdict, goal.claim.shown) == ("refuted", "goal 2.0")
    failed = compared("figure", [], {"": []}, text="nearer")
    assert (failed.ours, failed.baseline, failed.claim) == ("failed", None, None)


@pytest.mark.slow
def test_a_study_without_differences_rarely_claims_one() -> None:
    """25 claims without a difference, ten primary, five repeats: each correction errs in at most 5 % of studies."""
    chance, wrong = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(400):
        claims = [claim("null", *chance.normal(size=(2, 5)).tolist(), primary=number < 10) for number in range(25)]
        (rows,) = corrected([[Row("", "", claim=each) for each in claims]])
        for primary in wrong:
            found = {row.claim.verdict for row in rows if row.claim and row.claim.primary == primary}
            wrong[primary] += bool(found & {"supported", "refuted"})
    assert max(wrong.values()) <= 0.05 * 400 + 2 * (400 * 0.05 * 0.95) ** 0.5, "two standard errors"
