"""The rules that decide what the reference says of each GAN: thresholds, and how figures become a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from statistics import mean
from typing import Literal

import numpy as np

from study.harness.stage import Verdict
from study.harness.table import verdict
from study.science.judges import COLLAPSED_REACH

WORKS_ERROR = 0.5
"""A translator works on a pairing if its error (MAE) is at most this share of the untranslated input's, ..."""
WORKS_LOST = 0.1
"""... and, by either judge, at most this share of its images is not of the input's class."""
COLLAPSED = COLLAPSED_REACH
"""It has collapsed if its recall, its coverage or its dependence on the input is below this."""
GOAL = 0.5
"""What "slower" means: more steps until the validation error is this share of the untranslated input's."""
ALONE = 0.25
"""With a single training there is no spread: a claim is then decided if both sides are apart by more than this share of
what ours is held against."""


def decide(
    ours: Sequence[float], against: Sequence[float], *, better: Literal["less", "more"] = "less", factor: float = 1.0
) -> Verdict:
    """`study.harness.table.verdict` where there are repeats; of a single training, by the margin `ALONE`."""
    if len(ours) != 1:
        return verdict(ours, against, better=better, factor=factor)
    if not against or not all(map(isfinite, (*ours, *against))):
        return "undecided"
    goal = factor * mean(against)
    ahead = goal - ours[0] if better == "less" else ours[0] - goal
    if abs(ahead) <= ALONE * abs(goal):
        return "undecided"
    return "held" if ahead > 0 else "did not hold"


def every(*verdicts: Verdict) -> Verdict:
    """Of a claim that holds if all of its parts hold."""
    if "did not hold" in verdicts:
        return "did not hold"
    return "undecided" if "undecided" in verdicts or not verdicts else "held"


def none_of(*verdicts: Verdict) -> Verdict:
    """Of a claim that holds if none of its parts holds."""
    opposite: dict[Verdict, Verdict] = {"held": "did not hold", "did not hold": "held", "undecided": "undecided"}
    return every(*(opposite[each] for each in verdicts))


def steps_to(goal: float, steps: Sequence[float], errors: Sequence[float]) -> float:
    """Steps until the error first is at most `goal`, in a straight line between two measurements; infinite: never."""
    below = np.flatnonzero(np.asarray(errors) <= goal)
    if not len(below):
        return inf
    at = int(below[0])
    if at == 0:
        return float(steps[0])
    share = (errors[at - 1] - goal) / (errors[at - 1] - errors[at])
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))


def slower(ours: Sequence[float], against: Sequence[float], most: float) -> Verdict:
    """Whether ours takes more steps to the goal, of so many that were made.

    Trainings of ours that never get there take more than all the steps: these stand for them. Held against those that
    never get there, nothing is decided.
    """
    return decide([min(each, most) for each in ours], against, better="more")
