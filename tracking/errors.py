"""What goes wrong with a store, in one sentence each, without passwords."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the user."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what a lost server, a full disk or a read-only folder raises, in whatever package, into one sentence.

    Raises:
        StoreError: In place of such an error; others pass.
    """
    import requests
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        for cause in reversed(list(_causes(error))):  # the first of them says it best
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
            if full or isinstance(cause, requests.RequestException | DBAPIError | sqlite3.Error):
                raise StoreError(f"the store was lost: {reason_of(cause)}") from error
        raise


def reason_of(error: BaseException) -> str:
    """An error's first line, without passwords."""
    return without_password((str(error).splitlines() or [type(error).__name__])[0])


def without_password(text: str) -> str:
    """The text with the password of every URL in it replaced by ***."""
    text = re.sub(r"(\w://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"([?&]password=)[^\s&]*", r"\1***", text)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
