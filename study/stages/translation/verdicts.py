"""The rules that decide what the reference says of each GAN: thresholds, and how figures become a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from study.engine.stage import Verdict
from study.engine.table import verdict
from study.measures.judges import COLLAPSED_REACH

WORKS_ERROR = 0.5
"""A translator works on a pairing if its error (MAE) is at most this share of the untranslated input's, ..."""
WORKS_LOST = 0.1
"""... and, by either judge, at most this share of its images is not of the input's class."""
COLLAPSED = COLLAPSED_REACH
"""It has collapsed if its recall, its coverage or its dependence on the input is below this."""
GOAL = 0.5
"""What "slower" means: more steps until the validation error is this share of the untranslated input's."""


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

    Trainings that never get there take more than all the steps: these stand for them, and only what holds all the more
    with more steps is decided.
    """
    decided = verdict([min(each, most) for each in ours], [min(each, most) for each in against], better="more")
    uncertain = {"held": against, "did not hold": ours, "undecided": ()}[decided]
    return "undecided" if any(each > most for each in uncertain) else decided
