"""How trials run: taken from the queue, with a run in MLflow each, and an outcome in both; and what the user sees.

A trial that is finished in the queue counts only while its run stands in the store: one whose run was deleted, or is in
another store, runs again.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

with warnings.catch_warnings():  # in a notebook that lacks the package of a bar of its own
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

from study.engine.identity import fingerprint
from study.engine.queue import (
    COMPLETE,
    FAILED,
    FINISHED,
    PRUNED,
    RUNNING,
    WAITING,
    Queue,
    QueuedTrial,
    Superseded,
    key_of,
)
from study.engine.search import Params, Proposals, Pruned, Search
from study.engine.trial import Trial, short, word
from study.results import Result, Table
from tracking.errors import StoreError, reason_of, store_errors
from tracking.registry import Direction
from tracking.runs import REPEAT, SEARCH, SETTINGS, TRIAL, Inputs, Run, end, is_deleted, runs_of, trial_run

if TYPE_CHECKING:
    from study.engine.launchers import Watch

LOOK_EVERY = 2.0  # seconds between two looks at what other processes have finished
STATUS = {COMPLETE: "FINISHED", PRUNED: "FINISHED", FAILED: "FAILED"}  # of the MLflow runs
LONGEST_NAME = 80  # characters of the name of a run
OBJECTIVES: Mapping[str, Direction] = {"val/fd": "minimize"}
log = logging.getLogger("study")

Objective = Callable[[Trial], "tuple[float, ...]"]
Show = Callable[[Trial, int, Mapping[str, float]], None]  # what a trial has reported of an epoch


@dataclass(frozen=True)
class Part:
    """A list or a search of a study: trials that share an objective.

    Attributes:
        name: In the queue: the study's name, the part's, and a fingerprint of a search's space.
        title: Of its runs, before the trial's number.
        trials: Parameters by key; of a search, empty ones.
        objectives: The metrics that decide, each with "minimize" or "maximize".
        search: None: a list.
        optional: Whether the stage can go on if no trial is complete.
    """

    name: str
    title: str
    trials: Mapping[str, Params]
    objective: Objective
    objectives: Mapping[str, Direction]
    search: Search | None = None
    optional: bool = False


@dataclass(kw_only=True)
class Runner:
    """Runs the trials of a study in this process, beside any number of other processes.

    Attributes:
        name: Of the study in the queue; it differs between stores that share a database.
        label: What the progress display calls the study.
        seed_for: The seed of a repeat.
        tags: Of the run of every trial.
        inputs: Of the run of every trial.
        facts: What is kept beside every model.
        deadline: By `time.monotonic`; after it no trial begins, and parts end with what they have.
        watch: Where given, this process takes no trial, and calls it as it waits for processes that do.
        parts: All lists and searches that were enqueued, by their title.
        results: Of all parts that are finished.
        keep: Runs whose models the study itself goes on using.
    """

    queue: Queue
    parent: Run
    name: str
    label: str
    seed_for: Callable[[int], int]
    tags: Mapping[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    watch: Watch | None = None
    deadline: float = math.inf
    parts: dict[str, Part] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    keep: set[str] = field(default_factory=set)
    _waiting: list[Part] = field(default_factory=list)  # enqueued, and not finished
    _proposals: dict[str, Proposals] = field(default_factory=dict)
    _looked: float = 0.0

    def run(self, trials: Sequence[Params], objective: Objective, part: str = "", **options: Any) -> list[Result]:
        """Run what is missing of a list of trials with these parameters, and return the complete ones.

        Each trial starts from the seed of its parameter "repeat", else from the study's.

        Args:
            part: A name of its own for each of several parts of a study.
            options: See `enqueue`.
        """
        return self.enqueue(trials, objective, part, **options)()

    def search(self, search: Search, objective: Objective, part: str = "") -> list[Result]:
        """Run what is missing of a search, and return the complete trials."""
        return self.enqueue(search, objective, part)()

    def enqueue(
        self,
        trials: Sequence[Params] | Search,
        objective: Objective,
        part: str = "",
        *,
        objectives: Mapping[str, Direction] = OBJECTIVES,
        optional: bool = False,
        keep_models: bool = False,
    ) -> Callable[[], list[Result]]:
        """Name a list or a search before its turn: processes that find nothing else to do may run its trials already.

        Args:
            objectives: The metrics that decide; a search has its own.
            optional: Whether the stage can go on if no trial is complete; a search says it itself.
            keep_models: Whether the study goes on using the models, at each call.

        Returns:
            A function that runs the rest, once, and returns what `run` returns.
        """
        if isinstance(trials, Search):
            name = f"{self.name}/{part or 'search'}-{fingerprint(trials.fingerprint)}"
            keys: dict[str, Params] = {f"free {number}": {} for number in range(trials.trials)}
            made = Part(name, part, keys, objective, trials.objectives, trials, trials.optional)
        else:
            keys = {key_of(params): dict(params) for params in trials}
            made = Part(f"{self.name}/{part or 'trials'}", part, keys, objective, objectives, optional=optional)
        self.queue.add(made.name, made.trials)
        self._waiting.append(made)
        self.parts[part] = made

        def run() -> list[Result]:
            results = self._finish(made)
            self.results.extend(results)
            if keep_models:
                self.keep.update(result.run_id for result in results)
            return results

        return run

    def table(self) -> Table:
        """Return all results so far, with their metrics."""
        metrics = {run.run_id: run.metrics for run in runs_of(self.parent)}
        return Table([replace(each, metrics=metrics.get(each.run_id, {})) for each in self.results])

    def pruned(self, part: str = "") -> list[Result]:
        """Return the pruned trials of a search, each with the last value that it reported."""
        made = self.parts[part]
        return [_result(made, trial) for trial in self._asked(made) if trial.state == PRUNED and trial.values]

    def importances(self, part: str = "") -> dict[str, float]:
        """Return what fraction of the objective's variance each parameter of a search explains; largest first."""
        return self._proposals_of(self.parts[part]).importances()

    def _finish(self, part: Part) -> list[Result]:
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
                for each in self._waiting:
                    self._correct_runs(each)
            raise
        self._correct_runs(part)
        self._waiting.remove(part)
        trials = self._asked(part)
        # A search may propose the same parameters twice; the seed is the same, so the result counts once.
        complete = {str(each.params): each for each in reversed(trials) if each.state == COMPLETE}
        if not complete and not part.optional:
            reasons = "; ".join(sorted({str(trial.reason) for trial in trials}))
            raise StoreError(f"no trial of {part.name} is complete: {reasons}")
        return [_result(part, trial) for trial in sorted(complete.values(), key=lambda trial: trial.number)]

    def _proposals_of(self, part: Part) -> Proposals:
        """Return Optuna's study of a search, opened once."""
        assert part.search is not None, f"{part.name} is a list"
        if part.name not in self._proposals:
            seed = self.seed_for(0)
            self._proposals[part.name] = Proposals(part.name, part.search, self.queue.store, seed, self.parent)
        return self._proposals[part.name]

    def leave(self) -> None:
        """Let go of the databases."""
        for proposals in self._proposals.values():
            proposals.close()
        self.queue.close()

    def _asked(self, part: Part) -> list[QueuedTrial]:
        return [trial for trial in self.queue.trials(part.name) if trial.key in part.trials]

    def _take_part(self, part: Part) -> None:
        """Run trials until all of this part are finished, and show it."""
        self._reopen_deleted(part)
        shown = {trial.number for trial in self._asked(part) if trial.state in FINISHED}  # no news
        with Progress(f"{self.label} {part.title}".rstrip(), len(part.trials), len(shown)) as progress:

            def look() -> bool:
                """Show what was finished since the last look, here or elsewhere. Return whether all is."""
                self._looked = time.monotonic()
                trials = self.queue.trials(part.name)
                self.queue.reopen_dead(trials, end)
                done = [trial for trial in trials if trial.key in part.trials and trial.state in FINISHED]
                for trial in [each for each in done if each.number not in shown]:
                    shown.add(trial.number)
                    progress.finished(len(done), _line(trial), _best(part, done))
                return len(done) == len(part.trials)

            def show(trial: Trial, epoch: int, metrics: Mapping[str, float]) -> None:
                where = "trial" if trial.part == part.title else f"meanwhile {trial.part}"
                progress.set_postfix_str(f"{where} {trial.number} epoch {epoch}, {short(metrics)}")
                if time.monotonic() - self._looked > LOOK_EVERY:
                    look()

            ran = False
            while not look() or (ran and self._reopen_deleted(part)):  # trials take their time: one may be gone by now
                over = time.monotonic() > self.deadline
                if over and not any(trial.state == RUNNING for trial in self._asked(part)):
                    return
                ran = True
                parts = [part, *(each for each in self._waiting if each is not part)]
                if self.watch or over or not any(self._run_one(each, show) for each in parts):
                    progress.set_postfix_str(self.watch() if self.watch else "waiting for trials of other processes")
                    time.sleep(1)

    def _run_one(self, part: Part, show: Show) -> bool:
        """Run one trial of the part, if one is left that no other process has. Return whether there was one."""
        for trial in self._asked(part):
            if trial.state == WAITING and self.queue.take(trial):
                with self.queue.heartbeat(trial):
                    self._run(part, trial, show)
                return True
        return False

    def _run(self, part: Part, queued: QueuedTrial, show: Show) -> None:
        """Train, and keep the outcome in the queue and in the run."""
        run = proposed = None
        try:
            with store_errors():
                params = queued.params
                if part.search is not None:
                    proposed = self._proposals_of(part).ask(queued)
                    params = dict(proposed.params)
                    self.queue.note(queued, params=params)
                about = {SEARCH: part.name, SETTINGS: _settings(part, params), TRIAL: queued.number}
                tags = {**about, "state": "running", **self.tags}
                with trial_run(self.parent, _name(part, queued.number, params), params, tags) as run:
                    self.queue.note(queued, run_id=run.run_id)
                    if proposed is not None:
                        self._proposals_of(part).show(proposed, run)
                    if self.inputs is not None:
                        run.log_inputs(self.inputs)
                    torch.manual_seed(self.seed_for(params.get(REPEAT, 0)))
                    began = time.monotonic()
                    trial = Trial(
                        **vars(run),
                        number=queued.number,
                        part=part.title,
                        params=params,
                        _facts=self.facts,
                        _proposed=proposed,
                        _prune_on=part.search.prune_on if part.search else None,
                        _show=show,
                    )
                    state, values, reason = _outcome(part, trial)
                    # Kept while the run is still open: its status then follows.
                    trial.finish({"state": state, "reason": reason}, self.inputs)
                    seconds = time.monotonic() - began
                    self.queue.note(queued, state=state, values=values, reason=reason, seconds=seconds)
                    if proposed is not None:
                        self._proposals_of(part).tell(proposed, state, values)
                    if state == FAILED:
                        raise _BrokenDown
        except _BrokenDown:
            pass  # the queue and MLflow know of it; the study goes on
        except Superseded:
            log.warning("trial %d sent no heartbeat for so long that another process has taken it over", queued.number)
        except BaseException as error:
            deleted = run is not None and isinstance(error, Exception) and is_deleted(run.run_id)
            passing = isinstance(error, OSError) and not deleted
            reason = "its run was deleted in MLflow" if deleted else f"{type(error).__name__}: {reason_of(error)}"
            with suppress(Exception, Superseded):  # the store may be what failed; the error itself is reported
                if proposed is not None:
                    self._proposals_of(part).tell(proposed, FAILED, ())
                self.queue.put_back(queued, reason, counts=passing)
                if run is not None and not is_deleted(run.run_id):
                    run.set_tags({"state": "stopped", "reason": reason})
            if not (deleted or passing):
                raise
            log.warning("trial %d runs again, since %s", queued.number, reason)
            log.debug("trial %d", queued.number, exc_info=True)

    def _reopen_deleted(self, part: Part) -> bool:
        """Open the trials whose runs this store does not have (any more). Return whether there are any."""
        finished = {trial.run_id: trial for trial in self._asked(part) if trial.state in FINISHED and trial.run_id}
        here = {run.run_id for run in runs_of(self.parent, part.name)} if finished else set()
        gone = finished.keys() - here
        self.queue.reopen([finished[run_id] for run_id in gone])
        return bool(gone)

    def _correct_runs(self, part: Part) -> None:
        """Correct the status of MLflow runs whose processes died before they could."""
        trials = self.queue.trials(part.name)
        outcomes = {trial.run_id: STATUS.get(trial.state, "KILLED") for trial in trials}
        under_way = {str(trial.number) for trial in trials if trial.state == RUNNING}
        for run in runs_of(self.parent, part.name):
            wanted = outcomes.get(run.run_id, "KILLED" if run.status == "RUNNING" else run.status)
            wrong = run.status == "RUNNING" or ("FINISHED" in (run.status, wanted) and run.status != wanted)
            if wrong and run.tags.get(TRIAL) not in under_way:
                end(run.run_id, wanted)


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
        self._label = label

    def finished(self, done: int, line: str, best: str) -> None:
        """A trial has come to its end: `done` have by now, and `best` is the best so far."""
        if log.isEnabledFor(logging.INFO):
            with suppress(OSError):  # nobody reads it any more, as after `2>&1 | head`: the trial goes on
                self.write(f"{self._label}: {line}", file=sys.stderr)
        self.set_description_str(f"{self._label} {best}".rstrip(), refresh=False)
        self.n = done
        self.refresh()


