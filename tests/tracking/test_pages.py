"""Which MLflow can open our views, and a port on which no server can be started."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from servers import free_port

from tracking.errors import StoreError
from tracking.pages import HOST, can_show_views, check_port, served


@contextmanager
def server_that_says(version: bytes | None) -> Iterator[str]:
    """The address of a server whose version is this; None: it does not say."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if version is None else 200)
            self.end_headers()
            self.wfile.write(version or b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((HOST, 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


NEW, OLD, UNKNOWN = (b"3.17.2", b"4.0.0", b"3.16.0rc1"), (b"3.14.0", b"2.22.5"), (None, b"<html>a proxy")


@pytest.mark.parametrize("version", [*NEW, *OLD, *UNKNOWN])
def test_an_old_server_cannot_show_views(version: bytes | None) -> None:
    with server_that_says(version) as address:
        assert can_show_views(address) == (version not in OLD)


def test_a_taken_port_is_refused_and_a_free_one_is_not() -> None:
    check_port(free_port())
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreError, match=rf"--port must be a free one of 127\.0\.0\.1, but got {port} \(.*in use"):
            check_port(port)


def test_a_server_that_cannot_start_says_why_in_a_sentence() -> None:
    with (
        pytest.raises(StoreError, match=r"MLflow's server does not start: .+"),
        served("nonsense://nowhere", free_port()),
    ):
        pass
