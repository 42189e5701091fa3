"""How the trials of a search are run: parameters from Optuna, a run in MLflow, an outcome in both.

A trial that is complete in Optuna's database counts only while its run stands in the store: one whose run was deleted,
or is in another store, is run again. slots.py says which process runs which trial.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.harness.launcher import Watch
from study.harness.progress import Progress, log, short
from study.harness.search import Objective, Origin, Pruned, Result, Search, Trial
from study.harness.slots import PAGE, RUN_ID, SLOT, Slots, Superseded, is_done, load_study, outcome, slot_name
from tracking.errors import StoreError, reason_of, store_errors
from tracking.runs import SEARCH, TRIAL, Run, correct_statuses, end_killed, is_deleted, trial_ids, trial_run
from tracking.store import Store
from tracking.views import page_of

LOOK_EVERY = 2.0  # seconds between two looks at what other processes have finished
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}  # of the runs


def run_search(
    search: Search,
    objective: Objective,
    store: Store,
    parent: Run,
    *,
    name: str,
    label: str = "",
    seed: int = 0,
    origin: Origin | None = None,
    watch: Watch | None = None,
) -> list[Result]:
    """Run what is missing of the study's trials, each as a nested run of `parent`; give the complete ones, each once.

    Other processes may run some of them. A trial whose training breaks down (a FloatingPointError: a loss that is not
    finite, say) or that needs more memory than there is counts as failed with its reason, and the study goes on. One
    that ends in another error, that was stopped, or whose process died, is tried again with the same parameters; after
    three errors or deaths it counts as failed too.

    Args:
        name: That of Optuna's study.
        label: What the progress display calls the search.
        origin: What every trial's run says of where it comes from.
        watch: Where given, this process takes no trial, and calls it as it waits for those that do.

    Raises:
        StoreError: Optuna's database cannot be opened, or no trial is complete at the end of a search not optional.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = _Trials(name, search, store, parent, seed, origin=origin or Origin(), watch=watch)
    try:
        return trials.run(objective, label)
    finally:
        trials.slots.close()


def pruned(name: str, store: Store, parent: Run) -> list[Result]:
    """The pruned trials of the search of this name whose runs this store has, with the last value of each."""
    here = trial_ids(parent)
    found = load_study(name, store).get_trials(deepcopy=False, states=[TrialState.PRUNED])
    return [
        _result(trial, (trial.intermediate_values[trial.last_step],))
        for trial in found
        if trial.last_step is not None and trial.user_attrs[RUN_ID] in here
    ]


def importances(name: str, store: Store) -> dict[str, float]:
    """What share of the objective's variance each parameter explains (fANOVA, Hutter et al. 2014); largest first.

    Empty where there are too few complete trials to say: not more than parameters.
    """
    study = load_study(name, store)
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete or len(complete) <= len(complete[0].params):
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