class _BrokenDown(Exception):
    """The trial's outcome is that it failed: so does its run."""


def _outcome(part: Part, trial: Trial) -> tuple[str, list[float], str]:
    """Train. Return how it ended, the values of the objectives, and the reason; an error that may pass is raised."""
    try:
        values = part.objective(trial)
        by_name = dict(zip(part.objectives, values, strict=True))
        for metric, value in by_name.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{metric} is {value}")
        return COMPLETE, list(values), short(by_name)
    except Pruned as error:
        return PRUNED, trial.history.get(trial._prune_on or "", ([], []))[1][-1:], str(error)
    except (FloatingPointError, MemoryError, RuntimeError) as error:
        reason = str(error)
        if not isinstance(error, FloatingPointError):
            # PyTorch has a class of its own for a GPU's memory, and a plain RuntimeError for the machine's.
            if not isinstance(error, MemoryError) and not re.search(
                r"out of memory|(can't|not enough).* memory", reason
            ):
                raise
            reason = f"out of memory: {reason_of(error)}"
        log.debug("trial %d", trial.number, exc_info=True)
        return FAILED, [], reason


def _name(part: Part, number: int, params: Params) -> str:
    """Return the name of a trial's run: its part, the parameters that vary among the part's trials, and the seed."""
    tried = {name: {str(each.get(name)) for each in part.trials.values()} for name in params if name != REPEAT}
    named = [name for name in tried if part.search or len(tried[name]) > 1] or ([] if REPEAT in params else [*tried])
    words, seed = ([word(name, params[name]) for name in names] for names in (named, {REPEAT} & params.keys()))
    title = f"{part.title} {number}".strip() if part.search else part.title
    while len(name := ": ".join(filter(None, (title, ", ".join(words + seed))))) > LONGEST_NAME and words:
        words.pop()
    return name[:LONGEST_NAME] or f"trial {number}"


def _settings(part: Part, params: Params) -> str:
    """Return what all seeds of the same settings share, exactly: the part and all parameters but the seed."""
    words = [word(name, value, exact=True) for name, value in params.items() if name != REPEAT]
    return ": ".join(filter(None, (part.title, ", ".join(words)))) or "all"


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
