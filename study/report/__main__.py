"""`python -m study.report`: one self-contained HTML page about the studies in a store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from study.cli import exit_code
from study.harness.settings import UsageError


@dataclass(frozen=True)
class ReportConfig:
    """Write one HTML page about the studies in a store: the table, figures, trials, and how each number was made."""

    data: str | None = None
    """Data set, by name or by the path that the study was given; None: the one that the store was last used for."""
    out: Path = Path("report.html")
    """The page to write."""
    pictures: Path | None = None
    """Folder to write the page's figures to as well, a PNG file each."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    config = tyro.cli(ReportConfig, args=list(arguments), prog="python -m study.report")
    out = config.out.expanduser()
    if not out.parent.is_dir():
        raise UsageError(f"the folder of --out must exist, but got {out}")
    from tracking.store import read_store

    read_store(config.store, config.tracking_uri)

    from study.report.collect import collect
    from study.report.page import named_pictures, render

    page = collect(None if config.data is None else _data_name(config.data))
    out.write_text(render(page), encoding="utf-8")
    print(f"{out}: {page.dataset}, {', '.join(section.stage for section in page.sections)}")
    if config.pictures is not None:
        folder = config.pictures.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in named_pictures(page):
            (folder / f"{name}.png").write_bytes(picture.png)
        print(f"{folder}: its figures")


def _data_name(data: str) -> str:
    from study.data import data_name  # torch, which takes a second

    return data_name(data) if "/" in data or data.endswith(".npz") else data


if __name__ == "__main__":
    sys.exit(main())
