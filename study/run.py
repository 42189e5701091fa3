"""`python -m study.run`: the whole study, stage by stage. This file is its contents page."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from study.cli import exit_code, parse_study, set_log_level
from study.config import STAGES, StageName, StudyConfig, UsageError
from study.report import keep
from study.workers import divide_cores, workers
from tracking.store import without_password

if TYPE_CHECKING:
    from study.stage import Context, Outcome

INPUTS: dict[StageName, tuple[StageName, ...]] = {
    "judge": (),
    "autoencoder": (),
    "transfer": ("autoencoder",),
    "latent-gan": ("judge", "autoencoder"),
    "conditional-gan": ("judge", "autoencoder", "latent-gan"),
}
"""The stages whose champions each stage takes from the registry, by the stage's own name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    preset, config = parse_study(arguments)
    if config.dry_run:
        print(plan(preset, config))
        return
    began = time.monotonic()
    set_log_level("warning" if config.quiet else config.log_level)
    divide_cores(config.workers)
    context = prepare(preset, config)
    check_inputs(context)
    check_sizes(context)
    with workers(preset, replace(config, data=context.dataset.name)):  # type: ignore[arg-type]
        outcomes = run_stages(context)
    print(f"\n{table(outcomes)}\n")
    print(f"{context.dataset.name}, preset {preset}, seed {config.seed}: {time.monotonic() - began:.0f} s")
    print(f"the report: {keep(context.dataset.name, outcomes[-1].stage)}")
    print(f"look at the runs: {context.store.ui_command}")


def plan(preset: str, config: StudyConfig) -> str:
    """What would run, in words."""
    judge, auto, transfer = config.judge, config.autoencoder, config.transfer
    wgan, conditional = config.latent_gan, config.conditional_gan
    sizes = sorted({*auto.latent_dims, *([] if auto.latent_dim is None else [auto.latent_dim])})
    trials: dict[StageName, list[str]] = {
        "judge": [f"2 classifiers, {judge.epochs} epochs each"],
        "autoencoder": [
            f"latent sizes {_listed(sizes)} without and with FC layers, {auto.epochs} epochs each",
            f"{auto.repeats} times each" if auto.repeats > 1 else "",
            f"free trials: {auto.free_trials}" if auto.free_trials else "",
            f"covariance penalties {_listed(auto.compared_weights)}" if auto.compared_weights else "",
        ],
        "transfer": [
            f"frozen, fine-tuned, from scratch ({transfer.epochs} epochs) and self-trained ({transfer.semi_epochs} over"
            f" all images) on {transfer.draws} draws of {transfer.labels_per_class} labels a class",
            f"{transfer.count_draws} draws of each of {_listed(transfer.label_counts)}"
            if transfer.label_counts
            else "",
        ],
        "latent-gan": [
            f"the paper's, the reference's and our own settings, {wgan.epochs} epochs each",
            f"free trials: {wgan.free_trials}" if wgan.free_trials else "",
            f"the best and the reference's with {wgan.repeats} seeds" if wgan.repeats > 1 else "",
            f"{wgan.vanilla_seeds} vanilla GANs" if wgan.vanilla_seeds else "",
            f"ablations of the best with {wgan.repeats} seeds each" if wgan.ablations else "",
            f"reconstructions, and Gaussian mixtures of {_listed(wgan.mixture_components)} components",
        ],
        "conditional-gan": [
            f"the best settings, {conditional.epochs} epochs each; seeds: {conditional.repeats}",
        ],
    }
    store = without_password(config.tracking_uri or str(config.store))
    lines = [f"preset {preset}, data {config.data}, seed {config.seed}, store {store}"]
    chosen = (stage for stage in STAGES if stage in config.stages)
    return "\n".join([*lines, *(f"{stage}: {'; '.join(filter(None, trials[stage]))}" for stage in chosen)])


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def prepare(preset: str, config: StudyConfig) -> Context:
    """Open the store, then load the data: a store that cannot be written is told before anything takes long."""
    from tracking.store import open_store  # first: it sets MLflow's environment

    store = open_store(config.store, config.tracking_uri, config.storage)

    import torch

    from study.data import load
    from study.stage import Context

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device must be one that PyTorch sees, but got 'cuda', and it sees no GPU")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    return Context(config, preset, load(config.data, config.data_dir).to(device), store, device)


def check_inputs(context: Context) -> None:
    """Fail before any training if a stage's input is neither in the registry nor made by a stage before it.

    Raises:
        UsageError: It names the stages to add.
    """
    from study.stage import OUTPUTS

    chosen = context.config.stages
    for stage in chosen:
        missing = {
            kind: source
            for source in INPUTS[stage]
            if source not in chosen
            for kind in OUTPUTS[source]
            if not context.champion(kind)
        }
        if missing:
            names = " and ".join(f"{context.model_name(kind)}@champion" for kind in missing)
            wanted = " ".join(name for name in STAGES if name in (*missing.values(), *chosen))
            raise UsageError(f"stage {stage} needs {names}, not in this store: run with --stages {wanted}")


def check_sizes(context: Context) -> None:
    """Fail before any training if the data set lacks a digit, or has fewer images than the settings ask for.

    Raises:
        UsageError: It names the setting and both numbers.
    """
    config, data, train = context.config, context.dataset, context.dataset.train
    for part, split in (("training", train), ("validation", data.val), ("test", data.test)):
        absent = (split.labels.bincount(minlength=10) == 0).nonzero().flatten().tolist()
        if absent:
            raise UsageError(f"every digit must be among the {part} images of {data.name}, but there is no {absent[0]}")
    for name, size in (("judge", config.judge.batch_size), ("autoencoder", config.autoencoder.batch_size)):
        if size > len(train):
            raise UsageError(f"`{name}.batch_size <= {len(train)} training images` must hold, but got {size}")
    fewest = int(train.labels.bincount().min())
    most = max([config.transfer.labels_per_class, *config.transfer.label_counts])
    if most > fewest:
        raise UsageError(f"`transfer.labels_per_class <= {fewest} images of a class` must hold, but got {most}")


def run_stages(context: Context) -> list[Outcome]:
    """Run the stages that were asked for, in order."""
    return [run_stage(stage, context) for stage in STAGES if stage in context.config.stages]


def run_stage(stage: StageName, context: Context) -> Outcome:
    """Run one stage; only its own file is imported."""
    logging.getLogger("study").info("%s ...", stage)
    outcome: Outcome = import_module(f"study.stages.{stage.replace('-', '_')}").run(context)
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Champions and their figures on the test set, the reference's and the baseline's beside them."""
    lines = [("stage", "registered as", "figure", "ours", "reference", "baseline")]
    for outcome in outcomes:
        for number, row in enumerate(outcome.rows):
            model = f"{outcome.champion.name} v{outcome.champion.number}"
            first = (outcome.stage, model) if number == 0 else ("", "")
            lines.append((*first, row.figure, row.ours, row.reference or "-", row.baseline or "-"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    printed = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    printed.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(printed)


if __name__ == "__main__":
    sys.exit(main())
