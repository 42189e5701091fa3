"""A stage's study under way: its searches, what it registers, its rows; kept in the store under one parent run."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from optuna.distributions import distribution_to_json

from study.checks import UsageError
from study.engine.identity import code_digest, code_state, computed_with, fingerprint, study_name
from study.engine.model_page import model_page
from study.engine.search import Objective, Origin, Result, Search, Trial
from study.engine.stage import Context, Outcome, Row
from study.engine.trials import Trials, importances, pruned
from study.engine.view import trials_view
from tracking import registry
from tracking.registry import Direction, Version
from tracking.runs import Inputs, Run, study_run
from tracking.stored import delete_model, logged_model
from tracking.views import save_view


@dataclass(frozen=True)
class Candidate:
    """A trial whose model is registered, and competes for the alias `champion`.

    Attributes:
        result: The trial.
        metric: The metric by which champions are compared.
        direction: Whether less or more of it is better.
        insist: Make it the champion in any case, within its protocol.
        protocol: What must be equal for a comparison, beside the data: the number of labels, say.
        picture: The figure of its run that shows it best; "": the one that stands for the stage.
        measure_again: Today's value of the champion, where that in its run was measured otherwise; None: it holds.
    """

    result: Result
    metric: str
    direction: Direction = "minimize"
    insist: bool = False
    protocol: Mapping[str, str] = field(default_factory=dict)
    picture: str = ""
    measure_again: Callable[[Version], float | None] | None = None


@dataclass(frozen=True)
class Study:
    """A stage's study under way."""

    context: Context
    name: str
    parent: Run
    description: str
    facts: Mapping[str, str]  # tags of each trial: what it was made from
    inputs: Inputs
    results: list[Result] = field(default_factory=list)  # of all its searches so far
    tools: set[str] = field(default_factory=set)  # runs whose models the study itself goes on using
    searched: list[tuple[Search, list[Result]]] = field(default_factory=list)
    named: list[Trials] = field(default_factory=list)  # of the searches whose turn is later

    def search(self, search: Search, objective: Objective, part: str = "", *, tools: bool = False) -> list[Result]:
        """Run what is missing of a search; every trial starts from the study's seed.

        Args:
            part: A name of its own for each of several searches of a study.
            tools: Whether the study goes on using the models, at each call: they are always kept.
        """
        return self.ahead(search, objective, part, tools=tools)()

    def ahead(
        self, search: Search, objective: Objective, part: str = "", *, tools: bool = False
    ) -> Callable[[], list[Result]]:
        """Name a search before its turn: processes that find nothing else to do may run its trials already, but with a
        database on a server.

        Returns:
            What runs the rest of it, once, and gives its results.
        """
        seed = self.context.seed_for(0)

        def seeded(trial: Trial) -> tuple[float, ...]:
            torch.manual_seed(seed)
            trial.facts = self._model_facts()
            return objective(trial)

        tags = {**self.facts, **computed_with(self.context.device), "code_digest": self._code()}
        store = self.context.session.store
        under_way = partial(
            Trials,
            search,
            seeded,
            store,
            self.parent,
            name=self._search_name(search, part),
            label=f"{self.context.stage.name} {part}".rstrip(),
            seed=seed,
            origin=Origin(part or "trial", tags, self.inputs, self._code()),
            watch=self.context.session.watch,
        )
        # On a server every open search takes connections, of which it has few: there only the one whose turn it is.
        early = [] if store.locks.on_server else [under_way()]
        self.named.extend(early)

        def run() -> list[Result]:
            trials = early[0] if early else under_way()
            if early:
                self.named.remove(trials)
            try:
                results = trials.run(ahead=self.named)
            finally:
                trials.close()
            self.results.extend(results)
            self.searched.append((search, results))
            if tools:
                self.tools.update(result.run_id for result in results)
            return results

        return run

    def pruned(self, search: Search, part: str = "") -> list[Result]:
        """The pruned trials of a search that was run, with the last value that each reported."""
        return pruned(self._search_name(search, part), self.context.session.store, self.parent)

    def importances(self, search: Search, part: str = "") -> dict[str, float]:
        """What each parameter's share of the objective's variance is, of a search that was run; largest first."""
        return importances(self._search_name(search, part), self.context.session.store)

    def close(
        self, candidates: Mapping[str, Candidate], finish: Callable[[Mapping[str, Version]], Sequence[Row]]
    ) -> Outcome:
        """What follows the trials: register and promote the candidates, make figures and rows.

        Figures and rows are made once, by whichever process comes first; other processes and later calls read the rows
        from the parent run, as long as trials, settings and code are the same. If the process dies, another one makes
        them again from the start: `finish` must allow that.

        Args:
            candidates: By kind of model, the most important one first.
            finish: Logs the figures on the parent run and gives the rows, from the versions that were registered.
        """
        stage = self.context.stage
        watch = self.context.session.watch
        with suppress(UsageError):  # No worker is left to make the figures: this process does.
            while watch and self._kept_rows() is None:
                watch()
                time.sleep(1)
        with self.context.session.store.locks.hold(f"{self.name}/close"):
            made = {kind: self._register(kind, candidate) for kind, candidate in candidates.items()}
            rows = self._kept_rows()
            if rows is None:
                rows = tuple(finish(made))
                self._describe(made, candidates, rows)
                self._keep(made, candidates, rows)
            self._show(made, candidates, rows)
            if self.context.session.keep_models == "champions":
                runs = {result.run_id for result in self.results}
                for run_id in runs - self.tools - registry.registered_runs():
                    delete_model(run_id)
            return Outcome(stage.name, made, rows, self.parent.run_id)

    def _search_name(self, search: Search, part: str) -> str:
        """Optuna's name of a search. Another space is another search: Optuna keeps one space a study."""
        space = {name: distribution_to_json(each) for name, each in search.space.items()}
        return f"{self.name}/{part or 'trials'}-{fingerprint(space)}"

    def _register(self, kind: str, candidate: Candidate) -> Version:
        """The trial's version, made the champion if it is better."""
        result, metric = candidate.result, candidate.metric
        protocol = {"data": self.context.dataset.digest, "objective": metric, **candidate.protocol}
        name = self.context.session.model_name(kind)
        with self.context.session.store.locks.hold(f"registry/{name}"):  # studies of other seeds promote too
            version = registry.register(name, result.run_id, self.description, protocol)
            value = None
            rival = registry.champion(name, version.protocol)
            if candidate.measure_again is not None and rival is not None and rival.number != version.number:
                value = candidate.measure_again(rival) if rival.metrics else None
            registry.promote(version, metric, candidate.direction, champions_value=value, insist=candidate.insist)
        return version

    def _kept_rows(self) -> tuple[Row, ...] | None:
        """The rows of an earlier call, if trials, settings and code are the same."""
        kept = self.parent.read_json("outcome")
        with suppress(KeyError, TypeError, AttributeError, ValueError):  # a file that somebody has changed
            if kept is not None and kept["of"] == self._fingerprint():
                return tuple(Row(**row) for row in kept["rows"])
        return None

    def _keep(self, made: Mapping[str, Version], candidates: Mapping[str, Candidate], rows: Sequence[Row]) -> None:
        """Write down what was found, and by which call."""
        tags: dict[str, str] = {"command": self.context.session.command, "preset": self.context.session.preset}
        if made:
            kind = next(iter(made))
            metric = candidates[kind].metric
            tags |= {"best.run_id": made[kind].run_id, "best.version": made[kind].uri, "best.metric": metric}
            self.parent.log({f"best/{metric}": made[kind].metrics[metric]})
        self.parent.set_tags(tags)
        champion = next((version.uri for version in made.values()), "")
        kept = {"of": self._fingerprint(), "git_commit": code_state()[0], "champion": champion}
        self.parent.log_json("outcome", kept | {"rows": [asdict(row) for row in rows]})

    def _show(self, made: Mapping[str, Version], candidates: Mapping[str, Candidate], rows: Sequence[Row]) -> None:
        """Keep how the trials open in MLflow."""
        if made and self.searched:
            decisive = {candidate.metric: candidate.direction for candidate in candidates.values()}
            view = trials_view(self.searched, decisive, rows, next(iter(made.values())))
            save_view(self.parent.experiment_id, view, self.context.stage.question)

    def _describe(self, made: Mapping[str, Version], candidates: Mapping[str, Candidate], rows: Sequence[Row]) -> None:
        """Say on the page of each version what it is."""
        for kind, candidate in candidates.items():
            page = model_page(
                self.context,
                self.parent,
                made[kind],
                result=candidate.result,
                metric=candidate.metric,
                picture=candidate.picture,
                rows=rows,
            )
            registry.describe(made[kind], page)

    def _fingerprint(self) -> str:
        """Of all that figures and rows depend on."""
        trials = [(result.number, result.run_id) for result in self.results]
        return fingerprint([trials, asdict(self.context.config), self._code()])

    def _code(self) -> str:
        """A digest of our code and of the stage's own file, which may be somebody else's."""
        return code_digest(inspect.getfile(self.context.stage.run))

    def _model_facts(self) -> dict[str, object]:
        """What a model says of itself in its metadata."""
        return {**self.facts, "classes": list(self.context.dataset.classes), "git_commit": code_state()[0]}


