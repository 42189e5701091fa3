"""The statistics behind claims: t-tests by SciPy, intervals, equivalence, and corrections for the number of claims."""

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
POWER = 0.8  # with which a difference would be found


@dataclass(frozen=True)
class MeanDifference:
    """The difference of two means, ours less `factor` times the rival's.

    Attributes:
        low, high: Its 95 % interval; nan if there are too few repeats.
        p: Two-sided p-value; nan if there is no test.
        counts: Repeats of ours and of the rival; 0 for a fixed goal.
        equivalent: Whether the 90 % interval of the difference lies within +-margin: two one-sided tests at 5 %,
            Schuirmann 1987, https://doi.org/10.1007/BF01068419.
        detectable: The difference that these repeats would find with a power of 80 %, before corrections.
    """

    difference: float
    low: float
    high: float
    p: float
    counts: tuple[int, int]
    equivalent: bool = False
    detectable: float = nan


def compare(
    ours: Sequence[float],
    rival: Sequence[float] | float,
    *,
    factor: float = 1.0,
    paired: bool = False,
    margin: float | None = None,
) -> MeanDifference:
    """Return the t-test of mean(ours) against factor * mean(rival).

    It is paired where both sides share seeds or draws, else Welch's; one-sample for a rival that is a number.

    Raises:
        ValueError: `factor` is not valid.
    """
    if not (isfinite(factor) and factor > 0):
        raise ValueError(f"`0 < factor < inf` must hold, but got {factor}")
    goal = isinstance(rival, int | float)
    others = [factor * rival] if isinstance(rival, int | float) else [factor * value for value in rival]
    counts = (len(ours), 0 if goal else len(others))
    if not ours or not others or not all(isfinite(value) for value in (*ours, *others)):
        return MeanDifference(nan, nan, nan, nan, counts)
    difference = mean(ours) - mean(others)
    if min(len(ours), len(ours) if goal else len(others)) < 2:
        return MeanDifference(difference, nan, nan, nan, counts)
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
    inner = [abs(float(end) - shift) for end in test.confidence_interval(1 - 2 * LEVEL)]
    error = (high - low) / 2 / stats.t.ppf(1 - LEVEL / 2, test.df)  # standard error of the difference
    detectable = error * (stats.t.ppf(1 - LEVEL / 2, test.df) + stats.t.ppf(POWER, test.df))
    equivalent = margin is not None and max(inner) <= margin
    p = float(test.pvalue) if difference else 1.0  # 0 / 0 where all repeats are the same number
    return MeanDifference(difference, low, high, p, counts, equivalent, float(detectable))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for the chance of any wrong decision among them.

    Holm 1979, A simple sequentially rejective multiple test procedure, https://www.jstor.org/stable/4615733.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for the fraction of wrong ones among the decisions.

    Benjamini & Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x.
    """
    from scipy.stats import false_discovery_control

    return [float(p) for p in false_discovery_control(p_values)] if p_values else []