class _Trials:
    """A search's trials, and how this process takes part in them."""

    def __init__(
        self, name: str, search: Search, store: Store, parent: Run, seed: int, *, origin: Origin, watch: Watch | None
    ) -> None:
        self.name, self.search, self.store, self.parent = name, search, store, parent
        self.origin, self.watch = origin, watch
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if search.prune_on:
            pruner = optuna.pruners.MedianPruner(len(search.fixed) + 2, search.prune_after)

        def sampler(attempts: int) -> optuna.samplers.BaseSampler:
            # One of its own for each trial: what it proposes depends on the trials before, not on the process. Trials
            # that other processes have under way count as bad ones, so that it keeps away from them.
            startup = len(search.fixed) + 4
            return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed + attempts, constant_liar=True)

        self.slots = Slots(
            name,
            search.slots,
            store,
            space=search.space,
            code=origin.code,
            objectives=search.objectives,
            about={RUN_ID: parent.run_id, PAGE: page_of(parent)},
            pruner=pruner,
            sampler=sampler,
            end_dead=end_killed,
            runs_here=partial(trial_ids, parent),
        )

    def run(self, objective: Objective, label: str) -> list[Result]:
        done = self.slots.decided()
        with Progress(label, len(self.search.slots), len(done)) as progress:
            shown = {attempt.number for attempt in done.values()}
            looked = 0.0

            def look() -> int:
                """Show what has come to its end since the last look, here or elsewhere; how many trials have by now."""
                nonlocal looked
                looked = time.monotonic()
                found = self.slots.decided()
                for attempt in sorted(found.values(), key=lambda attempt: attempt.number):
                    if attempt.number not in shown:
                        shown.add(attempt.number)
                        progress.finished(len(found), _line(attempt), self._best(found))
                return len(found)

            def show_epoch(number: int, epoch: int, metrics: Mapping[str, float]) -> None:
                progress.epoch(number, epoch, metrics)
                if time.monotonic() - looked > LOOK_EVERY:
                    look()

            ended = False
            while not ended:
                ended = True
                while look() < len(self.search.slots):
                    ended = False
                    claimed = None if self.watch else self.slots.claim()
                    if claimed is not None:
                        self._attempt(*claimed, objective, show_epoch)
                    else:
                        others = "waiting for trials of other processes, or for them to count as dead"
                        progress.doing(self.watch() if self.watch else others)
                        time.sleep(1)
                if not ended:  # trials took their time: a run may have been deleted meanwhile
                    self.slots.look_again()
        self._correct_runs()
        decided = sorted(self.slots.decided().values(), key=lambda attempt: attempt.number)
        complete = [attempt for attempt in decided if attempt.state == TrialState.COMPLETE]
        if not complete and not self.search.optional:
            raise StoreError(f"no trial of {self.name} is complete: {'; '.join(sorted(set(map(outcome, decided))))}")
        # A free trial may hit on parameters that were tried before; the seed is the same, so the result counts once.
        first = {slot_name(attempt.params): attempt for attempt in reversed(complete)}
        return [
            _result(attempt, tuple(attempt.values))
            for attempt in sorted(first.values(), key=lambda attempt: attempt.number)
        ]

    def _correct_runs(self) -> None:
        """Correct what processes that died have left of the MLflow runs."""
        with self.store.locks.hold(self.name):
            attempts = self.slots.attempts()
            outcomes = {
                attempt.user_attrs[RUN_ID]: STATUS[attempt.state] if is_done(attempt) else "KILLED"
                for attempt in attempts
                if RUN_ID in attempt.user_attrs
            }
            under_way = {attempt.number for attempt in attempts if not attempt.state.is_finished()}
            correct_statuses(self.parent, self.name, outcomes, under_way)

    def _best(self, done: Mapping[str, FrozenTrial]) -> str:
        values = [attempt.values for attempt in done.values() if attempt.state == TrialState.COMPLETE]
        if not values or len(self.search.objectives) > 1:
            return ""
        ((metric, direction),) = self.search.objectives.items()
        best = (min if direction == "minimize" else max)(value[0] for value in values)
        return f"(best {short({metric: best})})"

    def _attempt(
        self,
        slot: str,
        trial: optuna.Trial,
        objective: Objective,
        show_epoch: Callable[[int, int, Mapping[str, float]], None],
    ) -> None:
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
                    self._decide(trial, seen, objective)
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

    def _decide(self, trial: optuna.Trial, seen: Trial, objective: Objective) -> None:
        """Train, and commit the outcome while the run is still open: its status then follows."""

        def finish(outcome: str, reason: str, values: tuple[float, ...] | None = None) -> None:
            seen.run.set_tags({"optuna.state": outcome, "reason": reason})
            self.slots.finish(trial, outcome, reason, values)

        try:
            trial.set_user_attr(RUN_ID, seen.run.run_id)
            trial.set_user_attr(PAGE, page_of(seen.run))
            with store_errors():
                values = objective(seen)
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


def _result(attempt: FrozenTrial, values: tuple[float, ...]) -> Result:
    attributes = attempt.user_attrs
    return Result(attempt.number, attributes[SLOT], dict(attempt.params), values, attributes[RUN_ID])


def _line(attempt: FrozenTrial) -> str:
    seconds = f", {attempt.duration.total_seconds():.0f} s" if attempt.duration else ""
    return f"trial {attempt.number} {outcome(attempt)} ({short(attempt.params)}){seconds}"