@contextmanager
def open_study(context: Context, description: str) -> Iterator[Study]:
    """The stage's study and its parent run: those of an earlier call of the same identity, or new ones."""
    session, stage, data = context.session, context.stage, context.dataset
    identity = context.identity()
    name = study_name(data.name, stage.name, identity)
    facts = {
        "dataset": data.name,
        "data_digest": data.digest,
        "seed": str(session.seed),
        **{f"input.{kind}": version.uri for kind, version in context.inputs.items()},
        **{f"input.{kind}.weights": version.weights_digest for kind, version in context.inputs.items()},
    }
    tags = {
        "preset": session.preset,
        "command": session.command,
        "settings": json.dumps(identity, default=str),
        "images": f"{len(data.train):,} training, {len(data.val):,} validation, {len(data.test):,} test",
        **facts,
    }
    models = [logged_model(version.run_id).uri for version in context.inputs.values()]
    inputs = Inputs(data.name, data.digest, len(data.train), tuple(models))
    experiment = session.store.experiment(f"{data.name}/{stage.name}", stage.question)
    title = f"{session.preset}, seed {session.seed} ({name.rpartition('/')[2]})"
    about = f"{stage.question}\n\n{description}"
    with study_run(session.store, experiment, name, title=title, description=about, tags=tags) as parent:
        study = Study(context, name, parent, description, facts, inputs)
        try:
            yield study
        finally:
            for trials in study.named:
                trials.close()
