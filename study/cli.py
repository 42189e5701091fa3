"""From the command line to a config and back, and from an exception to one sentence and an exit code."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field, fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tyro

from study.checks import UsageError
from study.config import DEFAULT, INCIDENTAL, PRESETS, StudyConfig
from study.engine.launch import Request
from study.files import expanded
from study.stages import all_stages
from study.terminal import lasting_output
from study.toml import read_toml, with_table
from tracking.errors import StoreError, store_errors
from tracking.servers import stop_waiting

COLLECT_AFTER = 100_000  # new objects; Python's own number is 700
INTERRUPTED = 130
AGAIN = 5.0  # seconds after which a second signal is not the first one's echo
ASKED = ("SIGINT", "SIGTERM")
ELSE_FATAL = ("SIGHUP", "SIGBREAK", "SIGXCPU", "SIGUSR1", "SIGUSR2")
"""What a terminal that is closed and a queue whose time is up send; nohup, or who calls us, may have set them aside."""


def words(arguments: Sequence[str] | None) -> list[str]:
    """The command line's words; None: those of this process.

    Raises:
        UsageError: One of them, or the current folder, has characters that no database can keep.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for text in (*given, os.getcwd()):
        if any("\ud800" <= character <= "\udfff" for character in text):  # how Python keeps bytes that it cannot read
            raise UsageError(
                f"{text!a} cannot be read in this terminal's encoding, {sys.getfilesystemencoding()}:"
                " set PYTHONUTF8=1, or rename it"
            )
    return given


def parse_study(arguments: Sequence[str]) -> tuple[str, StudyConfig]:
    """The name and the config that `[PRESET | FILE.toml] [flags]` ask for; exits with 2 on a mistake.

    A TOML file has the flags' names, nested as the flags are, and optionally `preset`, on which it builds; flags win.

    Raises:
        UsageError: The preset or the file is none.
    """
    name, flags = DEFAULT, list(arguments)
    if flags and not flags[0].startswith("-"):
        name, *flags = flags
    prog = f"python -m study.run {name}"
    if not name.lower().endswith(".toml"):
        return name, _parse(flags, preset(name), prog)
    table = read_toml(expanded(Path(name), "the TOML file"))
    base = table.pop("preset", DEFAULT)
    if not isinstance(base, str):
        raise UsageError(f"{name}: `preset` must be a string, but got {base!r}")
    return name, _parse(flags, with_table(preset(base), table, name), prog)


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
    elif str(value).startswith("-"):
        yield f"--{name}={value}"  # else it would be read as a flag
    else:
        yield from (f"--{name}", str(value))


def exit_code(command: Callable[[], None]) -> int:
    """Run a command. Returns 0, 2 after a user's mistake (one sentence says which), or 130 if it was stopped."""
    with lasting_output(), _stopped_by_signals(), seldom_collected():
        try:
            with store_errors():
                try:
                    command()
                except UsageError as error:  # in here: a full disk behind it need not be the store's
                    return _refused(error)
        except StoreError as error:
            return _refused(error)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED
        return 0


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Python looks for garbage less often inside: as a database's rows are read, that takes half of the time."""
    young, *older = gc.get_threshold()
    gc.set_threshold(max(young, COLLECT_AFTER) if young else 0, *older)  # 0: it is switched off
    try:
        yield
    finally:
        gc.set_threshold(young, *older)


def _refused(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """What is run inside is interrupted by all signals that ask for its end, in the main thread: others get none."""
    stopped = float("-inf")

    def stop(*_: object) -> None:
        nonlocal stopped
        stop_waiting()
        # A terminal's Ctrl-C reaches a worker twice, through its launcher too: the second must not cut off its end.
        if time.monotonic() - stopped > AGAIN:
            stopped = time.monotonic()
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        there = [getattr(signal, name) for name in (*ASKED, *ELSE_FATAL) if hasattr(signal, name)]
        for number in there:
            if number.name in ASKED or signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def set_log_level(level: str) -> None:
    """Report what is at least as important as this on the error output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger(None if level == "debug" else "study").setLevel(level.upper())


def _parse(flags: list[str], default: StudyConfig, prog: str) -> StudyConfig:
    return tyro.cli(config_type(), args=flags, default=default, prog=prog)


def request_of(config: StudyConfig) -> Request:
    """The stages to run and the settings of all."""
    known = all_stages()
    given: dict[str, int | None] = {kind: getattr(config.inputs, key) for kind, key in _kinds().items()}  # type: ignore[attr-defined]
    return Request(
        stages=tuple(stage for stage in known if stage.name in config.stages),
        configs={stage.name: getattr(config, stage.key) for stage in known},
        versions={kind: number for kind, number in given.items() if number is not None},
    )


def with_inputs(config: StudyConfig, versions: Mapping[str, int]) -> StudyConfig:
    """The same with exact versions to build on, by kind of model."""
    kinds = _kinds()
    inputs = replace(config.inputs, **{kinds[kind]: number for kind, number in versions.items()})  # type: ignore[attr-defined]
    return replace(config, inputs=inputs)  # type: ignore[call-arg]


@cache
def config_type() -> type[StudyConfig]:
    """`StudyConfig` with a field for each stage's settings, and the versions of models to build on."""
    known = all_stages()
    common = {each.name for each in fields(StudyConfig)} | {"inputs"}
    for stage in known:
        if stage.key in common:
            raise UsageError(f"a stage cannot be called {stage.name}: the study has a setting of that name")
    names = tuple(stage.name for stage in known)
    versions = make_dataclass(
        "Inputs",
        [(key, int | None, None) for key in _kinds().values()],
        frozen=True,
        namespace={
            "__doc__": "Registered versions to build on, by number; None: what the stages make, or the champion."
        },
    )
    parts = [(stage.key, stage.settings, field(default=stage.preset(DEFAULT))) for stage in known]
    return make_dataclass(
        "StudyConfig",
        [
            ("stages", tuple[Literal[names], ...], field(default=names)),  # type: ignore[valid-type]
            ("inputs", versions, field(default=versions())),
            *parts,
        ],
        bases=(StudyConfig,),
        frozen=True,
        namespace={"__doc__": StudyConfig.__doc__},
    )


def preset(name: str) -> StudyConfig:
    """The config of this preset.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in PRESETS:
        raise UsageError(f"the preset must be one of {', '.join(PRESETS)} or a .toml file, but got {name!r}")
    parts: dict[str, Any] = {stage.key: stage.preset(name) for stage in all_stages()}
    return replace(config_type()(), **parts)


def _kinds() -> dict[str, str]:
    """The field of `inputs` for each kind of model that a stage makes or needs."""
    kinds = [kind for stage in all_stages() for kind in (*stage.outputs, *stage.inputs)]
    return {kind: kind.replace("-", "_") for kind in kinds}
