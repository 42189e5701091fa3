"""Checks of settings, and what a user's mistake raises. Light: every command imports it."""

from __future__ import annotations

from math import inf

MOST_REPEATS = 999  # trainings with the same settings, numbered from 0


class UsageError(Exception):
    """The user asked for something impossible; the message is one sentence."""


def at_least(low: int, **values: int) -> None:
    """Check settings, given by name.

    Raises:
        ValueError: One is below `low`; the message names it.
    """
    for name, value in values.items():
        if value < low:
            raise ValueError(f"`{low} <= {name}` must hold, but got {value}")


def at_most(high: int, **values: int) -> None:
    """Check settings, given by name.

    Raises:
        ValueError: One is above `high`; the message names it.
    """
    for name, value in values.items():
        if value > high:
            raise ValueError(f"`{name} <= {high}` must hold, but got {value}")


def positive(**values: float) -> None:
    """Check settings, given by name.

    Raises:
        ValueError: One is not positive and finite; the message names it.
    """
    for name, value in values.items():
        if not 0 < value < inf:
            raise ValueError(f"`0 < {name} < inf` must hold, but got {value}")


def numbers(values: tuple[float, ...] | list[int]) -> str:
    """Numbers in words: `3, 10, 0.01`."""
    return ", ".join(f"{value:g}" for value in values)
