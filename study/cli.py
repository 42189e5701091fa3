"""From the command line to settings and back, and from an exception to one sentence and an exit code."""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from traceback import walk_stack, walk_tb
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from study.checks import UsageError, expanded
from study.config import DEFAULT, INCIDENTAL, PRESETS, STUDY_PRESETS, StudyConfig
from study.stages import all_stages
from tracking.errors import StoreError, store_errors
from tracking.locks import stop_waiting

INTERRUPTED = 130
Part = Literal["encoder", "decoder"]
NARROWEST = 40  # columns that the help is formatted for: in fewer, it takes minutes


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where a command that reads finds the results."""

    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""


@dataclass(frozen=True)
class ModelConfig(StoreConfig):
    """Which registered model a command takes."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Registered model: NAME, which is its champion, NAME@ALIAS or NAME/NUMBER; mnist-judge say."""
    part: Part | None = field(default=None, kw_only=True)
    """Only this part of an autoencoder: from images to latents, or from latents to images."""


def command(kind: type[Any], prog: str, run: Callable[[Any], None]) -> Callable[..., int]:
    """Return the `main(arguments=None)` of a command, which runs with these settings and returns its exit code."""

    def main(arguments: Sequence[str] | None = None) -> int:
        return exit_code(lambda: run(parse(kind, words(arguments), prog)))

    return main


def words(arguments: Sequence[str] | None) -> list[str]:
    """Return the command line's words, checked; None: those of this process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for text in (*given, os.getcwd()):
            text.encode()
    except FileNotFoundError as error:
        raise UsageError("the current folder was deleted: run from another one") from error
    except UnicodeEncodeError as error:  # bytes that no database can keep
        raise UsageError(f"{error.object!a} cannot be read as UTF-8: set PYTHONUTF8=1, or rename it") from error
    return given


def parse(kind: type[Any], arguments: Sequence[str], prog: str, **options: Any) -> Any:
    """Return the settings that these flags give; raise SystemExit, with code 2 on a mistake, 0 after the help."""
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    return tyro.cli(kind, args=list(arguments), prog=f"python -m study.{prog}", **options)


def parse_study(arguments: Sequence[str]) -> tuple[str, StudyConfig]:
    """Return the name and the settings that `[PRESET | FILE.toml] [flags]` ask for; flags win.

    A TOML file has the flags' names, nested as the flags are, and optionally `preset`, on which it builds.
    """
    name, flags = DEFAULT, list(arguments)
    if flags and not flags[0].startswith("-"):
        name, *flags = flags
    default = _read_toml(expanded(Path(name), "the TOML file")) if name.lower().endswith(".toml") else preset(name)
    return name, parse(type(default), flags, f"run {name}", default=default)


def preset(name: str) -> StudyConfig:
    """Return the settings of this preset, with a field for each stage's; a UsageError says which presets there are."""
    if name not in PRESETS:
        raise UsageError(f"the preset must be one of {', '.join(PRESETS)} or a .toml file, but got {name!r}")
    known = all_stages()
    for stage in known:
        if hasattr(StudyConfig, stage.key):
            raise UsageError(f"a stage cannot be called {stage.name}: the study has a setting of that name")
    parts = tuple((stage.key, stage.settings, stage.preset(name)) for stage in known)
    return _config_type(tuple(stage.name for stage in known), parts)(**STUDY_PRESETS.get(name, {}))


@cache  # equal settings are of the same class
def _config_type(names: tuple[str, ...], parts: tuple[tuple[str, type, Any], ...]) -> type[StudyConfig]:
    fields: list[Any] = [("stages", tuple[Literal[names], ...], field(default=names))]  # type: ignore[valid-type]
    fields += [(key, settings, field(default=value)) for key, settings, value in parts]
    about = {"__doc__": StudyConfig.__doc__}
    return make_dataclass("StudyConfig", fields, bases=(StudyConfig,), frozen=True, namespace=about)


def _read_toml(path: Path) -> StudyConfig:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return with_table(preset(table.pop("preset", DEFAULT)), table, str(path))


def with_table(config: Any, table: Mapping[str, Any], file: str, prefix: str = "") -> Any:
    """Return the settings, an instance of a dataclass, with a TOML table's in place of their own.

    A value keeps its type: "3" is no integer. The string "None" is None, which TOML lacks. A UsageError has the full
    name of a setting that does not exist, or that cannot have such a value.
    """
    from pydantic import TypeAdapter, ValidationError  # comes with MLflow

    hints = get_type_hints(type(config), include_extras=True)
    given: dict[str, Any] = {}
    for key, value in table.items():
        name, shown = key.replace("-", "_"), f"{prefix}{key}"
        if name not in hints:
            close = [each.replace("_", "-") for each in get_close_matches(name, hints, n=1)]
            hint = "".join(f"; did you mean --{prefix}{each}?" for each in close)
            raise UsageError(f"{file}: there is no setting --{shown}{hint}")
        if is_dataclass(getattr(config, name)) and isinstance(value, dict):
            given[name] = with_table(getattr(config, name), value, file, f"{shown}.")
            continue
        try:
            plain = json.dumps(None if value == "None" else value, default=str)
            given[name] = TypeAdapter(hints[name]).validate_json(plain, strict=True)
        except ValidationError as error:
            rule = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise UsageError(f"{file}: `{shown}` must be {rule}, but got {value!r}") from None
    try:
        return replace(config, **given)
    except ValueError as error:
        raise UsageError(f"{file}: {f'[{prefix[:-1]}] ' if prefix else ''}{error}") from error


