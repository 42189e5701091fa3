"""A whole study: prepared, run with its workers, and told in words. What `study.run` and `study.api` share."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from study import cli
from study.checks import UsageError, expanded
from study.config import StudyConfig
from study.engine import launchers, workers
from study.engine.identity import fingerprint
from study.engine.stage import Outcome, Request, Session, requested, resolve, run_stages
from study.engine.workers import JobSpec
from study.report.collect import keep
from study.results import FEWEST, corrected, findings, printed, verdicts
from study.stages import all_stages
from tracking.errors import without_password

if TYPE_CHECKING:
    from tracking.registry import Version


@dataclass(frozen=True, repr=False)
class Finished:
    """What a study came to; as text, what `study.run` prints.

    Attributes:
        outcomes: One a stage: the versions that it registered, by kind, and its rows with their corrected claims.
        report: Where the HTML page about them lies: a path, or a server's address of it.
    """

    outcomes: tuple[Outcome, ...]
    report: str
    text: str

    def __repr__(self) -> str:
        return self.text


def perform(preset: str, config: StudyConfig, count: int) -> Finished | None:
    """Run a study with this many workers: this process and others beside it, or jobs of a cluster.

    None: the jobs of a cluster were started, and are left to themselves (`detach`).

    Raises:
        UsageError: Data, settings and models do not fit.
        StoreError: The store cannot be used, or no trial of a part is complete.
    """
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
