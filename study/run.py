"""`python -m study.run`: the whole study, stage by stage. This file is its contents page."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from study.checks import UsageError, expanded
from study.cli import exit_code, parse_study, request_of, set_log_level, words
from study.config import StudyConfig
from study.engine import engines
from study.engine.capacity import Capacity, capacity, on_gpu
from study.engine.engines import start_missing, workers_elsewhere
from study.engine.identity import fingerprint
from study.engine.launch import run_stages
from study.engine.launcher import Watch, Workload
from study.engine.order import Order
from study.engine.workers import divide_cores, workers
from study.report.collect import keep
from study.results import findings, printed, verdicts
from study.worker import Prepared, prepare, work, work_elsewhere
from tracking.errors import without_password

if TYPE_CHECKING:
    from study.engine.stage import Outcome

WORKERS = "STUDY_WORKERS"  # of the environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(words(arguments)))


def _run(arguments: Sequence[str]) -> None:
    preset, config = parse_study(arguments)
    machine = capacity()
    count = _workers(config, machine)
    if config.dry_run:
        print(plan(preset, config, f"{count} ({machine})"))
        return
    began = time.monotonic()
    set_log_level(config.log_level)
    engines.check(config.launcher, config.tracking_uri, config.storage)
    divide_cores(count if config.launcher.engine == "local" else 1, machine.cores)
    prepared = prepare(preset, config)
    session = prepared.session
    if config.launcher.detach:
        start_missing(*_elsewhere(config, prepared, count))
        return
    with _workers_of(config, prepared, count) as watch:
        outcomes = run_stages(prepared.request, replace(session, watch=watch), prepared.inputs)
        report = keep(session.dataset.name, outcomes)  # while the others come to their end
    print(f"\n{printed(outcomes)}\n")
    print(f"{session.dataset.name}, preset {preset}, seed {config.seed}: {time.monotonic() - began:.0f} s", end="\n\n")
    print(ending(outcomes, config, report))


def _workers(config: StudyConfig, machine: Capacity) -> int:
    """How many processes the command starts, itself among them; on a cluster, how many there are to be."""
    count: int | None = None if config.workers == "auto" else config.workers
    given = os.environ.get(WORKERS)
    if count is None and given:
        if not (given.isascii() and given.isdecimal() and int(given)):
            raise UsageError(f"{WORKERS} must be a number from 1, but got {given!r}")
        count = int(given)
    if config.launcher.engine != "local":
        sharing = config.launcher.sharing
        if count is None or count % sharing:
            rule = f"a multiple of {sharing}, which share a GPU," if sharing > 1 else "a number"
            raise UsageError(
                f"--workers must be {rule} with --launcher {config.launcher.engine}, but got {count or 'auto'}"
            )
    if count is not None:
        return count
    return config.launcher.sharing if on_gpu(config.device) else machine.workers()


def _workers_of(config: StudyConfig, prepared: Prepared, count: int) -> AbstractContextManager[Watch | None]:
    """The workers that take part while the block runs."""
    if config.launcher.engine == "local":
        return workers(count - 1, work, prepared.arguments)
    return workers_elsewhere(*_elsewhere(config, prepared, count))


def _elsewhere(config: StudyConfig, prepared: Prepared, count: int) -> tuple[engines.Team, int, Order]:
    """The study's workers on the cluster, how many there are to be, and what they are given."""
    wanted, session = config.launcher, prepared.session
    places = [without_password(str(url)) for url in (config.tracking_uri, config.storage)]
    name = f"study-{fingerprint([session.command, *places])}"
    options = {"allow_mixed": wanted.allow_mixed, "together": wanted.sharing if wanted.engine == "slurm" else 1}
    order = Order.of_this_command(prepared.arguments, session.dataset.digest, wanted.cpus, **options)

    def data() -> bytes:
        from study.data.packed import packed

        return packed(session.dataset)

    workload = Workload(name, expanded(config.store, "--store").absolute(), work_elsewhere, data)
    return engines.team(wanted, workload), count, order


def ending(outcomes: Sequence[Outcome], config: StudyConfig, report: str) -> str:
    """What was found, in a few lines, and where to look at it."""
    from tracking.pages import can_show_views, local_address
    from tracking.views import place_of, server

    claims = verdicts(outcomes)
    found = [f"what was found{f' (claims: {claims})' if claims else ''}:", *findings(outcomes)]
    remote = server()
    flags = [] if config.store == StudyConfig.store else ["--store", str(config.store)]
    if remote is not None:
        flags = ["--tracking-uri", remote]
    place = place_of(outcomes[0].run_id)
    address = place.address if remote is None or can_show_views(remote) else place.plain
    look = [
        "where to look:",
        f"the report: {shlex.quote(report)}",
        f"  as a page of your own: {shlex.join(['python', '-m', 'study.report', *flags])}",
        f"the trials, their charts and pictures: {shlex.join(['python', '-m', 'study.ui', *flags])}",
        f"  which opens {remote or local_address()}/{address}",
    ]
    return "\n".join([found[0], *(f"  {line}" for line in found[1:]), "", look[0], *(f"  {line}" for line in look[1:])])


def plan(preset: str, config: StudyConfig, workers: str) -> str:
    """Return what would run: the data, the store, and each stage's question and settings."""
    store, request = without_password(config.tracking_uri or str(config.store)), request_of(config)
    lines = [f"preset {preset}, data {config.data}, seed {config.seed}, store {store}", f"workers: {workers}"]
    for stage in request.stages:
        settings = asdict(request.configs[stage.name])
        lines += [f"{stage.name}: {stage.question}"]
        lines += [f"  {', '.join(f'{name} {value}' for name, value in settings.items())}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
