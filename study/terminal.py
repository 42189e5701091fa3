"""What a command writes to its terminal, pipe or file: nothing that goes wrong with that may end the command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

GONE = (errno.EPIPE, errno.EIO)  # nobody reads any more: `| head`, a terminal that was closed
STAND_INS = str.maketrans({"±": "+-", "…": "..."})
"""For output that cannot show them; of all others it shows `?`."""


class Output:
    """A stream that shows what it can: stand-ins for what its encoding lacks, and nothing once it is lost."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Show the text. Returns its length."""
        with self._losing():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                plain = text.translate(STAND_INS).encode(error.encoding, "replace").decode(error.encoding)
                self._stream.write(plain)
        return len(text)

    def flush(self) -> None:
        with self._losing():
            self._stream.flush()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            with suppress(OSError, ValueError):  # What is still in its buffer must not fail again as Python ends.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """What is run inside can always write to `sys.stdout` and `sys.stderr`."""
    _open_what_is_closed()
    streams = [stream if isinstance(stream, Output) else Output(stream) for stream in (sys.stdout, sys.stderr)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
            lost = streams[0].lost
            if lost is not None and lost.errno not in GONE:
                print(f"warning: the output could not be written: {lost.strerror}", file=sys.stderr)


def _open_what_is_closed() -> None:
    """A shell's `>&-` closes an output: the next file that is opened, a database say, would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
