"""`python -m study.run`: the whole study, stage by stage. This file is its contents page."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
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
from tracking.errors import StoreError, store_errors, without_password

if TYPE_CHECKING:
    from tracking.registry import Version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, or be a worker of another command. Return the exit code."""
    job = workers.job_spec()
    return cli.exit_code(lambda: run(cli.words(arguments)) if job is None else work(job))


def run(arguments: Sequence[str]) -> None:
    """Run the study's stages, with workers beside this process or on a cluster, and print what they found."""
    preset, config = cli.parse_study(arguments)
    count = workers.wanted(config.workers, config.device, config.launcher)
    if config.dry_run:
        print(plan(preset, config, count))
        return
    began = time.monotonic()
    cli.set_log_level(config.log_level)
    cluster = launchers.connect(config.launcher, config.launcher_options, config.tracking_uri, config.storage)
    if config.detach and cluster is None:
        raise UsageError("--detach needs --launcher slurm or ray, but got local")
    workers.divide_cores(1 if cluster else count)
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
            return
        beside = cluster.workers(count, job)
    with beside as watch:
        outcomes = run_stages(prepared.request, replace(session, watch=watch), prepared.inputs)
        if not outcomes:
            raise UsageError(f"--time-limit {config.time_limit} came before the first stage was done: run this again")
        shown = corrected([outcome.rows for outcome in outcomes])
        outcomes = [replace(outcome, rows=rows) for outcome, rows in zip(outcomes, shown, strict=True)]
        report = keep(session.dataset.name, outcomes)  # while the workers come to their end
    if config.table:
        print(f"\n{printed(outcomes)}")
    print(f"\n{session.dataset.name}, preset {preset}, seed {config.seed}: {time.monotonic() - began:.0f} s\n")
    print(ending(outcomes, config, report))


def work(job: JobSpec) -> None:
    """Take part in another command's study, quietly: that command shows what the workers do.

    Raises:
        UsageError: This machine has other code, other package versions or other data.
    """
    workers.end_with_parent()
    cli.set_log_level("error")  # what the data and the settings are warned of, the command says
    try:
        with store_errors():
            job.check("code", workers.code())
            prepared = prepare(job.preset, cli.parse_study(job.arguments)[1])
            job.check("data", prepared.session.dataset.digest)
            cli.set_log_level("warning")
            run_stages(prepared.request, prepared.session, prepared.inputs)
    except UsageError as error:
        raise UsageError(f"the worker on {workers.node()} refuses: {error}") from error
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(workers.TRY_AGAIN)  # a server may come back
    except KeyboardInterrupt:
        sys.exit(cli.INTERRUPTED)  # the command says it once for all


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


def ending(outcomes: Sequence[Outcome], config: StudyConfig, report: str) -> str:
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


def plan(preset: str, config: StudyConfig, count: int) -> str:
    """Return what would run: the data, the store, and each stage's question and settings."""
    store, request = without_password(config.tracking_uri or str(config.store)), requested(config, all_stages())
    lines = [f"preset {preset}, data {config.data}, seed {config.seed}, store {store}", f"workers: {count}"]
    for stage in request.stages:
        settings = (f"{name} {value}" for name, value in asdict(request.settings[stage.name]).items())
        lines += [f"{stage.name}: {stage.question}", f"  {', '.join(settings)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
