"""One attempt at a trial: a run in MLflow, the training, and an outcome in Optuna's database and in the run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import optuna

from study.engine.progress import log, short
from study.engine.search import Objective, Origin, Pruned, Search, Trial
from study.engine.slots import PAGE, RUN_ID, Slots, Superseded
from tracking.errors import StoreError, reason_of, store_errors
from tracking.runs import SEARCH, TRIAL, Run, is_deleted, trial_run
from tracking.views import page_of

ShowEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Shows what a trial, by its number, measured at an epoch."""


@dataclass(frozen=True)
class Attempts:
    """How this process makes attempts at the trials of a search."""

    name: str  # Optuna's of the search
    search: Search
    objective: Objective
    slots: Slots
    parent: Run
    origin: Origin

    def make(
        self,
        slot: str,
        trial: optuna.Trial,
        show_epoch: ShowEpoch,
    ) -> None:
        """Train, and keep the outcome in both places.

        Args:
            slot: Where the trial is.
            trial: A new attempt at it, which was claimed.
        """
        run: Run | None = None
        try:
            with self.slots.heartbeat(trial), store_errors():
                params = {name: trial.params[name] for name in self.search.space}
                values = ", ".join(short({"": value})[1:] for value in params.values())
                title = f"{self.origin.title} {trial.number}{values and ': '}{values}"
                tags = {SEARCH: self.name, TRIAL: trial.number, "optuna.state": "RUNNING", **self.origin.tags}
                with trial_run(self.parent, title, params, tags) as run:
                    if self.origin.inputs is not None:
                        run.log_inputs(self.origin.inputs)
                    seen = Trial(
                        number=trial.number,
                        slot=slot,
                        params=params,
                        run=run,
                        prunable=slot not in self.search.fixed,
                        _optuna=trial,
                        _prune_on=self.search.prune_on,
                        _epoch=partial(show_epoch, trial.number),
                    )
                    self._decide(trial, seen)
        except _BrokenDown:
            pass  # Optuna and MLflow know of it; the study goes on.
        except (Superseded, optuna.exceptions.UpdateFinishedTrialError):
            log.warning("trial %d sent no heartbeat for so long that another process has taken it over", trial.number)
        except BaseException as error:
            deleted = run is not None and isinstance(error, Exception) and is_deleted(run.run_id)
            outcome, reason = _interruption(error, deleted)
            with suppress(Exception, Superseded):  # The store may be what failed; the error itself is reported.
                self.slots.finish(trial, outcome, reason)
                if run is not None and not deleted:
                    run.set_tags({"optuna.state": outcome, "reason": reason})
            if outcome == "STOPPED" and not deleted:
                raise
            log.warning("trial %d is run again, since %s (--log-level debug says more)", trial.number, reason)
            log.debug("trial %d", trial.number, exc_info=True)

    def _decide(self, trial: optuna.Trial, seen: Trial) -> None:
        """Train, and commit the outcome while the run is still open: its status then follows."""

        def finish(outcome: str, reason: str, values: tuple[float, ...] | None = None) -> None:
            seen.run.set_tags({"optuna.state": outcome, "reason": reason})
            self.slots.finish(trial, outcome, reason, values)

        try:
            trial.set_user_attr(RUN_ID, seen.run.run_id)
            trial.set_user_attr(PAGE, page_of(seen.run))
            with store_errors():
                values = self.objective(seen)
            by_name = dict(zip(self.search.objectives, values, strict=True))
            for metric, value in by_name.items():
                if not math.isfinite(value):
                    raise FloatingPointError(f"{metric} is {value}")
            finish("COMPLETE", short(by_name), values)
        except Pruned as error:
            finish("PRUNED", str(error))
        except optuna.exceptions.UpdateFinishedTrialError as error:  # which is a RuntimeError too
            raise Superseded from error
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            reason = _breakdown(error)
            if reason is None:
                raise
            log.debug("trial %d", trial.number, exc_info=True)
            finish("FAIL", reason)
            raise _BrokenDown from error


def _interruption(error: BaseException, deleted: bool) -> tuple[str, str]:
    """The outcome of an attempt that came to no end of its own, and why."""
    if deleted:
        return "STOPPED", "its run was deleted in MLflow"
    if isinstance(error, StoreError):
        return "STOPPED", str(error)
    if isinstance(error, Exception):
        return "ERROR", f"{type(error).__name__}: {reason_of(error)}"
    return "STOPPED", type(error).__name__


def _breakdown(error: Exception) -> str | None:
    """What the numbers themselves brought about: the reason for which a trial fails for good; None: it is an error."""
    if isinstance(error, FloatingPointError):
        return str(error)
    # PyTorch has a class of its own for a GPU's memory, and a plain RuntimeError for the machine's.
    memory = isinstance(error, MemoryError) or re.search(r"out of memory|(can't|not enough).* memory", str(error))
    return f"out of memory: {reason_of(error)}" if memory else None


class _BrokenDown(Exception):
    """The trial's outcome is that it failed: so does its run."""
