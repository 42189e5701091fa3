"""From flags and TOML files to settings and back; places that a user names; what a mistake gets."""

import os
import re
import shlex
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from commands import Call
from pictures import SHAPES, folder_of_shapes
from studies import Studies, copied

from study.checks import UsageError, check_file, check_folder, replacing
from study.cli import arguments_of, command_of, parse_study, preset
from study.config import INCIDENTAL
from study.stages import all_stages

WRONG_FLAGS = [
    ("demmo", "smoke, demo, exercise, full or a .toml file, but got 'demmo'"),
    ("missing.toml", "missing.toml cannot be read"),
    ("--image-size 30", "a multiple of 4 from 16 to 64, but got 30"),
    ("--inputs judge=champion", "KIND=NUMBER"),
    ("--workers 0", "`1 <= workers` must hold, but got 0"),
    ("--time-limit soon", "`time_limit` must be a number of s, m or h, 30m say, but got 'soon'"),
    ("--seed -1", "`0 <= seed` must hold, but got -1"),
    ("--stages judgement", "judgement"),
]
WRONG_TOML = [
    *[("seed = = 3", "is not valid TOML"), ("a = " + "[" * 9999, "is not valid TOML")],
    *[("preset = '../exercise'", "the preset must be one of"), ("preset = 3", "the preset must be one of")],
    *[("help = true", "there is no setting --help"), ("sed = 3", "there is no setting --sed; did you mean --seed?")],
    ("[judge]\nepoch = 3", "there is no setting --judge.epoch; did you mean --judge.epochs?"),
    ("[judge]\nepochs = 0", "[judge] `1 <= epochs` must hold, but got 0"),
    ("[judge.epochs]\nx = 3", "`judge.epochs` must be a valid integer, but got {'x': 3}"),
    *[("judge = 3", "`judge` must be"), ("seed = '3'", "`seed` must be a valid integer, but got '3'")],
    ("seed = true", "`seed` must be a valid integer, but got True"),
    ("seed = 2026-01-01", "`seed` must be a valid integer"),
    ("stages = ['judge', '--dry-run']", "but got ['judge', '--dry-run']"),
    ("device = '--dry-run'", "`device` must be 'auto', 'cpu' or 'cuda', but got '--dry-run'"),
]


def written(folder: Path, text: str) -> str:
    """A settings file as an editor of Windows writes it."""
    file = folder / "mine.TOML"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    return str(file)


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'preset = "exercise"\nseed = 3\nstages = ["judge", "autoencoder"]\ninputs = ["judge=2"]\n'
        'store = "~/results"\ncolour = true\nimage-size = 32\n'
        "[judge]\nepochs = 9\n[autoencoder]\nepochs = 64\nlatent-dims = [5, 6]\n",
    )
    name, config = parse_study([file, "--judge.epochs", "8", "--data", "digits"])
    assert (name, config.data, config.seed, config.colour, config.image_size) == (file, "digits", 3, True, 32)
    assert (config.stages, config.inputs, config.store) == (("judge", "autoencoder"), ("judge=2",), Path("~/results"))
    assert config.judge == replace(preset("exercise").judge, epochs=8)
    assert config.autoencoder == replace(preset("exercise").autoencoder, epochs=64, latent_dims=(5, 6))
    assert (config.transfer, parse_study([])) == (preset("exercise").transfer, ("demo", preset("demo")))


def others(value: Any) -> list[Any]:
    """Three other values of a setting's type."""
    if isinstance(value, bool):
        return [not value] * 3
    if isinstance(value, int | float):
        return [value + 1, 2 * value, value / 2 if isinstance(value, float) else value - 1]
    if isinstance(value, str | Path):
        return [type(value)(text) for text in ("-x", "it's", "a b")]
    return [(), value[:1], value * 2] if isinstance(value, tuple) else [value] * 3


def changed(settings: Any, number: int) -> Any:
    """The settings with every value changed that may be."""
    for name, hint in get_type_hints(type(settings)).items():
        before = getattr(settings, name)
        if "Literal" not in str(hint) and name != "inputs":
            after = changed(before, number) if is_dataclass(before) else others(before)[number]
            with suppress(ValueError):
                settings = replace(settings, **{name: after})
    return settings


@pytest.mark.parametrize("name", ["smoke", "full"])
@pytest.mark.parametrize("number", range(3))
def test_every_setting_comes_back_from_the_recorded_command(name: str, number: int) -> None:
    config = preset(name)
    other = changed(config, number)
    assert parse_study(arguments_of(name, other))[1] == other
    kept = parse_study(shlex.split(command_of(name, other))[3:])[1]
    assert kept == replace(other, **{setting: getattr(config, setting) for setting in INCIDENTAL})
    different = [each.name for each in fields(config) if getattr(kept, each.name) != getattr(config, each.name)]
    assert {"data", "colour", *(stage.key for stage in all_stages())} <= set(different)


