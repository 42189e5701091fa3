"""TOML files of settings: the flags' names, nested as the flags are. A value stays the value that it is."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import date, time
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from study.checks import UsageError

ConfigT = TypeVar("ConfigT")
PLAIN = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a string",
    type(None): "'None'",
}


class _Mismatch(Exception):
    """What the value should be."""


def read_toml(path: Path) -> dict[str, Any]:
    """The table in the file.

    Raises:
        UsageError: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def with_table(config: ConfigT, table: Mapping[str, Any], file: str, prefix: str = "") -> ConfigT:
    """The config with the table's settings in place of its own.

    Args:
        config: An instance of a dataclass.
        prefix: Of the settings' names in messages: `judge.`, say.

    Raises:
        UsageError: The table has a setting that the config has not, or one with a value that it cannot have.
    """
    hints = get_type_hints(type(config), include_extras=True)
    known = {each.name: each.name for each in fields(config) if each.init}  # type: ignore[arg-type]
    known |= {name.replace("_", "-"): name for name in known}
    given: dict[str, Any] = {}
    for key, value in table.items():
        shown = f"{prefix}{key}"
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise UsageError(f"{file}: there is no setting --{shown}{hint}")
        name = known[key]
        if name in given:
            raise UsageError(f"{file}: `{shown}` is given twice, with - and with _")
        before = getattr(config, name)
        if is_dataclass(before) and not isinstance(before, type):
            if not isinstance(value, dict):
                raise UsageError(f"{file}: `{shown}` must be a table, but got {_shown(value)}")
            given[name] = with_table(before, value, file, f"{shown}.")
            continue
        if isinstance(value, date | time):  # and datetime, which is a date
            raise UsageError(f"{file}: `{shown}` must be a string, number, boolean or list, but got {value}")
        try:
            given[name] = _converted(value, hints[name])
        except _Mismatch as mismatch:
            raise UsageError(f"{file}: `{shown}` must be {mismatch}, but got {_shown(value)}") from None
    try:
        return replace(config, **given)  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"{file}: {f'[{prefix[:-1]}] ' if prefix else ''}{error}") from error


def _converted(value: Any, wanted: Any) -> Any:
    """The value as this type has it.

    Raises:
        _Mismatch: It is of another type.
    """
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _converted(value, parts[0])
    if origin in (Union, types.UnionType):
        return _one_of(value, parts)
    if origin is Literal:
        if not any(type(value) is type(each) and value == each for each in parts):
            raise _Mismatch(f"one of {', '.join(map(repr, parts))}")
        return value
    if origin in (tuple, list, set, frozenset):
        return _sequence(value, origin, parts)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        names = [each.name for each in wanted]
        if value not in names:
            raise _Mismatch(f"one of {', '.join(map(repr, names))}")
        return wanted[value]
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    kind = origin or wanted
    other = wanted is Any or (isinstance(kind, type) and isinstance(value, kind))
    if not (type(value) is wanted if wanted in PLAIN else other):
        raise _Mismatch(PLAIN.get(wanted, f"a {getattr(wanted, '__name__', wanted)}"))
    return value


def _one_of(value: Any, parts: tuple[Any, ...]) -> Any:
    """TOML has no `None`: a string says it, where no other string is meant."""
    if type(None) in parts and value == "None" and not {str, Path} & set(parts):
        return None
    mismatches = []
    for part in parts:
        try:
            return _converted(value, part)
        except _Mismatch as mismatch:
            mismatches.append(str(mismatch))
    raise _Mismatch(" or ".join(mismatches))


def _sequence(value: Any, kind: type, parts: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        raise _Mismatch("a list")
    if kind is tuple and parts[-1:] != (Ellipsis,):
        if len(value) != len(parts):
            raise _Mismatch(f"a list of {len(parts)}")
        wanted = parts
    else:
        wanted = (parts[0] if parts else Any,) * len(value)
    try:
        return kind(_converted(each, part) for each, part in zip(value, wanted, strict=True))
    except _Mismatch as mismatch:
        raise _Mismatch(f"a list, each of it {mismatch}") from None


def _shown(value: Any) -> str:
    return "a table" if isinstance(value, dict) else repr(value)
