"""What goes wrong with a store, in one sentence each, without passwords."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECRETS = "password|sslpassword|passwd|pwd|token|access_token|api_key|apikey|secret|sslkey|passfile"
"""Parameters of URLs that no message may show."""
REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND")  # MLflow's codes of a server's "no"
FULL = ("database or disk is full", "No usable temporary directory")  # SQLite's words, and those of `tempfile`

opened: set[Path] = set()  # folders of the local stores that this process writes to


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the user."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what a lost server, a server that refuses, or a disk that is full or read-only raises into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        import requests
        from sqlalchemy.exc import DBAPIError

        for cause in reversed(list(causes(error))):  # the first of them says it best
            if getattr(cause, "error_code", None) in REFUSED:
                raise StoreError(f"the server refuses: {reason_of(cause)}") from error
            if is_full(cause):
                raise StoreError(f"the disk of {fullest()} is full: {reason_of(cause)}") from error
            read_only = isinstance(cause, OSError) and cause.errno == errno.EROFS
            if read_only or isinstance(cause, requests.RequestException | DBAPIError | sqlite3.Error):
                raise StoreError(f"the store was lost: {reason_of(cause)}") from error
        raise


def is_full(error: BaseException) -> bool:
    """Return whether a disk had no space left for what was written."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(words in str(error) for words in FULL)


def fullest() -> Path:
    """Return the folder whose disk has the least space left: that of temporary files, or a store."""
    folders = [Path(tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")), *opened]
    return min(filter(Path.is_dir, folders), key=lambda folder: shutil.disk_usage(folder).free, default=folders[0])


def root_of(error: BaseException) -> str:
    """Return the first line of the error at the root of others, without passwords: packages wrap it in guesses."""
    return reason_of(list(causes(error))[-1])


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, without passwords."""
    return without_password((str(error).splitlines() or [type(error).__name__])[0])


def without_password(text: str) -> str:
    """Return the text with the secrets of every URL in it replaced by ***: passwords, tokens, secret parameters.

    The user part of a URL ends at the last @ before the next space, since a password may contain any character.
    A user without a password may be a token, unless it is a user of a database.
    """
    text = re.sub(r"(\w://)([^\s:/@]*):\S*@", r"\1\2:***@", text)
    text = re.sub(r"(https?://)[^\s:/@]+@", r"\1***@", text)
    return re.sub(rf"([?&;](?:{SECRETS})=)[^\s&;]*", r"\1***", text, flags=re.IGNORECASE)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, and the errors that it came from, the first of them last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
