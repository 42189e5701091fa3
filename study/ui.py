"""`python -m study.ui`: MLflow's pages on a store, opened at the trials, for as long as the command runs."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.checks import UsageError, expanded
from study.cli import exit_code, parse, words
from tracking.pages import PORT


@dataclass(frozen=True)
class UiConfig:
    """Show the runs and models of a store in a browser: MLflow's pages, on this machine only, until Ctrl-C."""

    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder: its own pages are opened, and nothing is started."""
    port: int = PORT
    """Port of the server that is started."""
    open: bool = True
    """Open the first view in the browser."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what the command line asks for until it is stopped. Returns the exit code."""
    return exit_code(lambda: _run(words(arguments)))


def _run(arguments: Sequence[str]) -> None:
    config = parse(UiConfig, arguments, "ui")
    if not 1 <= config.port <= 65535:
        raise UsageError(f"`1 <= --port <= 65535` must hold, but got {config.port}")
    from tracking.environment import check_environment
    from tracking.pages import check_port, local_address, served, wait_for_end
    from tracking.store import read_store, served_as

    check_environment()
    if config.tracking_uri is not None:
        show(read_store(Path(), config.tracking_uri).tracking_uri, config.open)
        return
    folder = expanded(config.store, "--store").absolute()
    store = read_store(folder)
    check_port(config.port)
    uri = served_as(store, folder)
    if uri == store.tracking_uri:
        print("the store was moved or may not be written: this is a copy of its database, and changes to it are lost")
    try:
        with served(uri, config.port) as process:
            print(f"MLflow's pages on {folder}, on this machine only; Ctrl-C ends them")
            show(local_address(config.port), config.open)
            wait_for_end(process)
    except KeyboardInterrupt:
        print("\nended")


def show(server: str, open_browser: bool) -> None:
    """Print where the trials of each experiment are on a server's pages, and open the first in a browser."""
    from tracking.pages import can_show_views
    from tracking.views import TRAINING, places

    known = places()
    if not known:
        print(f"no study is in this store yet: {server}")
        return
    views = can_show_views(server)
    if not views:
        print("this server's version of MLflow cannot open saved views: these are the plain pages")
    elif not all(place.has_view for place in known):
        print("where no view of the trials is saved yet, the next study.run saves it: till then it is the plain page")
    width = max(len(place.experiment) for place in known)
    addresses = [f"{server.rstrip('/')}/{place.address if views else place.plain}" for place in known]
    for place, address in zip(known, addresses, strict=True):
        print(f"  {place.experiment:{width}}  {address}")
    print(f"  {'models':{width}}  {server.rstrip('/')}/#/models?{TRAINING}", flush=True)
    if open_browser and not _open(addresses[0]):
        print("no browser can be opened here: open the first of them yourself", flush=True)


def _open(address: str) -> bool:
    """Whether a browser was opened; one that would take the terminal over is not."""
    shown = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    has_screen = sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in shown)
    return has_screen and webbrowser.open(address)


if __name__ == "__main__":
    sys.exit(main())
