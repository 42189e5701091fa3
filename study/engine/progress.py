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


class Progress:
    """A search's display, whoever runs its trials. Without a terminal there is no bar, only the lines."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._label = label
        self._trial, self._epochs = -1, 0  # the trial under way, and the most epochs that any has had
        self._first = (0, 0.0)  # the trial's first epoch that was shown, and when
        self._shown = 0.0
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit="trial",
            disable=None if log.isEnabledFor(logging.INFO) else True,  # None: shown on a terminal
            dynamic_ncols=True,
            leave=False,
            smoothing=0,  # The time left follows from all trials so far, which differ in length.
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def finished(self, done: int, line: str, best: str) -> None:
        """A trial has come to its end: `done` have by now, and `best` is the best so far."""
        if log.isEnabledFor(logging.INFO):
            with suppress(OSError):  # nobody reads it any more, as after `2>&1 | head`: the trial goes on
                self._bar.write(f"{self._label}: {line}", file=sys.stderr)
        self._bar.set_description_str(f"{self._label} {best}".rstrip(), refresh=False)
        self._bar.n = done
        self._bar.refresh()

    def epoch(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """This process's trial has come this far. How far it goes is known from those before it."""
        now = time.monotonic()
        if trial != self._trial:
            self._trial, self._first = trial, (epoch, now)
        ahead, behind = self._epochs - epoch, epoch - self._first[0]
        left = ""
        if min(ahead, behind) > 0:
            left = f"/{self._epochs}, {ahead * (now - self._first[1]) / behind:.0f} s left"
        self._epochs = max(self._epochs, epoch)
        self.doing(f"trial {trial} epoch {epoch}{left}, {short(metrics)}")

    def doing(self, what: str) -> None:
        """What this process is at."""
        self._bar.set_postfix_str(what, refresh=False)
        if time.monotonic() - self._shown > PAUSE:
            self._shown = time.monotonic()
            self._bar.refresh()


def short(values: Mapping[str, Any]) -> str:
    """Numbers by name in a few characters each."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
