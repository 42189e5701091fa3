"""`python -m study.run`: the whole study, stage by stage. This file is its contents page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from study import cli
from study.api import perform, prepare
from study.checks import UsageError
from study.config import StudyConfig
from study.engine import workers
from study.engine.stage import requested, run_stages
from study.engine.workers import JobSpec
from study.stages import all_stages
from tracking.errors import StoreError, store_errors, without_password


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
    cli.set_log_level(config.log_level)
    workers.divide_cores(1 if config.launcher != "local" else count)
    if (finished := perform(preset, config, count)) is not None:
        print(f"\n{finished}")


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