def seconds(limit: str) -> float:
    """Return the seconds of a time limit: 90s, 30m or 2h."""
    return float(limit[:-1]) * {"s": 1, "m": 60, "h": 3600}[limit[-1]]


def command_of(name: str, config: StudyConfig) -> str:
    """Return the command line that gives these settings, a TOML file's too, without places, URLs and ways to work."""
    return shlex.join(["python", "-m", "study.run", *arguments_of(name, config, INCIDENTAL)])


def arguments_of(name: str, config: StudyConfig, left_out: Sequence[str] = ()) -> list[str]:
    """Return what `parse_study` takes to give these settings, without the settings of these names."""
    base = name if name in PRESETS else DEFAULT
    kept = {name: value for name, value in asdict(config).items() if name not in left_out}
    return [base, *_flags(kept, asdict(preset(base)))]


def _flags(config: Mapping[str, Any], base: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the words that give the settings which differ from the base's."""
    for name, value in config.items():
        flag = f"{prefix}{name}".replace("_", "-")
        if value == base[name]:
            continue
        if isinstance(value, dict):
            yield from _flags(value, base[name], f"{flag}.")
        elif isinstance(value, bool):
            yield f"--{flag}" if value else f"--{prefix}no-{name}".replace("_", "-")
        elif isinstance(value, tuple | list):
            yield from (f"--{flag}", *map(str, value))
        else:
            yield from [f"--{flag}={value}"] if str(value).startswith("-") else [f"--{flag}", str(value)]


def exit_code(command: Callable[[], None]) -> int:
    """Run a command; return 0, 2 after a mistake or a lack that one sentence names, or 130 if it was stopped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by a shell's `>&-`: the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    threshold = gc.get_threshold()
    gc.set_threshold(100_000, *threshold[1:])  # reading many rows otherwise spends half its time in the collector
    try:
        with _stopped_by_signals():
            return _code_of(command)
    finally:
        gc.set_threshold(*threshold)
        _flush()


def _code_of(command: Callable[[], None]) -> int:
    try:
        with store_errors():
            try:
                command()
            except UsageError as error:  # in here: a full disk behind it need not be the store's
                return _refused(f"error: {error}")
    except StoreError as error:
        return _refused(f"error: {error}")
    except KeyboardInterrupt:
        return _refused("\nstopped; the same command goes on from here", INTERRUPTED)
    except SystemExit as end:  # after the help, or tyro's message about a flag
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:  # nobody reads the output any more: `| head`
        return 0
    except Exception as error:
        importing = any(frame.f_code.co_name == "<module>" for frame, _ in walk_tb(error.__traceback__))
        if not (importing or isinstance(error, ImportError)):
            raise
        return _refused(f"error: a package cannot be loaded: {type(error).__name__}: {error}".splitlines()[0])
    return 0


def _refused(sentence: str, code: int = 2) -> int:
    with suppress(OSError):  # a terminal that was closed
        print(sentence, file=sys.stderr, flush=True)
    return code


def _flush() -> None:
    """Write what is left of the output, so that nothing fails as Python ends (Python's docs, "Note on SIGPIPE")."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if not isinstance(error, BrokenPipeError):
                _refused(f"warning: the output could not be written: {error.strerror}")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first signal that asks for the end, but as nohup has it."""
    stopped = float("-inf")

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stop_waiting()
        if any("importlib._bootstrap" in each.f_code.co_filename for each, _ in walk_stack(frame)):
            again = threading.Timer(0.1, os.kill, (os.getpid(), number))  # an import would swallow or garble it
            again.daemon = True
            again.start()
        elif time.monotonic() - stopped > 5:  # a worker gets Ctrl-C through the command that started it too
            stopped = time.monotonic()
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if main and hasattr(signal, name)]
    before = {
        each: signal.signal(each, stop) for each in known if signal.getsignal(each) is not signal.SIG_IGN
    }  # nohup
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def set_log_level(level: str) -> None:
    """Report what is at least as important as this on stderr; a program's or notebook's own handlers stay."""
    log, debug = logging.getLogger("study"), level == "debug"
    if debug:  # of Optuna, MLflow and SQLAlchemy too
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    log.propagate = bool(logging.getLogger().handlers)
    log.handlers = [] if debug else [logging.StreamHandler()]
    log.setLevel(level.upper())
