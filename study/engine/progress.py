"""What the user sees of a search: a line a finished trial, and on a terminal a bar of the stage and of its trial."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tqdm import tqdm

PAUSE = 0.1  # seconds between two drawings of the bar

log = logging.getLogger("study")


class Progress(tqdm):
    """A part's display, whoever runs its trials. Without a terminal there is no bar, only the lines."""

    def __init__(self, label: str, total: int, done: int) -> None:
        super().__init__(
            total=total,
            initial=done,
            desc=label,
            unit="trial",
            disable=None if log.isEnabledFor(logging.INFO) else True,  # None: shown on a terminal
            dynamic_ncols=True,
            leave=False,
            smoothing=0,  # The time left follows from all trials so far, which differ in length.
        )
        self._label, self._drawn = label, 0.0

    def finished(self, done: int, line: str, best: str) -> None:
        """A trial has come to its end: `done` have by now, and `best` is the best so far."""
        if log.isEnabledFor(logging.INFO):
            with suppress(OSError):  # nobody reads it any more, as after `2>&1 | head`: the trial goes on
                self.write(f"{self._label}: {line}", file=sys.stderr)
        self.set_description_str(f"{self._label} {best}".rstrip(), refresh=False)
        self.n = done
        self.refresh()

    def doing(self, what: str) -> None:
        """What this process is at."""
        self.set_postfix_str(what, refresh=False)
        if time.monotonic() - self._drawn > PAUSE:
            self._drawn = time.monotonic()
            self.refresh()


def short(values: Mapping[str, Any]) -> str:
    """Numbers by name in a few characters each."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
