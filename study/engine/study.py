"""A stage's study under way: its trials, the models that it registers, its rows; kept in the store under one run."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from study.checks import UsageError
from study.engine.identity import code_digest, code_state, computed_with, fingerprint
from study.engine.mlflow_pages import model_page, trials_view
from study.engine.queue import Queue
from study.engine.runner import Runner
from study.engine.stage import Candidate, Context, Outcome
from study.results import Row
from tracking import registry
from tracking.models import delete_model, logged_model
from tracking.registry import Version
from tracking.runs import Inputs, created, study_run
from tracking.views import save_view


@dataclass(kw_only=True)
class Study(Runner):
    """A stage's study under way."""

    context: Context
    description: str

    def close(
        self, candidates: Mapping[str, Candidate], finish: Callable[[Mapping[str, Version]], Sequence[Row]]
    ) -> Outcome:
        """Register and promote the candidates, make figures and rows.

        Figures and rows are made once, by whichever process comes first; other processes and later calls read the rows
        from the parent run, as long as trials, versions, settings and code are the same. If the process dies, another
        one makes them again from the start: `finish` must allow that.

        Args:
            candidates: By kind of model, the most important one first.
            finish: Logs the figures on the parent run and gives the rows, from the versions that were registered.
        """
        stage, session, watch = self.context.stage, self.context.session, self.context.session.watch
        with suppress(UsageError):  # no worker is left to make the figures: this process does
            while watch and self._cached_rows() is None:
                watch()
                time.sleep(1)
        with session.store.locks.hold(f"{self.parent.study}/close"):
            made = {kind: self._register(kind, candidate) for kind, candidate in candidates.items()}
            rows = self._cached_rows(made)
            if rows is None:
                rows = tuple(finish(made))
                for kind, version in made.items():
                    page = model_page(self.context, self.parent, version, candidates[kind], rows)
                    registry.describe(version, page)
                self._cache_rows(made, candidates, rows)
            if made and self.parts:
                decisive = {candidate.metric: candidate.direction for candidate in candidates.values()}
                view = trials_view(self.parts.values(), self.results, decisive, rows, next(iter(made.values())))
                save_view(self.parent.experiment_id, view, stage.question)
            if session.keep_models == "champions":
                for run_id in {result.run_id for result in self.results} - self.keep - registry.registered_runs():
                    delete_model(run_id)
            return Outcome(stage.name, made, rows, self.parent.run_id)

    def _register(self, kind: str, candidate: Candidate) -> Version:
        """Return the trial's version, made the champion if it is better."""
        metric = candidate.metric
        protocol = {"data": self.context.dataset.digest, "objective": metric, **candidate.protocol}
        name = self.context.session.model_name(kind)
        with self.context.session.store.locks.hold(f"registry/{name}"):  # studies of other seeds promote too
            version = registry.register(name, candidate.result.run_id, self.description, protocol)
            value = None
            rival = registry.champion(name, version.protocol)
            if candidate.measure_again is not None and rival is not None and rival.number != version.number:
                value = candidate.measure_again(rival) if rival.metrics else None
            registry.promote(version, metric, candidate.direction, champions_value=value, force=candidate.force)
        return version

    def _cached_rows(self, made: Mapping[str, Version] | None = None) -> tuple[Row, ...] | None:
        """Return the rows of a call with the same trials, settings and code, and versions if they are known."""
        cached = self.parent.read_json("outcome")
        with suppress(KeyError, TypeError, AttributeError, ValueError):  # there is none, or somebody has changed it
            if cached["of"] == self._fingerprint() and (made is None or cached["versions"] == _addresses(made)):
                return tuple(Row(**row) for row in cached["rows"])
        return None

    def _cache_rows(
        self, made: Mapping[str, Version], candidates: Mapping[str, Candidate], rows: Sequence[Row]
    ) -> None:
        """Write down what was found, and by which call."""
        tags: dict[str, str] = {"command": self.context.session.command, "preset": self.context.session.preset}
        if made:
            kind, best = next(iter(made.items()))
            metric = candidates[kind].metric
            tags |= {"best.run_id": best.run_id, "best.version": best.uri, "best.metric": metric}
            self.parent.log({f"best/{metric}": best.metrics[metric]})
        self.parent.set_tags(tags)
        cached = {
            "of": self._fingerprint(),
            "versions": _addresses(made),
            "git_commit": code_state()[0],
            "champion": tags.get("best.version", ""),
            "rows": [asdict(row) for row in rows],
        }
        self.parent.log_json("outcome", cached)

    def _fingerprint(self) -> str:
        """Return a digest of all that figures, rows and pages depend on, beside the versions that follow from it."""
        trials = [(result.part, result.number, result.run_id) for result in self.results]
        return fingerprint([trials, asdict(self.context.settings), code_of(self.context)])


def _addresses(made: Mapping[str, Version]) -> dict[str, str]:
    return {kind: version.uri for kind, version in made.items()}


def code_of(context: Context) -> str:
    """Return a digest of our code and of the stage's own file, which may be somebody else's, or a notebook's cell."""
    run = context.stage.run
    if Path(file := inspect.getfile(run)).is_file():
        return code_digest(file)
    return fingerprint([code_digest(), inspect.getsource(run)])


@contextmanager
def open_study(context: Context, description: str) -> Iterator[Study]:
    """Open the stage's study and its parent run: those of an earlier call of the same identity, or new ones."""
    session, stage, data = context.session, context.stage, context.dataset
    identity = context.identity()
    name = f"{data.name}/{stage.name}/{fingerprint(identity)}"
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
    models = tuple(logged_model(version.run_id).uri for version in context.inputs.values())
    experiment = session.store.experiment(f"{data.name}/{stage.name}", stage.question)
    title = f"{session.preset}, seed {session.seed} ({name.rpartition('/')[2]})"
    about = f"{stage.question}\n\n{description}"
    with study_run(session.store, experiment, name, title=title, description=about, tags=tags) as parent:
        study = Study(
            queue=Queue(session.store),
            parent=parent,
            name=f"{name}@{fingerprint([experiment, created(experiment)])}",
            label=stage.name,
            seed_for=context.seed_for,
            tags={**facts, **computed_with(context.device), "code_digest": code_of(context)},
            inputs=Inputs(data.name, data.digest, len(data.train), models),
            facts={**facts, "classes": list(data.classes), "git_commit": code_state()[0]},
            watch=session.watch,
            deadline=session.deadline,
            context=context,
            description=description,
        )
        try:
            yield study
        finally:
            study.leave()
