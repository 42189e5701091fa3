"""`python -m study.ui`: MLflow's pages on a store, opened at the trials, for as long as the command runs."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study.checks import at_least, at_most, expanded
from study.cli import StoreConfig, command


@dataclass(frozen=True)
class UiConfig(StoreConfig):
    """Show the runs and models of a store in a browser: MLflow's pages, on this machine only, until Ctrl-C.

    Of an MLflow server its own pages are opened, and nothing is started.
    """

    port: int = 5000
    """Port of the server that is started."""
    open: bool = True
    """Open the first view in the browser."""

    def __post_init__(self) -> None:
        at_least(1, port=self.port)
        at_most(65535, port=self.port)


def run(config: UiConfig) -> None:
    """Show what the settings ask for until it is stopped."""
    from tracking.server import check_port, local_address, serve
    from tracking.store import read_store, served_as

    if config.tracking_uri is not None:
        show(read_store(Path(), config.tracking_uri).tracking_uri, config.open)
        return
    folder = expanded(config.store, "--store").absolute()
    store = read_store(folder)
    check_port(config.port)
    uri = served_as(store, folder)
    if uri == store.tracking_uri:
        print("the store was moved or may not be written: this is a copy of its database, and changes to it are lost")

    def ready() -> None:
        print(f"MLflow's pages on {folder}, on this machine only; Ctrl-C ends them")
        show(local_address(config.port), config.open)

    with suppress(KeyboardInterrupt):
        serve(uri, config.port, ready)
    print("\nended")


def show(server: str, open_browser: bool) -> None:
    """Print where the trials of each experiment are on a server's pages, and open the first in a browser."""
    from tracking.views import TRAINING, places

    server, known = server.rstrip("/"), places()
    if not known:
        print(f"no study is in this store yet: {server}")
        return
    addresses = {name: f"{server}/{address}" for name, address in known.items()}
    addresses["models"] = f"{server}/#/models?{TRAINING}"
    for name, address in addresses.items():
        print(f"  {name:{max(map(len, addresses))}}  {address}", flush=True)
    screen = sys.platform in ("win32", "darwin") or any(map(os.getenv, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    if open_browser and not (screen and webbrowser.open(next(iter(addresses.values())))):
        print("no browser can be opened here: open the first address yourself", flush=True)


main = command(UiConfig, "ui", run)

if __name__ == "__main__":
    sys.exit(main())
