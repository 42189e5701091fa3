"""What goes wrong with a store, in one sentence each, without passwords."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

SECRETS = "password|sslpassword|passwd|pwd|token|access_token|api_key|apikey|secret|sslkey|passfile"
"""Parameters of URLs that no message may show."""

REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND")  # MLflow's codes of a server's "no"


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the user."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what a lost server, one that refuses, a full disk or a read-only folder raises into one sentence.

    Raises:
        StoreError: In place of such an error; others pass.
    """
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
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
            if full or isinstance(cause, requests.RequestException | DBAPIError | sqlite3.Error):
                raise StoreError(f"the store was lost: {reason_of(cause)}") from error
        raise


def root_of(error: BaseException) -> str:
    """The first line of what an error began with, without passwords: packages wrap it in guesses of their own."""
    return reason_of(list(causes(error))[-1])


def reason_of(error: BaseException) -> str:
    """An error's first line, without passwords."""
    return without_password((str(error).splitlines() or [type(error).__name__])[0])


def without_password(text: str) -> str:
    """The text with the secrets of every URL in it replaced by ***: passwords, tokens, secret parameters.

    The user part of a URL ends at the last @ before the next space, since a password may contain any character.
    A user without a password may be a token, unless it is a database's.
    """
    text = re.sub(r"(\w://)([^\s:/@]*):\S*@", r"\1\2:***@", text)
    text = re.sub(r"(https?://)[^\s:/@]+@", r"\1***@", text)
    return re.sub(rf"([?&;](?:{SECRETS})=)[^\s&;]*", r"\1***", text, flags=re.IGNORECASE)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came from, the first of them last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
