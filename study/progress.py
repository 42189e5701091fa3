"""What the user sees of a search: a line a finished trial, and on a terminal one bar of the stage and its trial."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

log = logging.getLogger("study")


class Progress:
    """A search's display, whoever runs its trials. Without a terminal there is no bar, only the lines."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._label = label
        shown = None if log.isEnabledFor(logging.INFO) else True  # None: on a terminal
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit="trial",
            disable=shown,
            dynamic_ncols=True,
            leave=False,
            smoothing=0,  # the time left follows from all trials of this process, which differ in length
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def finished(self, done: int, line: str, best: str) -> None:
        """A trial has come to its end: `done` have by now, and `best` is the best so far."""
        if log.isEnabledFor(logging.INFO):
            self._bar.write(f"{self._label}: {line}", file=sys.stderr)
        self._bar.set_description_str(f"{self._label} {best}".rstrip(), refresh=False)
        self._bar.n = done
        self._bar.refresh()

    def doing(self, what: str) -> None:
        """What this process is at."""
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(0)


def short(values: Mapping[str, Any]) -> str:
    """Numbers by name in a few characters each."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
