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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from study.checks import UsageError, expanded
from tracking import load_model
from tracking.errors import StoreError, store_errors

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor, nn

    from study.engine.stage import Stage
    from study.perform import Finished
    from tracking.models import Stored

__all__ = ["StoreError", "UsageError", "champions", "compare", "load_model", "results", "run"]
NOISY = ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.tracking", "optuna")  # loggers, silent meanwhile
log = logging.getLogger("study")
Place = str | Path
Part = Literal["encoder", "decoder"]
NAME = re.compile(r"(?:models:/)?([\w.-]+)(?:@([\w-]+)|/([1-9]\d{0,8}))?", re.ASCII)


def run(
    preset: str = "demo",
    *,
    data: Place = "mnist",
    store: Place = "mlruns",
    own_stages: Sequence[Stage] = (),
    **settings: Any,
) -> Finished:
    """Run a study as `python -m study.run` does; the same call goes on where it was stopped. Return what was found.

    Args:
        preset: smoke, demo, exercise or full.
        data: mnist, fashion-mnist, kmnist, digits, or the path of a folder or an .npz file.
        store: Folder of the results.
        own_stages: Stages that are no installed package, defined in a notebook say.
        settings: As in a TOML file, with underscores: `repeats=3, autoencoder={"epochs": 5}`. `workers` is 1 here, this
            process; more are processes beside it. `log_level="warning"` shows no progress.

    Raises:
        UsageError: Data, settings and models do not fit.
        StoreError: The store cannot be used.
    """
    from study import cli
    from study.stages import added, all_stages

    def forget() -> None:
        all_stages.cache_clear()
        cli.config_type.cache_clear()

    level = log.level
    with _guest():
        import torch

        from study.engine import workers
        from study.perform import perform

        threads, devices = torch.get_num_threads(), range(torch.cuda.device_count())
        try:
            added.extend(own_stages)
            forget()
            given = {"data": data, "store": store, "workers": 1, **settings}
            config = cli.with_table(cli.preset(preset), given, "run()")
            count = workers.wanted(config.workers, config.device, config.launcher)
            if config.dry_run or config.detach:
                raise UsageError("`dry_run` and `detach` are of the command only, but run() got one of them")
            if own_stages and (count > 1 or config.launcher != "local"):
                raise UsageError(f"`workers` must be 1 with own_stages, but got {count}: install them as a package")
            if count > 1 and config.launcher == "local":
                workers.divide_cores(count)
                torch.set_num_threads(min(threads, max(1, workers.cpu_count() // count)))
            log.setLevel(config.log_level.upper())
            with torch.random.fork_rng(devices):
                finished = perform(preset, config, count)
            assert finished is not None, "only `detach` leaves a study to itself"
            return finished
        finally:
            log.setLevel(level)
            torch.set_num_threads(threads)
            added[len(added) - len(own_stages) :] = []
            forget()


def results(
    store: Place = "mlruns", data: Place | None = None, stage: str | None = None, *, tracking_uri: str | None = None
) -> DataFrame:
    """Return all trials of a store, a row each, in the order in which they began.

    The columns are data, stage, study (its name), seed, part (a list or a search of the study), trial (its number),
    status (complete, pruned, failed, running, stopped, killed), reason, started (UTC), seconds, run_id, registered,
    then `params.*` and `metrics.*` (the last value of each); what a trial lacks is missing.

    Args:
        data: Of this data set only, by name or path.
        stage: Of this stage only.
        tracking_uri: MLflow server in place of the folder.

    Raises:
        UsageError: The store has no such trials.
        StoreError: The store cannot be read.
    """
    import pandas

    with _reading(store, tracking_uri):
        from study.report.collect import seconds, state
        from tracking import runs

        wanted, found = _name(data), list[dict[str, Any]]()
        for of, _, name in (each.rpartition("/") for each in runs.names()):
            studies = runs.parents(f"{of}/{name}") if wanted in (None, of) and stage in (None, name) else []
            for trial in (trial for study in studies for trial in runs.runs_of(study)):
                tags = trial.tags
                about: dict[str, Any] = {"data": of, "stage": name, "study": trial.study, "seed": tags.get("seed")}
                about |= {
                    "part": tags.get(runs.SEARCH, "").partition("@")[2].partition("/")[2],
                    "trial": tags.get(runs.TRIAL),
                }
                about |= {"status": state(trial), "reason": tags.get("reason"), "started": trial.started}
                about |= {"seconds": seconds(trial), "run_id": trial.run_id, "registered": tags.get("registered")}
                params = {f"params.{key}": value for key, value in sorted(trial.params.items())}
                found.append(about | params | {f"metrics.{key}": value for key, value in sorted(trial.metrics.items())})
    if not found:
        raise UsageError(f"no trial of {wanted or 'any data set'}, {stage or 'any stage'} is in the store {store}")
    table = pandas.DataFrame(sorted(found, key=lambda row: row["started"]))
    for column in ("seed", "trial", *(name for name in table if name.startswith("params."))):  # text in MLflow
        if set(table[column].dropna()) <= {"True", "False"}:
            table[column] = table[column].map({"True": True, "False": False})
        else:
            with suppress(ValueError):
                table[column] = pandas.to_numeric(table[column])
    own = [name for name in table if "." in name]
    return table[[*(name for name in table if name not in own), *sorted(own, key=lambda name: (name[0] == "m", name))]]


def compare(here: Place, there: Place | int, *, data: Place | None = None, stage: str | None = None) -> DataFrame:
    """Return the rows that the newest studies of two stores share: stage, figure, here, there, verdict, as text.

    Args:
        here: A store.
        there: Another store, or a seed, whose studies are in the same store.
        data: None: the data set that `here` was last used for.
        stage: Of this stage only.

    Returns:
        The table; `attrs["notes"]` says which rows only one side has, and what could not be read.

    Raises:
        UsageError: There are no such studies, or they are the same ones.
        StoreError: A store cannot be read.
    """
    import pandas

    from study.report.collect import collect
    from study.report.collect import compare as side_by_side

    seed = there if isinstance(there, int) else None
    with _reading(here):
        page = collect(_name(data))
    with _reading(here if isinstance(there, int) else there):
        found = side_by_side(page, collect(page.dataset, seed=seed), str(there if seed is None else f"seed {seed}"))
    table = pandas.DataFrame(found.rows[1:], columns=found.rows[0])
    table.attrs["notes"] = list(found.notes)
    return table if stage is None else table[table["stage"] == stage]


def champions(store: Place = "mlruns", data: Place | None = None, *, tracking_uri: str | None = None) -> DataFrame:
    """Return the registered models, a row for the champion of each name: name, version, metric, value, run_id, created.

    The metric is the one by which its versions compete; metric and value are missing where a study did not register it.

    Args:
        data: Of this data set only, by name or path.
        tracking_uri: MLflow server in place of the folder.

    Raises:
        StoreError: The store cannot be read.
    """
    import pandas

    with _reading(store, tracking_uri):
        from tracking import registry

        wanted = _name(data)
        found = [each for each in registry.champions() if wanted in (None, each.tags.get("dataset"))]
    rows = []
    for each in found:
        metric = json.loads(each.protocol or "{}").get("objective")
        rows.append((each.name, each.number, metric, each.metrics.get(metric), each.run_id, each.created))
    return pandas.DataFrame(rows, columns=["name", "version", "metric", "value", "run_id", "created"])


@contextmanager
def _guest() -> Iterator[None]:
    """Leave loggers and MLflow as the calling program has them; a store that is lost is a StoreError."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    root, handlers, propagated = logging.getLogger(), logging.getLogger().handlers[:], log.propagate
    log.propagate = bool(handlers)  # not to those that a package installs meanwhile
    from tracking.store import lent

    try:
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with store_errors(), lent():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        root.handlers[:], log.propagate = handlers, propagated


@contextmanager
def _reading(store: Place, tracking_uri: str | None = None) -> Iterator[None]:
    with _guest():
        from tracking.store import read_store

        read_store(expanded(Path(store), "`store`"), tracking_uri)
        yield


def _name(data: Place | None) -> str | None:
    """Return the name of a data set, as experiments and models have it."""
    from study.data import data_name

    return None if data is None else data_name(str(data))


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


def module_of(version: Stored, part: Part | None = None) -> tuple[nn.Module, Tensor]:
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
