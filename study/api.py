"""The study from Python and notebooks: run it, read its results as pandas DataFrames, load models by their names.

    from study import api
    print(api.run("smoke", data="digits", stages=["judge", "autoencoder"]))
    api.results(stage="autoencoder").plot.scatter("params.latent_dim", "metrics.val/loss")

Errors are exceptions of one sentence: `UsageError` for a mistake, `StoreError` for a store that cannot be used. The
calling program keeps its logging, signal handlers, random numbers, and MLflow's addresses.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import time
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import cli, stages
from study.checks import UsageError, expanded
from study.config import StudyConfig
from study.engine import launchers, workers
from study.engine.identity import fingerprint
from study.engine.stage import Outcome, Request, Session, requested, resolve, run_stages
from study.engine.workers import JobSpec
from study.report.collect import collect, keep, seconds, side_by_side, state
from study.results import FEWEST, corrected, findings, printed, verdicts
from study.stages import all_stages
from tracking import load_model
from tracking.errors import StoreError, without_password

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor, nn

    from tracking.models import Stored
    from tracking.registry import Version

__all__ = ["StoreError", "UsageError", "champions", "compare", "load_model", "results", "run"]
NAME = re.compile(r"(?:models:/)?([\w.-]+)(?:@([\w-]+)|/([1-9]\d{0,8}))?", re.ASCII)
Place = str | Path
log = logging.getLogger("study")


def run(
    preset: str = "demo", *, data: Place = "mnist", store: Place = "mlruns", own_stages: Any = (), **settings: Any
) -> Finished:
    """Run a study as `python -m study.run` does; the same call goes on where it was stopped. Return what was found.

    Args:
        preset: smoke, demo, exercise or full.
        data: mnist, fashion-mnist, kmnist, digits, or the path of a folder or an .npz file.
        store: Folder of the results.
        own_stages: A sequence of stages that are no installed package, defined in a notebook say.
        settings: As in a TOML file, with underscores: `repeats=3, autoencoder={"epochs": 5}`. `workers` is 1 here, this
            process; more are processes beside it. `log_level="warning"` shows no progress.

    Raises:
        UsageError: Data, settings and models do not fit.
        StoreError: The store cannot be used.
    """
    import torch

    from tracking.store import lent

    with lent():
        try:
            stages.added.extend(own_stages)
            given = {"data": data, "store": store, "workers": 1, **settings}
            config = cli.with_table(cli.preset(preset), given, "run()")
            count = workers.wanted(config.workers, config.device, config.launcher)
            if config.dry_run or config.detach:
                raise UsageError("`dry_run` and `detach` are of the command only")
            local = config.launcher == "local"
            if own_stages and not (count == 1 and local):
                raise UsageError(f"`workers` must be 1 with own_stages, but got {count}: install them as a package")
            if count > 1 and local:
                workers.divide_cores(count)
            log.setLevel(config.log_level.upper())
            with torch.random.fork_rng(range(torch.cuda.device_count())):
                finished = perform(preset, config, count)
            assert finished is not None, "only `detach` leaves a study to itself"
            return finished
        finally:
            del stages.added[len(stages.added) - len(own_stages) :]


def results(
    store: Place = "mlruns", data: Place | None = None, stage: str | None = None, *, tracking_uri: str | None = None
) -> DataFrame:
    """Return all trials of a store (of a data set, by name or path; of a stage), a row each, the oldest first.

    The columns are data, stage, study (its name), seed, part (a list or a search of the study), trial (its number),
    status (complete, pruned, failed, running, stopped, killed), reason, started (UTC), seconds, run_id, registered,
    then `params.*` and `metrics.*` (the last value of each); what a trial lacks is missing. `tracking_uri` is an MLflow
    server in place of the folder.

    Raises:
        UsageError: The store has no such trials.
        StoreError: The store cannot be read.
    """
    import pandas

    with _reading(store, tracking_uri):
        from tracking import runs

        wanted, rows = _name(data), list[dict[str, Any]]()
        names = [(of, name) for of, _, name in (each.rpartition("/") for each in runs.names())]
        names = [(of, name) for of, name in names if wanted in (None, of) and stage in (None, name)]
        for of, name, study in ((*each, study) for each in names for study in runs.parents("/".join(each))):
            for trial in runs.runs_of(study):
                part = trial.tags.get(runs.SEARCH, "").partition("@")[2].partition("/")[2]
                row = {"data": of, "stage": name, "study": trial.study, "seed": _value(trial.tags.get("seed"))}
                row |= {"part": part, "trial": _value(trial.tags.get(runs.TRIAL)), "status": state(trial)}
                row |= {"reason": trial.tags.get("reason"), "started": trial.started, "seconds": seconds(trial)}
                row |= {"run_id": trial.run_id, "registered": trial.tags.get("registered")}
                row |= {f"params.{each}": _value(text) for each, text in trial.params.items()}
                rows.append(row | {f"metrics.{each}": value for each, value in trial.metrics.items()})
    if not rows:
        raise UsageError(f"no trial of {wanted or 'any data set'}, {stage or 'any stage'} is in the store {store}")
    table = pandas.DataFrame(sorted(rows, key=lambda row: row["started"]))
    return table[
        sorted(table, key=lambda name: (place := "pm".find(name[0]) + 1 if "." in name else 0, place and name))
    ]


def compare(here: Place, there: Place | int, data: Place | None = None) -> DataFrame:
    """Return the rows that the newest studies of two stores share: stage, figure, here, there, verdict, as text.

    `there` is a store or a seed, whose studies are in the same store. Without `data` it is the data set that `here` was
    last used for. The table's `attrs["notes"]` say which rows only one side has, and what could not be read.

    Raises:
        UsageError: There are no such studies, or they are the same ones.
        StoreError: A store cannot be read.
    """
    import pandas

    seed = there if isinstance(there, int) else None
    with _reading(here):
        page = collect(_name(data))
    with _reading(here if isinstance(there, int) else there):
        found = side_by_side(page, collect(page.dataset, seed=seed), str(there if seed is None else f"seed {seed}"))
    table = pandas.DataFrame(found.rows[1:], columns=found.rows[0])
    table.attrs["notes"] = list(found.notes)
    return table


def champions(store: Place = "mlruns", data: Place | None = None, *, tracking_uri: str | None = None) -> DataFrame:
    """Return the champion of each registered name (of a data set): name, version, metric, value, run_id, created.

    The metric is the one by which versions compete; it is missing where no study has registered the version.

    Raises:
        StoreError: The store cannot be read.
    """
    import pandas

    columns, rows = ["name", "version", "metric", "value", "run_id", "created"], []
    with _reading(store, tracking_uri):
        from tracking import registry

        for each in registry.champions():
            if data is None or each.tags.get("dataset") == _name(data):
                metric = json.loads(each.protocol or "{}").get("objective")
                rows.append((each.name, each.number, metric, each.metrics.get(metric), each.run_id, each.created))
    return pandas.DataFrame(rows, columns=columns)


@contextmanager
def _reading(store: Place, tracking_uri: str | None = None) -> Iterator[None]:
    from tracking.store import lent, read_store

    with lent():
        read_store(expanded(Path(store), "`store`"), tracking_uri)
        yield


def _name(data: Place | None) -> str | None:
    from study.data import data_name

    return None if data is None else data_name(str(data))


def _value(text: str | None) -> Any:
    """Return the number or truth value that MLflow has as text, else the text."""
    with suppress(ValueError, SyntaxError):
        return literal_eval(text or "")
    return text


def registered(name: str, store: Path = Path("mlruns"), tracking_uri: str | None = None) -> Stored:
    """Return the registered version that NAME (the champion), NAME@ALIAS or NAME/NUMBER stands for.

    Args:
        store: The study's folder.
        tracking_uri: MLflow server in place of the folder.

    Raises:
        UsageError: The name has another form.
        StoreError: The store cannot be read, or does not have the version.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"the model must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got {name!r}")
    model, alias, number = match[1], match[2] or "champion", int(match[3]) if match[3] else None
    folder = expanded(store, "--store")
    from tracking.store import read_store

    read_store(folder, tracking_uri)
    from tracking import registry

    return registry.require_version(model, number or alias)


