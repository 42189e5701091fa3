"""How trials run: taken from the queue, with a run in MLflow each, and an outcome in both.

A trial that is finished in the queue counts only while its run stands in the store: one whose run was deleted, or is in
another store, runs again.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from study.engine.progress import Progress, log, short
from study.engine.queue import COMPLETE, FAILED, FINISHED, PRUNED, RUNNING, WAITING, Queue, QueuedTrial, Superseded
from study.engine.search import PAGE, RUN_ID, Params, Proposals, Pruned, Result
from study.engine.trial import Trial
from tracking.errors import StoreError, reason_of, store_errors
from tracking.registry import Direction
from tracking.runs import SEARCH, TRIAL, Inputs, Run, correct_statuses, end, is_deleted, runs_of, trial_run
from tracking.views import page_of

if TYPE_CHECKING:
    import optuna

    from study.engine.launchers import Watch

LOOK_EVERY = 2.0  # seconds between two looks at what other processes have finished
STATUS = {COMPLETE: "FINISHED", PRUNED: "FINISHED", FAILED: "FAILED"}  # of the MLflow runs
MOST_NAMED = 4  # parameters in the name of a run

Objective = Callable[[Trial], "tuple[float, ...]"]


@dataclass(frozen=True)
class Part:
    """A list or a search of a study: trials that share an objective.

    Attributes:
        name: In the queue: the study's name, the part's, and a fingerprint of a search's space.
        title: Of its runs, before the trial's number.
        trials: Parameters by key; of a search, empty ones.
        objectives: The metrics that decide, each with "minimize" or "maximize".
        proposals: Opens Optuna's study of a search; None: a list.
        optional: Whether the stage can go on if no trial is complete.
    """

    name: str
    title: str
    trials: Mapping[str, Params]
    objective: Objective
    objectives: Mapping[str, Direction]
    proposals: Callable[[], Proposals] | None = None
    prune_on: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Origin:
    """What the run of every trial says of where it comes from; `facts` are kept beside its model."""

    tags: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Runner:
    """Runs the trials of a study in this process, beside any number of other processes.

    Args:
        queue: The store's.
        label: What the progress display calls the study.
        seed_for: The seed of a repeat.
        watch: Where given, this process takes no trial, and calls it as it waits for processes that do.
    """

    def __init__(
        self,
        queue: Queue,
        parent: Run,
        *,
        label: str,
        seed_for: Callable[[int], int],
        origin: Origin | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._queue, self._parent, self._label, self._watch = queue, parent, label, watch
        self._seed_for, self._origin = seed_for, origin or Origin()
        self._parts: list[Part] = []  # enqueued, and not finished
        self._proposals: dict[str, Proposals] = {}
        self._looked = 0.0

    def enqueue(self, part: Part) -> None:
        """Add a part: processes that find nothing else to do may run its trials from now on."""
        self._queue.add(part.name, part.trials)
        self._parts.append(part)

    def finish(self, part: Part) -> list[Result]:
        """Run what is missing of an enqueued part, and return its complete trials, each once.

        A trial whose training breaks down (a loss that is not finite, too little memory) fails for good, and the study
        goes on. A trial whose process dies, or that meets an error that may pass (an OSError), runs again, three times
        at most. Any other error is raised.

        Raises:
            StoreError: No trial is complete, and the part is not optional.
        """
        try:
            self._take_part(part)
        except KeyboardInterrupt:
            with suppress(Exception):  # of a run just made, nobody may know yet
                for each in self._parts:
                    self._correct_runs(each)
            raise
        self._correct_runs(part)
        self._parts.remove(part)
        if part.name in self._proposals:
            self._proposals.pop(part.name).close()
        trials = self._asked(part)
        complete = [trial for trial in trials if trial.state == COMPLETE]
        if not complete and not part.optional:
            reasons = "; ".join(sorted({str(trial.reason) for trial in trials}))
            raise StoreError(f"no trial of {part.name} is complete: {reasons}")
        # A search may propose the same parameters twice; the seed is the same, so the result counts once.
        first = {str(trial.params): trial for trial in reversed(complete)}
        return [_result(part, trial) for trial in sorted(first.values(), key=lambda trial: trial.number)]

    def pruned(self, part: Part) -> list[Result]:
        """Return the pruned trials of a part, each with the last value that it reported."""
        return [_result(part, trial) for trial in self._asked(part) if trial.state == PRUNED and trial.values]

    def close(self) -> None:
        """Let go of the databases."""
        for proposals in self._proposals.values():
            proposals.close()

    def _asked(self, part: Part) -> list[QueuedTrial]:
        return [trial for trial in self._queue.trials(part.name) if trial.key in part.trials]

    def _take_part(self, part: Part) -> None:
        """Run trials until all of this part are finished, and show it."""
        self._reopen_deleted(part)
        shown = {trial.number for trial in self._asked(part) if trial.state in FINISHED}  # no news
        with Progress(f"{self._label} {part.title}".rstrip(), len(part.trials), len(shown)) as progress:

            def look() -> bool:
                """Show what was finished since the last look, here or elsewhere. Return whether all is."""
                self._looked = time.monotonic()
                self._queue.reopen_dead(part.name, end)
                done = [trial for trial in self._asked(part) if trial.state in FINISHED]
                for trial in [each for each in done if each.number not in shown]:
                    shown.add(trial.number)
                    progress.finished(len(done), _line(trial), _best(part, done))
                return len(done) == len(part.trials)

            def show(where: str, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
                if where:
                    progress.doing(f"meanwhile {where} {number} epoch {epoch}, {short(metrics)}")
                else:
                    progress.epoch(number, epoch, metrics)
                if time.monotonic() - self._looked > LOOK_EVERY:
                    look()

            ran = True
            while ran:  # trials take their time: a run may have been deleted meanwhile
                ran = False
                while not look():
                    ran = True
                    others = [each for each in self._parts if each is not part]
                    if self._watch or not any(
                        self._run_one(each, partial(show, "" if each is part else each.title))
                        for each in [part, *others]
                    ):
                        progress.doing(self._watch() if self._watch else "waiting for trials of other processes")
                        time.sleep(1)
                if ran:
                    self._reopen_deleted(part)

    def _run_one(self, part: Part, show: Callable[[int, int, Mapping[str, float]], None]) -> bool:
        """Run one trial of the part, if one is left that no other process has. Return whether there was one."""
        for trial in self._asked(part):
            if trial.state == WAITING and self._queue.take(trial):
                with self._queue.heartbeat(trial):
                    self._run(part, trial, show)
                return True
        return False

    def _run(self, part: Part, trial: QueuedTrial, show: Callable[[int, int, Mapping[str, float]], None]) -> None:
        """Train, and keep the outcome in the queue and in the run."""
        run: Run | None = None
        proposed: optuna.Trial | None = None

        def put_back(reason: str, counts: bool) -> None:
            if proposed is not None:
                self._open_proposals(part).tell(proposed.number, WAITING, ())
            self._queue.put_back(trial, reason, counts=counts)
            if run is not None and not is_deleted(run.run_id):
                run.set_tags({"state": "stopped", "reason": reason})

        try:
            with store_errors():
                params = trial.params
                if part.proposals is not None:
                    proposed = self._open_proposals(part).ask(trial)
                    params = dict(proposed.params)
                    self._queue.note(trial, params=params)
                tags = {SEARCH: part.name, TRIAL: trial.number, "state": "running", **self._origin.tags}
                with trial_run(self._parent, _name(part, trial.number, params), params, tags) as run:
                    self._queue.note(trial, run_id=run.run_id)
                    if proposed is not None:
                        proposed.set_user_attr(RUN_ID, run.run_id)
                        proposed.set_user_attr(PAGE, page_of(run))
                    if self._origin.inputs is not None:
                        run.log_inputs(self._origin.inputs)
                    seen = Trial(
                        number=trial.number,
                        part=part.title,
                        params=params,
                        prunable=proposed is not None,
                        _run=run,
                        _facts=self._origin.facts,
                        _proposed=proposed if part.prune_on else None,
                        _prune_on=part.prune_on or "",
                        _show=show,
                    )
                    torch.manual_seed(self._seed_for(params.get("repeat", 0)))
                    self._decide(part, trial, run, seen, proposed)
        except _BrokenDown:
            pass  # the queue and MLflow know of it; the study goes on
        except Superseded:
            log.warning("trial %d sent no heartbeat for so long that another process has taken it over", trial.number)
        except BaseException as error:
            deleted = run is not None and isinstance(error, Exception) and is_deleted(run.run_id)
            passing = isinstance(error, OSError) and not deleted
            reason = "its run was deleted in MLflow" if deleted else f"{type(error).__name__}: {reason_of(error)}"
            with suppress(Exception, Superseded):  # the store may be what failed; the error itself is reported
                put_back(reason, passing)
            if not (deleted or passing):
                raise
            log.warning("trial %d runs again, since %s", trial.number, reason)
            log.debug("trial %d", trial.number, exc_info=True)

    def _decide(self, part: Part, trial: QueuedTrial, run: Run, seen: Trial, proposed: optuna.Trial | None) -> None:
        """Train, and commit the outcome while the run is still open: its status then follows."""
        began = time.monotonic()

        def finish(state: str, reason: str, values: Sequence[float] = ()) -> None:
            run.set_tags({"state": state, "reason": reason})
            seconds = time.monotonic() - began
            self._queue.note(trial, state=state, values=list(values), reason=reason, seconds=seconds)
            if proposed is not None:
                self._open_proposals(part).tell(proposed.number, state, values)

        try:
            values = part.objective(seen)
            by_name = dict(zip(part.objectives, values, strict=True))
            for metric, value in by_name.items():
                if not math.isfinite(value):
                    raise FloatingPointError(f"{metric} is {value}")
        except Pruned as error:
            last = seen.history.get(part.prune_on or "", ([], []))[1][-1:]
            finish(PRUNED, str(error), last)
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            reason = _breakdown(error)
            if reason is None:
                raise
            log.debug("trial %d", trial.number, exc_info=True)
            finish(FAILED, reason)
            raise _BrokenDown from error
        else:
            finish(COMPLETE, short(by_name), values)

    def _open_proposals(self, part: Part) -> Proposals:
        assert part.proposals is not None
        if part.name not in self._proposals:
            self._proposals[part.name] = part.proposals()
        return self._proposals[part.name]

    def _reopen_deleted(self, part: Part) -> None:
        """Open the trials whose runs this store does not have (any more)."""
        finished = [trial for trial in self._asked(part) if trial.state in FINISHED and trial.run_id]
        here = {run.run_id for run in runs_of(self._parent, part.name)} if finished else set()
        self._queue.reopen([trial for trial in finished if trial.run_id not in here])

    def _correct_runs(self, part: Part) -> None:
        """Correct the status of MLflow runs whose processes died before they could."""
        trials = self._queue.trials(part.name)
        outcomes = {trial.run_id: STATUS.get(trial.state, "KILLED") for trial in trials if trial.run_id}
        under_way = {trial.number for trial in trials if trial.state == RUNNING}
        correct_statuses(self._parent, part.name, outcomes, under_way)


def _breakdown(error: Exception) -> str | None:
    """Return the reason if training diverged or ran out of memory; None for any other exception."""
    if isinstance(error, FloatingPointError):
        return str(error)
    # PyTorch has a class of its own for a GPU's memory, and a plain RuntimeError for the machine's.
    memory = isinstance(error, MemoryError) or re.search(r"out of memory|(can't|not enough).* memory", str(error))
    return f"out of memory: {reason_of(error)}" if memory else None


class _BrokenDown(Exception):
    """The trial's outcome is that it failed: so does its run."""


def _name(part: Part, number: int, params: Params) -> str:
    """Return the name of a trial's run: its part and number, and the parameters by name."""
    values = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in params.items()}
    shown = ", ".join(f"{name} {value}" for name, value in list(values.items())[:MOST_NAMED])
    return f"{part.title or 'trial'} {number}{shown and ': '}{shown}"


def _result(part: Part, trial: QueuedTrial) -> Result:
    values = tuple(trial.values or ())
    return Result(trial.number, part.title, trial.key, trial.params, values, trial.run_id or "")


def _best(part: Part, done: Sequence[QueuedTrial]) -> str:
    values = [trial.values[0] for trial in done if trial.state == COMPLETE and trial.values]
    if not values or len(part.objectives) > 1:
        return ""
    ((metric, direction),) = part.objectives.items()
    return f"(best {short({metric: (min if direction == 'minimize' else max)(values)})})"


def _line(trial: QueuedTrial) -> str:
    seconds = f", {trial.seconds:.0f} s" if trial.seconds else ""
    return f"trial {trial.number} {trial.state} {trial.reason} ({short(trial.params)}){seconds}"
