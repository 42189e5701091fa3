"""`python -m study.run`: the whole study, stage by stage. This file is its contents page."""

from __future__ import annotations

import study.shadowing  # noqa: F401 - first: what follows must be found

# isort: split
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from study.cli import INTERRUPTED, arguments_of, command_of, exit_code, parse_study, set_log_level, words
from study.config import StudyConfig
from study.files import expanded
from study.harness.capacity import Capacity, capacity, on_gpu
from study.harness.launch import Request, check_inputs, leave_out_unlabelled, resolve_inputs, run_stages
from study.harness.settings import UsageError
from study.harness.table import findings, table, verdicts
from study.harness.workers import divide_cores, workers
from study.report.collect import keep
from study.stages import all_stages
from tracking.errors import without_password

if TYPE_CHECKING:
    from study.harness.stage import Outcome, Session
    from tracking.registry import Version

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
    set_log_level("warning" if config.quiet else config.log_level)
    divide_cores(count, machine.cores)
    prepared = prepare(preset, config)
    session = prepared.session
    with workers(count - 1, work, prepared.arguments):
        outcomes = run_stages(prepared.request, session, prepared.inputs)
    report = keep(session.dataset.name, outcomes)
    print(f"\n{table(outcomes)}\n")
    print(f"{session.dataset.name}, preset {preset}, seed {config.seed}: {time.monotonic() - began:.0f} s", end="\n\n")
    print(ending(outcomes, config, report))


def work(arguments: Sequence[str]) -> int:
    """A worker beside the command: it shows nothing, and says nothing as it is stopped. Returns the exit code.

    Args:
        arguments: The preset's or the TOML file's name, then a command line that gives its config without a file.
    """
    set_log_level("error")  # what the data and the settings are warned of, the launcher says

    def run() -> None:
        name, *same = arguments
        prepared = prepare(name, parse_study(same)[1])
        set_log_level("warning")
        try:
            run_stages(prepared.request, prepared.session, prepared.inputs)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)  # The launcher says it once for all.

    return exit_code(run)


def _workers(config: StudyConfig, machine: Capacity) -> int:
    """How many processes the command starts, itself among them."""
    if config.workers != "auto":
        return config.workers
    if given := os.environ.get(WORKERS):
        if not (given.isascii() and given.isdecimal() and int(given)):
            raise UsageError(f"{WORKERS} must be a number from 1, but got {given!r}")
        return int(given)
    return 1 if on_gpu(config.device) else machine.workers()


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
    """What would run, in words."""
    store = without_password(config.tracking_uri or str(config.store))
    request = config.request()
    lines = [f"preset {preset}, data {config.data}, seed {config.seed}, store {store}", f"workers: {workers}"]
    return "\n".join(
        [*lines, *(f"{stage.name}: {stage.plan(request.configs[stage.name])}" for stage in request.stages)]
    )


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first trial.

    Attributes:
        arguments: What a worker that takes part is given.
    """

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
    from tracking.environment import check_environment
    from tracking.store import open_store  # first: it sets MLflow's environment

    check_environment()
    store = open_store(expanded(config.store, "--store"), config.tracking_uri, config.storage)

    import torch

    from study.data import DataError, load
    from study.harness.stage import Session

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device must be one that PyTorch sees, but got 'cuda', and it sees no GPU")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    try:
        data = load(config.data, config.data_dir, image_size=config.image_size, colour=config.colour)
    except DataError as error:
        raise UsageError(str(error)) from error
    asked = config.request()
    request = replace(asked, stages=leave_out_unlabelled(asked.stages, data))
    for stage in request.stages:
        if stage.check is not None:
            stage.check(request.configs[stage.name], data)
    inputs = resolve_inputs(request, data, all_stages())
    exact = config.with_inputs({kind: version.number for kind, version in inputs.items()})
    folder = config.data_dir if config.data_dir is None else expanded(config.data_dir, "--data-dir").absolute()
    exact = replace(exact, data=data.source, data_dir=folder, workers=1)
    exact = replace(exact, stages=tuple(stage.name for stage in request.stages))
    check_inputs(inputs, data)
    session = Session(
        data.to(device), store, device, config.seed, preset, command_of(preset, exact), config.keep_models
    )
    return Prepared(request, session, inputs, [preset, *arguments_of(preset, exact)])


if __name__ == "__main__":
    sys.exit(main())
