"""From the command line and TOML files to a config, and back; and what a mistake gets."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Command

from study.checks import UsageError
from study.cli import command_of, exit_code, parse_study, preset
from study.engine.stage import seed_for


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'preset = "exercise"\nseed = 3\nstages = ["judge", "autoencoder"]\n'
        "[autoencoder]\nlatent_dims = [5, 6]\nepochs = 7\n[latent-gan]\nfree-trials = 9\n"
    )
    name, config = parse_study([str(file), "--autoencoder.epochs", "8", "--data", "digits"])
    assert name == str(file)
    assert (config.seed, config.data, config.stages) == (3, "digits", ("judge", "autoencoder"))
    assert config.autoencoder == replace(preset("exercise").autoencoder, latent_dims=(5, 6), epochs=8)
    assert config.latent_gan.free_trials == 9
    assert config.transfer == preset("exercise").transfer


def test_the_default_is_the_demo() -> None:
    assert parse_study([]) == ("demo", preset("demo"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["exercise", "--stages", "judge", "transfer", "--seed", "3", "--autoencoder.latent-dim", "None"],
        ["smoke", "--transfer.label-counts", "--latent-gan.mixture-components", "2", "3"],
        ["full", "--judge.learning-rate", "0.003", "--data", "digits"],
        ["smoke", "--latent-gan.ablations", "--colour", "--image-size", "32", "--data", "/some where/it's.npz"],
        ["full", "--latent-gan.no-ablations", "--inputs.autoencoder", "3", "--inputs.second-judge", "2"],
        ["demo", "--autoencoder.latent-dims", "--autoencoder.compared-weights", "1e-05", "--transfer.label-counts"],
    ],
)
def test_the_command_that_is_kept_gives_the_same_config(arguments: list[str]) -> None:
    name, config = parse_study(arguments)
    command = shlex.split(command_of(name, config))
    assert command[:3] == ["python", "-m", "study.run"]
    assert parse_study(command[3:]) == (name, config)


def test_the_command_that_is_kept_needs_no_file_and_names_no_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "smoke"\nseed = 3\n[judge]\nepochs = 9\n')
    flags = ["--storage", "postgresql://u:secret@h/db", "--tracking-uri", "http://u:secret@h", "--workers", "2"]
    name, config = parse_study([str(file), *flags, "--store", "/somewhere"])
    command = command_of(name, config)
    assert not {"secret", "somewhere", "mine.toml", "workers"} & set(re.findall(r"[\w.]+", command))
    again = parse_study(shlex.split(command)[3:])[1]
    assert (again.seed, again.judge, again.transfer) == (3, config.judge, config.transfer)


def test_repeats_of_studies_with_different_seeds_are_different() -> None:
    seeds = [seed_for(seed, number) for seed in (0, 1, 2, 20261124) for number in range(1000)]
    assert len(set(seeds)) == 4000
    assert 0 <= min(seeds) < max(seeds) < 2**32, "what NumPy takes"
    assert seeds[:3] == [0, 1, 2]


def test_booleans_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    for value in (True, False):
        file.write_text(f"dry_run = {str(value).lower()}")
        assert parse_study([str(file)])[1].dry_run is value


MISTAKES = {
    "unknown preset": (["demmo"], None, "one of smoke, demo, exercise, full"),
    "unknown flag": (["--epochs", "3"], None, "--epochs"),
    "image size 30": (["--image-size", "30"], None, "must be a multiple of 4 from 16 to 64, but got 30"),
    "version of no kind": (["--inputs.gan", "3"], None, "--inputs.gan"),
    "version that is no number": (["--inputs.judge", "champion"], None, "champion"),
    "no workers": (["--workers", "0"], None, "`1 <= workers` must hold, but got 0"),
    "a level that is there": (
        ["--translation.levels", "3"],
        None,
        "`levels` must have each once and none of 3, which are there anyhow, but got 3",
    ),
    "a task twice": (["--translation.tasks", "rotate", "rotate"], None, "must have each once, but got rotate, rotate"),
    "a pairing twice": (["--translation.pairings", "class", "class"], None, "but got class, class"),
    "a thousand repeats": (["--attention.repeats", "1000"], None, "`repeats <= 999` must hold, but got 1000"),
    "negative seed": (["--seed", "-1"], None, "`0 <= seed` must hold, but got -1"),
    "unknown stage": (["--stages", "judgement"], None, "judgement"),
    "no number": (["--seed", "one"], None, "one"),
    "latent size 0": (
        ["--autoencoder.latent-dim", "0"],
        None,
        "3 <= latent_dim <= 100` must hold, but got 0",
    ),
    "grid size 101": (["--autoencoder.latent-dims", "3", "101"], None, "but got 101"),
    "no epochs": (["--latent-gan.epochs", "0"], None, "`1 <= epochs` must hold, but got 0"),
    "learning rate nan": (["--judge.learning-rate", "nan"], None, "must hold, but got nan"),
    "no such file": (["missing.toml"], None, "missing.toml cannot be read"),
    "no TOML": ([], "seed = = 3", "is not valid TOML"),
    "wrong key": ([], "[autoencoder]\nepoch = 3", "--autoencoder.epoch"),
    "wrong type": ([], 'seed = "many"', "many"),
    "out of range": ([], "[autoencoder]\nlatent_dim = 2", "but got 2"),
    "negative weight": (
        [],
        "[autoencoder]\ncovariance_weight = -1.0",
        "`0 <= covariance_weight < inf` must hold, but got -1",
    ),
    "no weight": (
        [],
        "[autoencoder]\ncompared_weights = [0.1, 0.0]",
        "`0 < compared_weights < inf` must hold, but got 0",
    ),
    "no labels": ([], "[transfer]\nlabel_counts = [5, 0]", "`1 <= label_counts` must hold, but got 0"),
    "date": ([], "seed = 2026-01-01", "`seed` must be a string, number"),
    "preset elsewhere": ([], 'preset = "../exercise"', "preset must be one of smoke, demo"),
    "stage elsewhere": ([], 'stages = ["../../judge"]', "../../judge"),
    "preset of a wrong type": ([], "preset = 3", "`preset` must be a string, but got 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_and_exit_code_2(mistake: str, tmp_path: Path, capsys) -> None:
    arguments, toml, message = MISTAKES[mistake]
    if toml is not None:
        (tmp_path / "study.toml").write_text(toml)
        arguments = [str(tmp_path / "study.toml"), *arguments]
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(exit_code(lambda: parse_study(arguments)))
    assert caught.value.code == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in shown
    assert "Traceback" not in shown


def test_an_interrupt_is_no_traceback(capsys) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exit_code(interrupted) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_a_bug_is_no_users_mistake() -> None:
    def bug() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        exit_code(bug)
    with pytest.raises(UsageError):
        parse_study(["nothing"])


def test_the_dry_run_names_the_chosen_stages_only(command: Command, tmp_path: Path) -> None:
    done = command("study.run", "exercise", "--dry-run", "--stages", "judge", "transfer", "--store", tmp_path / "s")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()[1:]] == ["workers", "judge", "transfer"]
    assert not (tmp_path / "s").exists()
