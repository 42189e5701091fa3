"""The statistics behind a claim: t-tests by SciPy, with an interval of the difference and equivalence by two tests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import mean
from typing import Literal

Better = Literal["less", "more"]
Verdict = Literal["supported", "refuted", "equivalent", "inconclusive"]
LEVEL = 0.05


@dataclass(frozen=True)
class MeanDifference:
    """The difference of two means, ours less `factor` times the rival's.

    Attributes:
        low, high: Its 95 % interval; nan if there are too few repeats.
        p: Two-sided p-value; nan if there is no test.
        counts: Repeats of ours and of the rival; 0 for a fixed goal.
        verdict: At a level of 5 %, before any correction for the number of claims.
    """

    difference: float
    low: float
    high: float
    p: float
    counts: tuple[int, int]
    verdict: Verdict


def compare(
    ours: Sequence[float],
    rival: Sequence[float] | float,
    *,
    better: Better = "less",
    factor: float = 1.0,
    paired: bool = False,
    margin: float | None = None,
) -> MeanDifference:
    """Test whether mean(ours) beats factor * mean(rival).

    A t-test at 5 %: paired where both sides share seeds or draws, else Welch's; one-sample for a rival that is a
    number. Not significant, the verdict is "equivalent" if the 90 % interval of the difference lies within +-margin
    (two one-sided tests, Schuirmann 1987, https://doi.org/10.1007/BF01068419), else "inconclusive".

    Raises:
        ValueError: `better` or `factor` is not valid.
    """
    if better not in ("less", "more"):
        raise ValueError(f"`better` must be 'less' or 'more', but got {better!r}")
    if not (isfinite(factor) and factor > 0):
        raise ValueError(f"`0 < factor < inf` must hold, but got {factor}")
    goal = isinstance(rival, int | float)
    others = [factor * rival] if isinstance(rival, int | float) else [factor * value for value in rival]
    counts = (len(ours), 0 if goal else len(others))
    finite = all(isfinite(value) for value in (*ours, *others))
    if not ours or not others or not finite:
        return MeanDifference(nan, nan, nan, nan, counts, "inconclusive")
    difference = mean(ours) - mean(others)
    if min(len(ours), len(ours) if goal else len(others)) < 2:
        return MeanDifference(difference, nan, nan, nan, counts, "inconclusive")
    from scipy import stats  # only where claims are made

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy's, of repeats that are equal up to rounding
        if goal:
            test = stats.ttest_1samp(ours, others[0])
        elif paired and len(ours) == len(others):
            test = stats.ttest_rel(ours, others)
        else:
            test = stats.ttest_ind(ours, others, equal_var=False)
    shift = others[0] if goal else 0.0  # of one sample, SciPy gives the interval of the mean
    low, high = (float(end) - shift for end in test.confidence_interval(1 - LEVEL))
    verdict: Verdict = "inconclusive"
    if test.pvalue < LEVEL and difference:
        verdict = "supported" if (difference < 0) == (better == "less") else "refuted"
    elif margin is not None:
        inner = [abs(float(end) - shift) for end in test.confidence_interval(1 - 2 * LEVEL)]
        verdict = "equivalent" if max(inner) <= margin else verdict
    return MeanDifference(difference, low, high, float(test.pvalue), counts, verdict)
