"""From the command line to a config, and from an exception to one sentence and an exit code."""

from __future__ import annotations

import logging
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from study.config import PRESETS, StudyConfig, UsageError
from tracking.store import StoreError, hurry, store_errors

INTERRUPTED = 130
INCIDENTAL = {"data_dir", "store", "tracking_uri", "storage", "device", "workers", "quiet", "log_level", "dry_run"}
"""Settings that have no part in what a study computes."""
AGAIN = 5.0  # seconds after which a second signal is not the first one's echo


def parse_study(arguments: Sequence[str]) -> tuple[str, StudyConfig]:
    """The name and the config that `[PRESET | FILE.toml] [flags]` ask for; exits with 2 on a mistake.

    A TOML file has the flags' names, nested as the flags are, and optionally `preset`, on which it builds. It
    goes through the flags' own parser, so that a mistake in it gets the same message; flags win.
    """
    name, flags = "demo", list(arguments)
    if flags and not flags[0].startswith("-"):
        name, *flags = flags
    prog = f"python -m study.run {name}"
    if not name.endswith(".toml"):
        return name, _parse(flags, _preset(name), prog)
    table = _read_toml(Path(name))
    base = table.pop("preset", "demo")
    if not isinstance(base, str):
        raise UsageError(f"{name}: `preset` must be a string, but got {base!r}")
    in_file = _parse(_toml_flags(table, name), _preset(base), prog)
    return name, _parse(flags, in_file, prog)


def command_of(preset: str, config: StudyConfig) -> str:
    """The command line that gives this config, less what only says where things lie and how to work.

    A TOML file's settings are spelled out as flags, so that nothing but the command is needed; no URL is in it.
    """
    name = preset if preset in PRESETS else "demo"
    return " ".join(["python -m study.run", name, *_differences(asdict(config), asdict(PRESETS[name]))])


def _differences(config: Mapping[str, Any], base: Mapping[str, Any], prefix: str = "") -> list[str]:
    flags: list[str] = []
    for name, value in config.items():
        flag = f"--{prefix}{name.replace('_', '-')}"
        if value == base[name] or name in INCIDENTAL:
            continue
        if isinstance(value, dict):
            flags += _differences(value, base[name], f"{flag[2:]}.")
        else:
            flags += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return flags


def exit_code(command: Callable[[], None]) -> int:
    """Run a command. Returns 0, 2 after a user's mistake (told in one sentence), or 130 if it was stopped."""

    stopped = float("-inf")

    def stop(*_: object) -> None:
        nonlocal stopped
        hurry()
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
    """Tell what is at least as important as this on the error output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger(None if level == "debug" else "study").setLevel(level.upper())


def _preset(name: str) -> StudyConfig:
    if name not in PRESETS:
        raise UsageError(f"the preset must be one of {', '.join(PRESETS)} or a .toml file, but got {name!r}")
    return PRESETS[name]


def _parse(flags: list[str], default: StudyConfig, prog: str) -> StudyConfig:
    return tyro.cli(StudyConfig, args=flags, default=default, prog=prog)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _toml_flags(table: dict[str, Any], file: str, prefix: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in table.items():
        flag = f"{prefix}{key.replace('_', '-')}"
        if isinstance(value, dict):
            flags += _toml_flags(value, file, f"{flag}.")
        elif isinstance(value, bool):
            before, _, last = flag.rpartition(".")
            flags.append(f"--{before}{'.' if before else ''}{'' if value else 'no-'}{last}")
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)]
        elif isinstance(value, str | int | float):
            flags += [f"--{flag}", str(value)]
        else:
            raise UsageError(f"{file}: `{flag}` must be a string, number, boolean or list, but got {value!r}")
    return flags
