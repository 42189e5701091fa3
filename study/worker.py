"""What every process of a study does: prepare, then work. `python -m study.worker ORDER` is a worker on a cluster."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from study.checks import UsageError, expanded
from study.cli import (
    INTERRUPTED,
    arguments_of,
    command_of,
    exit_code,
    parse_study,
    request_of,
    set_log_level,
    with_inputs,
)
from study.config import StudyConfig
from study.engine.capacity import share_gpu
from study.engine.launch import Request, check_inputs, leave_out_unlabelled, resolve_inputs, run_stages
from study.engine.launcher import Launcher
from study.engine.order import Order, node
from study.engine.slurm import go_back_in_time
from study.engine.workers import keep_alive
from study.stages import all_stages
from tracking.errors import StoreError

if TYPE_CHECKING:
    from study.data.dataset import Dataset
    from study.engine.stage import Session
    from tracking.registry import Version


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


def prepare(preset: str, config: StudyConfig, data: Dataset | None = None) -> Prepared:
    """Open the store, load the data, find the inputs, and check that all fit, before anything takes long.

    Args:
        data: Images that are here already.

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
    from study.engine.stage import Session

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device must be one that PyTorch sees, but got 'cuda', and it sees no GPU")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    share_gpu(device, config.launcher.gpus)
    try:
        data = data or load(config.data, config.data_dir, image_size=config.image_size, colour=config.colour)
    except DataError as error:
        raise UsageError(str(error)) from error
    asked = request_of(config)
    request = replace(asked, stages=leave_out_unlabelled(asked.stages, data))
    for stage in request.stages:
        if stage.check is not None:
            stage.check(request.configs[stage.name], data)
    inputs = resolve_inputs(request, data, all_stages())
    exact = with_inputs(config, {kind: version.number for kind, version in inputs.items()})
    folder = config.data_dir if config.data_dir is None else expanded(config.data_dir, "--data-dir").absolute()
    exact = replace(exact, data=data.source, data_dir=folder, workers=1)
    exact = replace(exact, stages=tuple(stage.name for stage in request.stages))
    exact = replace(exact, launcher=Launcher(gpus=config.launcher.gpus))
    check_inputs(inputs, data)
    session = Session(
        data.to(device), store, device, config.seed, preset, command_of(preset, exact), config.keep_models
    )
    return Prepared(request, session, inputs, [preset, *arguments_of(preset, exact)])


def work(arguments: Sequence[str]) -> int:
    """A worker beside the command: it shows nothing, and says nothing as it is stopped. Returns the exit code.

    Args:
        arguments: The preset's or the TOML file's name, then a command line that gives its config without a file.
    """
    set_log_level("error")  # what the data and the settings are warned of, the launcher says

    def run() -> None:
        name, *same = arguments
        _work(prepare(name, parse_study(same)[1]))

    return exit_code(run)


def work_elsewhere(given: tuple[Order, bytes | None]) -> int:
    """A worker on another machine: if it cannot take part it says so in one sentence. Returns the exit code.

    Args:
        given: The order, and the data where they are handed over (see `study.data.packed`).
    """
    order, packed = given
    set_log_level("error")

    def run() -> None:
        name, *same = order.arguments
        try:
            order.check_code()
            data = None
            if packed is not None:
                from study.data.packed import unpacked

                data = unpacked(packed)
            prepared = prepare(name, parse_study(same)[1], data)
            order.check_data(prepared.session.dataset.digest, prepared.session.dataset.name)
        except (UsageError, StoreError) as error:
            raise UsageError(f"the worker on {node()} refuses: {error}") from error
        _work(prepared)

    return exit_code(run)


def _work(prepared: Prepared) -> None:
    set_log_level("warning")
    try:
        run_stages(prepared.request, prepared.session, prepared.inputs)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)  # The launcher says it once for all.


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep the workers of an order alive, as a job of Slurm's does. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    codes = []

    def run() -> None:
        if len(given) != 1:
            raise UsageError(f"study.worker takes the file that a launcher has written, but got {len(given)} arguments")
        (file,) = given
        order = Order.read(Path(file))
        os.environ.update(order.environment)
        codes.append(keep_alive(order.together, work_elsewhere, (order, None), threading.Event()))
        if codes == [0]:
            Path(file).unlink(missing_ok=True)  # it holds passwords, and the study is done

    go_back_in_time()
    return exit_code(run) or codes[0]


if __name__ == "__main__":
    sys.exit(main())
