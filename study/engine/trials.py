"""How the trials of a search are run: parameters from Optuna, a run in MLflow, an outcome in both.

A trial that is complete in Optuna's database counts only while its run stands in the store: one whose run was deleted,
or is in another store, is run again. slots.py says which process runs which trial.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.engine.attempt import Attempts, ShowEpoch
from study.engine.launcher import Watch
from study.engine.progress import Progress, short
from study.engine.search import Objective, Origin, Result, Search
from study.engine.slots import PAGE, RUN_ID, SLOT, Slots, is_done, load_study, outcome, slot_name
from tracking.errors import StoreError
from tracking.runs import Run, correct_statuses, end_killed, trial_ids
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
    trials = Trials(
        search, objective, store, parent, name=name, label=label, seed=seed, origin=origin or Origin(), watch=watch
    )
    try:
        return trials.run()
    finally:
        trials.close()


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


class Trials:
    """A search's trials, and how this process takes part in them. Arguments and errors are those of `run_search`."""

    def __init__(
        self,
        search: Search,
        objective: Objective,
        store: Store,
        parent: Run,
        *,
        name: str,
        label: str,
        seed: int,
        origin: Origin,
        watch: Watch | None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name, self.search, self.store, self.parent = name, search, store, parent
        self.label, self.watch = label, watch
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
        self.attempts = Attempts(name, search, objective, self.slots, parent, origin)
        self._shown = {attempt.number for attempt in self.slots.decided().values()}  # no news

    def close(self) -> None:
        """Let go of the database."""
        self.slots.close()

    def run(self, ahead: Sequence[Trials] = ()) -> list[Result]:
        """Take part until all have come to their end.

        Args:
            ahead: Searches whose turn is later: while others have all the trials that are left of this one, this
                process runs theirs.
        """
        try:
            self._take_part(ahead)
        except KeyboardInterrupt:
            with suppress(Exception):  # It may have come in mid-call: of a run just made, say, nobody knows yet.
                for each in (self, *ahead):
                    each._correct_runs()
            raise
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

    def take(self, show_epoch: ShowEpoch) -> bool:
        """Run one trial, if one is left that no other process has. Returns whether it was so."""
        claimed = None if self.watch else self.slots.claim()
        if claimed is None:
            return False
        self.attempts.make(*claimed, show_epoch)
        return True

    def _take_part(self, ahead: Sequence[Trials]) -> None:
        """Run trials until all of this search have come to their end, and show it."""
        with Progress(self.label, len(self.search.slots), len(self._shown)) as progress:
            shown = self._shown
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

            def show_other(other: Trials) -> ShowEpoch:
                def show(number: int, epoch: int, metrics: Mapping[str, float]) -> None:
                    progress.doing(f"meanwhile {other.label}: trial {number} epoch {epoch}, {short(metrics)}")
                    if time.monotonic() - looked > LOOK_EVERY:
                        look()

                return show

            ended = False
            while not ended:
                ended = True
                while look() < len(self.search.slots):
                    ended = False
                    if not self.take(show_epoch) and not any(other.take(show_other(other)) for other in ahead):
                        others = "waiting for trials of other processes, or for them to count as dead"
                        progress.doing(self.watch() if self.watch else others)
                        time.sleep(1)
                if not ended:  # trials took their time: a run may have been deleted meanwhile
                    self.slots.look_again()

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


def _result(attempt: FrozenTrial, values: tuple[float, ...]) -> Result:
    attributes = attempt.user_attrs
    return Result(attempt.number, attributes[SLOT], dict(attempt.params), values, attributes[RUN_ID])


def _line(attempt: FrozenTrial) -> str:
    seconds = f", {attempt.duration.total_seconds():.0f} s" if attempt.duration else ""
    return f"trial {attempt.number} {outcome(attempt)} ({short(attempt.params)}){seconds}"