def test_the_recorded_command_needs_no_file_and_names_no_place(tmp_path: Path) -> None:
    file = written(tmp_path, 'preset = "smoke"\nseed = 3\n[judge]\nepochs = 9\n')
    flags = ["--storage", "postgresql://u:secret@h/db", "--tracking-uri", "http://u:secret@h", "--workers", "2"]
    name, config = parse_study([file, *flags, "--store", "/somewhere"])
    command = command_of(name, config)
    assert not {"secret", "somewhere", "mine.TOML", "workers"} & set(re.findall(r"[\w.]+", command))
    again = parse_study(shlex.split(command)[3:])[1]
    assert (again.seed, again.judge, again.transfer) == (3, config.judge, config.transfer)


@pytest.mark.parametrize(("flags", "rule"), WRONG_FLAGS)
def test_a_mistake_in_the_flags_gets_rule_and_value_and_exit_code_2(flags: str, rule: str, called: Call) -> None:
    assert rule in called("run", *flags.split(), "--dry-run").error


@pytest.mark.parametrize(("toml", "rule"), WRONG_TOML)
def test_a_mistake_in_a_file_gets_one_sentence(toml: str, rule: str, tmp_path: Path, called: Call) -> None:
    done = called("run", written(tmp_path, toml), "--dry-run")
    assert (rule in done.error, done.out, done.errors.count("\n")) == (True, "", 1), done.errors


def test_the_dry_run_prints_questions_and_settings_and_makes_nothing(tmp_path: Path, called: Call) -> None:
    flags = ("--stages", "judge", "--judge.epochs", 7, "--data", "digits", "--store", tmp_path / "s")
    done = called("run", "exercise", *flags, "--dry-run")
    judge = next(stage for stage in all_stages() if stage.name == "judge")
    wanted = ("exercise", "digits", str(tmp_path / "s"), "workers", judge.question, "epochs 7")
    assert [part for part in (*wanted, "translation") if part not in done.out] == ["translation"]
    assert (done.code, (tmp_path / "s").exists()) == (0, False)


def test_the_checks_of_files_and_folders_leave_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "old.html"
    file.write_text("as it was")
    os.utime(file, (1, 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "new.html")
    (tmp_path / "astray").symlink_to("/nowhere/new.html")
    (tmp_path / "link").symlink_to(file)
    before = sorted(tmp_path.iterdir())
    for name in ("old.html", "pipe", "dangling", "new.html"):
        check_file(tmp_path / name, "--out")
    for name in ("old.html", "link"):
        with pytest.raises(UsageError, match="--out must be another file than --inputs"):
            check_file(tmp_path / name, "--out", inputs=file)
    with pytest.raises(UsageError, match="astray cannot be written"):
        check_file(tmp_path / "astray", "--out")
    assert sorted(tmp_path.iterdir()) == before
    assert (file.read_text(), file.stat().st_mtime) == ("as it was", 1)
    check_folder(tmp_path / "a" / "b", "--pictures")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with replacing(tmp_path / "whole.csv") as new:
        new.write_text("first")
        assert not (tmp_path / "whole.csv").exists()
    (tmp_path / "plain.csv").touch()
    assert (tmp_path / "whole.csv").stat().st_mode == (tmp_path / "plain.csv").stat().st_mode


def test_a_home_folder_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Call) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "mine.toml"
    file.write_text('store = "~/new"\ndata = "~/none.npz"\n')
    assert "none.npz" in called("run", "~/mine.toml").error
    assert (tmp_path / "new" / "mlflow.db").is_file()
    nobody = "~nobody-of-this-name"
    file.write_text(f'store = "{nobody}/new"\n')
    for module, *flags in (
        ("run", "~/mine.toml"),
        ("run", f"{nobody}/mine.toml"),
        ("report", "--store", f"{nobody}/x", "--out", "~/r.html"),
        ("sample", "--store", f"{nobody}/x", "--out", "~/r.png"),
    ):
        assert f"must be a path, but got {nobody}" in called(module, *flags).error


def test_data_that_cannot_be_read_get_one_sentence(fresh: Studies, empty_store: Path, tmp_path: Path) -> None:
    """The other rules: tests/study/data."""
    copied(empty_store, fresh.store)
    data = folder_of_shapes(tmp_path / "a", {"": 5})
    (data / SHAPES[0] / "note.png").write_text("no image")
    refused = fresh.call("smoke", "--data", data)
    assert "note.png cannot be read as an image: it is a text that begins with 'no image'" in refused.error
    assert (refused.errors.count("\n"), refused.out, fresh.runs()) == (1, "", [])