def module_of(version: Stored, part: cli.Part | None = None) -> tuple[nn.Module, Tensor]:
    """Return a model, or a part of an autoencoder, in evaluation mode, and inputs for it, [N, ...] with N >= 2.

    Raises:
        UsageError: The model has no such part.
    """
    module, inputs = version.load(), version.example()
    if part is None:
        return module, inputs
    from models.autoencoder import Autoencoder

    if not isinstance(module, Autoencoder):
        raise UsageError(f"--part can be given of an autoencoder only, but got {version.uri}")
    return (module.encoder, inputs) if part == "encoder" else (module.decoder, module.encoder(inputs).detach())


@dataclass(frozen=True, repr=False)
class Finished:
    """What a study came to; as text, what `study.run` prints."""

    outcomes: tuple[Outcome, ...]  # one a stage: its rows with corrected claims, its registered versions by kind
    report: str  # the path of the HTML page about them, or a server's address of it
    text: str

    def __repr__(self) -> str:
        return self.text


def perform(preset: str, config: StudyConfig, count: int) -> Finished | None:
    """Run a study with this many workers, here or on a cluster; None if those are left to themselves (`detach`)."""
    began = time.monotonic()
    cluster = launchers.connect(config.launcher, config.launcher_options, config.tracking_uri, config.storage)
    if config.detach and cluster is None:
        raise UsageError("--detach needs --launcher slurm or ray, but got local")
    prepared = prepare(preset, config)
    session = prepared.session
    job = JobSpec(preset, prepared.arguments, session.dataset.digest, workers.code()).environment
    beside: AbstractContextManager[launchers.Watch | None] = workers.local_workers(count - 1, job)
    if cluster is not None:
        places = [without_password(str(url)) for url in (config.tracking_uri, config.storage)]
        cluster.name = f"study-{fingerprint([session.command, *places])}"
        cluster.folder = expanded(config.store, "--store").absolute() / "logs" / cluster.name
        if config.detach:
            cluster.start_missing(count, job)
            return None
        beside = cluster.workers(count, job)
    with beside as watch:
        outcomes = run_stages(prepared.request, replace(session, watch=watch), prepared.inputs)
        if not outcomes:
            raise UsageError(f"--time-limit {config.time_limit} came before the first stage was done: run this again")
        shown = corrected([outcome.rows for outcome in outcomes])
        outcomes = [replace(outcome, rows=rows) for outcome, rows in zip(outcomes, shown, strict=True)]
        report = keep(session.dataset.name, outcomes)  # while the workers come to their end
    took = f"{session.dataset.name}, preset {preset}, seed {config.seed}: {time.monotonic() - began:.0f} s"
    lines = [*([printed(outcomes)] if config.table else []), took, _ending(outcomes, config, report)]
    return Finished(tuple(outcomes), report, "\n\n".join(lines))


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first trial; `arguments` give a worker the exact data, settings and versions."""

    request: Request
    session: Session
    inputs: dict[str, Version]
    arguments: list[str]


def prepare(preset: str, config: StudyConfig) -> Prepared:
    """Open the store, load the data, find the inputs, and check that all fit, before anything takes long.

    Raises:
        UsageError: Data, settings and models do not fit.
        StoreError: The store cannot be written.
    """
    from tracking.store import open_store  # first: it sets MLflow's environment

    store = open_store(expanded(config.store, "--store"), config.tracking_uri, config.storage)

    import torch

    from study.data import load

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device must be one that PyTorch sees, but got 'cuda', and it sees no GPU")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    data = load(config.data, config.data_dir, image_size=config.image_size, colour=config.colour)
    request, inputs = resolve(requested(config, all_stages()), data, all_stages())
    exact = replace(
        config,
        inputs=tuple(f"{kind}={version.number}" for kind, version in inputs.items()),
        data=data.source,
        data_dir=config.data_dir and expanded(config.data_dir, "--data-dir").absolute(),
        stages=tuple(stage.name for stage in request.stages),
    )
    command = cli.command_of(preset, exact)
    deadline = time.monotonic() + cli.seconds(config.time_limit) if config.time_limit else inf
    session = Session(
        data.to(device), store, device, config.seed, preset, command, config.keep_models, config.repeats, deadline
    )
    arguments = cli.arguments_of(preset, exact, ("workers", "launcher", "launcher_options", "detach"))
    return Prepared(request, session, inputs, arguments)


def _ending(outcomes: Sequence[Outcome], config: StudyConfig, report: str) -> str:
    """What was found, in a few lines, and where to look at it."""
    from tracking.views import server, trials_page

    claims = verdicts(row for outcome in outcomes for row in outcome.rows)
    few = "none" if config.repeats >= FEWEST else f"none with fewer than {FEWEST} repeats, see --repeats"
    remote = server()
    local = [] if config.store == StudyConfig.store else ["--store", str(config.store)]
    flags = local if remote is None else ["--tracking-uri", remote]
    found = [f"what was found (claims: {claims or few}; all figures: --table):", *findings(outcomes)]
    look = [
        "where to look:",
        f"the report: {shlex.quote(report)}",
        f"  as a page of your own: {shlex.join(['python', '-m', 'study.report', *flags])}",
        f"the trials, their charts and pictures: {shlex.join(['python', '-m', 'study.ui', *flags])}",
        f"  which opens {trials_page(outcomes[0].run_id)}",
    ]
    return "\n\n".join("\n  ".join(lines) for lines in (found, look))
