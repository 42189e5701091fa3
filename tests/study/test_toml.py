"""TOML files: a value stays the value that it is, and a mistake gets one sentence that names the setting."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from study import run
from study.checks import UsageError
from study.cli import arguments_of, command_of, parse_study, preset
from study.toml import read_toml, with_table


def parsed(folder: Path, text: str, *flags: str) -> Any:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return parse_study([str(file), *flags])[1]


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(folder, text)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'mine.toml'}: ")
    assert "\n" not in message
    return message.removeprefix(f"{folder / 'mine.toml'}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("help = true", "there is no setting --help"),
        ("h = true", "there is no setting --h"),
        ("version = 3", "there is no setting --version"),
        ("no_colour = true", "there is no setting --no_colour; did you mean colour?"),
        ("sed = 3", "there is no setting --sed; did you mean seed?"),
        ('"" = 3', "there is no setting --"),
        ('"judge.epochs" = 3', "there is no setting --judge.epochs"),
        ('"--seed" = 3', "there is no setting ----seed"),
        ("[judge]\nhelp = true", "there is no setting --judge.help"),
        ("[latent-gan]\nno-ablations = true", "there is no setting --latent-gan.no-ablations"),
        ("[inputs]\ngan = 1", "there is no setting --inputs.gan"),
        ('stages = ["judge", "--dry-run"]', "`stages` must be a list, each of it one of 'judge', "),
        ('stages = ["judge", "--dry-run"]', "but got ['judge', '--dry-run']"),
        ('stages = "judge"', "`stages` must be a list, but got 'judge'"),
        ('stages = [["judge"]]', "`stages` must be a list, each of it one of 'judge', "),
        ("stages = []", "`1 <= stages` must hold, but got 0"),
        ('device = "--dry-run"', "`device` must be one of 'auto', 'cpu', 'cuda', but got '--dry-run'"),
        ('seed = "3"', "`seed` must be an integer, but got '3'"),
        ("seed = 3.0", "`seed` must be an integer, but got 3.0"),
        ("seed = true", "`seed` must be an integer, but got True"),
        ('seed = "None"', "`seed` must be an integer, but got 'None'"),
        ("seed = [3]", "`seed` must be an integer, but got [3]"),
        ("[seed]\nx = 3", "`seed` must be an integer, but got a table"),
        ("seed = 2026-01-01", "`seed` must be a string, number, boolean or list, but got 2026-01-01"),
        ("seed = 07:30:00", "`seed` must be a string, number, boolean or list, but got 07:30:00"),
        ("data = 3", "`data` must be a string, but got 3"),
        ("data = false", "`data` must be a string, but got False"),
        ('dry_run = "false"', "`dry_run` must be true or false, but got 'false'"),
        ("dry_run = 1", "`dry_run` must be true or false, but got 1"),
        ("store = 3", "`store` must be a string, but got 3"),
        ("judge = 3", "`judge` must be a table, but got 3"),
        ("[[judge]]\nepochs = 3", "`judge` must be a table, but got [{'epochs': 3}]"),
        ("[judge.epochs]\nx = 3", "`judge.epochs` must be an integer, but got a table"),
        ('[judge]\nlearning_rate = "0.1"', "`judge.learning_rate` must be a number, but got '0.1'"),
        ("[judge]\nlearning_rate = nan", "[judge] `0 < learning_rate < inf` must hold, but got nan"),
        ("[judge]\nepochs = 0", "[judge] `1 <= epochs` must hold, but got 0"),
        ('[inputs]\njudge = "2"', "`inputs.judge` must be an integer or 'None', but got '2'"),
        ("[judge]\nbatch-size = 1\nbatch_size = 2", "`judge.batch_size` is given twice, with - and with _"),
        ("workers = 0", "`1 <= workers` must hold, but got 0"),
    ],
)
def test_a_mistake_gets_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_nothing_in_a_file_prints_the_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("help = true")
    assert run.main([str(file), "--dry-run"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {file}: there is no setting --help\n"


@pytest.mark.parametrize("value", ["--dry-run", "-x", "-1", "None", "none", "True", "a b", "", "'", "€"])
def test_strings_stay_what_they_are_in_the_file_and_in_the_commands_made_of_it(tmp_path: Path, value: str) -> None:
    text = f"data = '''{value}'''\nstore = '''{value or '.'}'''"
    config = parsed(tmp_path, text)
    assert config.data == value
    assert config.store == Path(value or ".")
    assert not config.dry_run
    assert parse_study(arguments_of("mine.toml", config))[1] == config, "a worker's"
    kept = parse_study(shlex.split(command_of("mine.toml", config))[3:])[1]
    assert kept.data == value


def test_values_of_every_type(tmp_path: Path) -> None:
    config = parsed(
        tmp_path,
        'preset = "exercise"\nseed = 3\nstages = ["judge", "autoencoder"]\nquiet = true\n'
        'store = "~/results"\ntracking_uri = "None"\n'
        '[autoencoder]\nlatent_dims = []\nlatent_dim = "None"\ncovariance_weight = 1\n'
        '[inputs]\nsecond-judge = 2\njudge = "None"\n',
    )
    assert (config.seed, config.stages, config.quiet) == (3, ("judge", "autoencoder"), True)
    assert (config.store, config.tracking_uri) == (Path("~/results"), "None")
    assert config.autoencoder.latent_dims == ()
    assert config.autoencoder.latent_dim is None
    assert config.autoencoder.covariance_weight == 1.0
    assert type(config.autoencoder.covariance_weight) is float
    assert (config.inputs.second_judge, config.inputs.judge) == (2, None)
    assert config.transfer == preset("exercise").transfer


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Inner:
    x: int = 0


@dataclass(frozen=True)
class Other:
    """A stage of somebody else's may have such settings."""

    pair: tuple[int, str] = (1, "a")
    items: list[float] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    colour: Colour = Colour.RED
    either: int | str = 0
    level: Annotated[Literal[1, "two"], "a note"] = 1
    anything: Any = None
    table: dict[str, int] = field(default_factory=dict)
    plain: tuple = ()  # type: ignore[type-arg]
    inner: Inner = Inner()
    fixed: int = field(default=3, init=False)


def test_types_that_only_stages_of_others_have() -> None:
    table = {
        "pair": [2, "b"],
        "items": [1, 2.5],
        "names": ["a"],
        "colour": "RED",
        "either": "None",
        "level": "two",
        "anything": [1],
        "table": {"a": 1},
        "inner": {"x": 4},
    }
    made = with_table(Other(), table, "a.toml")
    assert made == Other((2, "b"), [1.0, 2.5], frozenset("a"), Colour.RED, "None", "two", [1], {"a": 1}, (), Inner(4))
    for wrong, message in {
        "pair": "`pair` must be a list of 2, but got [1]",
        "colour": "`colour` must be one of 'RED', but got [1]",
        "either": "`either` must be an integer or a string, but got [1]",
        "level": "`level` must be one of 1, 'two', but got [1]",
        "names": "`names` must be a list, each of it a string, but got [1]",
        "table": "`table` must be a dict, but got [1]",
        "fixed": "there is no setting --fixed",
    }.items():
        with pytest.raises(UsageError) as caught:
            with_table(Other(), {wrong: [1]}, "a.toml")
        assert str(caught.value).startswith(f"a.toml: {message}")


def test_files_as_editors_write_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert parse_study([str(file)])[1].seed == 3
    for content in (b"seed = 3".decode().encode("utf-16"), b"seed = = 3", b"a = " + b"[" * 9999):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="is not valid TOML"):
            read_toml(file)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)
