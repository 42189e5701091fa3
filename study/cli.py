"""From the command line to a config and back, and from an exception to one sentence and an exit code."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from study.config import DEFAULT, INCIDENTAL, PRESETS, StudyConfig, config_type, preset
from study.harness.settings import UsageError
from tracking.errors import StoreError, store_errors
from tracking.servers import stop_waiting

INTERRUPTED = 130
AGAIN = 5.0  # seconds after which a second signal is not the first one's echo


def parse_study(arguments: Sequence[str]) -> tuple[str, StudyConfig]:
    """The name and the config that `[PRESET | FILE.toml] [flags]` ask for; exits with 2 on a mistake.

    A TOML file has the flags' names, nested as the flags are, and optionally `preset`, on which it builds. It
    goes through the flags' own parser, so that a mistake in it gets the same message; flags win.

    Raises:
        UsageError: The preset or the file is none.
    """
    name, flags = DEFAULT, list(arguments)
    if flags and not flags[0].startswith("-"):
        name, *flags = flags
    prog = f"python -m study.run {name}"
    if not name.endswith(".toml"):
        return name, _parse(flags, preset(name), prog)
    table = _read_toml(Path(name).expanduser())
    base = table.pop("preset", DEFAULT)
    if not isinstance(base, str):
        raise UsageError(f"{name}: `preset` must be a string, but got {base!r}")
    in_file = _parse(list(_toml_flags(table, name)), preset(base), prog)
    return name, _parse(flags, in_file, prog)


def command_of(name: str, config: StudyConfig) -> str:
    """The command line that gives this config, less what only says where things lie and how to work.

    A TOML file's settings are spelled out as flags, so that nothing but the command is needed; no URL is in it.
    """
    return shlex.join(["python", "-m", "study.run", *arguments_of(name, config, INCIDENTAL)])


def arguments_of(name: str, config: StudyConfig, left_out: Sequence[str] = ()) -> list[str]:
    """What `parse_study` takes to give this config, less the settings of these names."""
    base = name if name in PRESETS else DEFAULT
    return [base, *_differences(asdict(config), asdict(preset(base)), left_out)]


def _differences(
    config: Mapping[str, Any], base: Mapping[str, Any], left_out: Sequence[str], prefix: str = ""
) -> Iterator[str]:
    for name, value in config.items():
        if value == base[name] or prefix + name in left_out:
            continue
        if isinstance(value, dict):
            yield from _differences(value, base[name], left_out, f"{prefix}{name}.")
        else:
            yield from _flag(f"{prefix}{name}", value)


def _flag(name: str, value: Any) -> Iterator[str]:
    """The words of the command line that give a setting, `latent_gan.ablations` say, this value."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        before, dot, last = name.rpartition(".")
        yield f"--{before}{dot}{'' if value else 'no-'}{last}"
    elif isinstance(value, tuple | list):
        yield from (f"--{name}", *map(str, value))
    else:
        yield from (f"--{name}", str(value))


def exit_code(command: Callable[[], None]) -> int:
    """Run a command. Returns 0, 2 after a user's mistake (one sentence says which), or 130 if it was stopped."""

    stopped = float("-inf")

    def stop(*_: object) -> None:
        nonlocal stopped
        stop_waiting()
        # A terminal's Ctrl-C reaches a worker twice, through its launcher too: the second must not cut off its end.
        if time.monotonic() - stopped > AGAIN:
            stopped = time.monotonic()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with store_errors():
            command()
    except (UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def set_log_level(level: str) -> None:
    """Report what is at least as important as this on the error output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger(None if level == "debug" else "study").setLevel(level.upper())


def _parse(flags: list[str], default: StudyConfig, prog: str) -> StudyConfig:
    return tyro.cli(config_type(), args=flags, default=default, prog=prog)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _toml_flags(table: dict[str, Any], file: str, prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _toml_flags(value, file, f"{prefix}{key}.")
        elif isinstance(value, bool | list | str | int | float):
            yield from _flag(f"{prefix}{key}", value)
        else:
            name = f"{prefix}{key}".replace("_", "-")
            raise UsageError(f"{file}: `{name}` must be a string, number, boolean or list, but got {value!r}")
