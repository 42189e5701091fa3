"""`python -m study.report`: one self-contained HTML page about the studies in a store."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from study.checks import UsageError, check_file, check_folder, expanded, replacing, writing
from study.cli import StoreConfig, command


@dataclass(frozen=True)
class ReportConfig(StoreConfig):
    """Write one HTML page about the studies in a store: the table, figures, trials, and how each number was made."""

    data: str | None = None
    """Data set, by name or by the path that the study was given; None: the one that the store was last used for."""
    out: Path = Path("report.html")
    """The page to write."""
    markdown: Path | None = None
    """File to write the claims and tables to as well, as Markdown."""
    pictures: Path | None = None
    """Folder to write the page's figures to as well, a PNG file each."""
    csv: Path | None = None
    """File to write all trials of the data set to as well, a line each, as CSV."""
    compare: str | None = None
    """What to put beside these studies: a seed, whose studies are in the same store, or the folder of another store
    (./1, if its name is a number). Of each stage the newest study is taken."""


def run(config: ReportConfig) -> None:
    """Write what the settings ask for."""
    asked = {"out": config.out, "markdown": config.markdown, "csv": config.csv, "pictures": config.pictures}
    files = {flag: expanded(path, f"--{flag}") for flag, path in asked.items() if path is not None}
    pictures, store = files.pop("pictures", None), expanded(config.store, "--store")
    checked: dict[str, Path | None] = {}
    for flag, file in files.items():
        if file.resolve().is_relative_to(store.resolve() / "artifacts"):
            raise UsageError(f"--{flag} must not be one of the store's artifacts, but got {file}")
        check_file(file, f"--{flag}", **checked)
        checked[flag] = file
    if pictures is not None:
        check_folder(pictures, "--pictures")
    seed = int(config.compare) if config.compare and re.fullmatch(r"\d{1,10}", config.compare, re.ASCII) else None
    other = None if config.compare is None or seed is not None else expanded(Path(config.compare), "--compare")
    if other is not None and not (other / "mlflow.db").is_file():
        raise UsageError(f"--compare must be a seed or the folder of a store, but got {other}: it has no mlflow.db")
    from study.api import results
    from study.data import data_name
    from study.report.collect import collect, side_by_side
    from study.report.page import html, markdown
    from tracking.store import read_store

    read_store(store, config.tracking_uri)
    page = collect(None if config.data is None else data_name(config.data))
    print(f"{page.dataset}: {', '.join(section.stage for section in page.sections)}")
    if config.compare is not None:
        if other is not None:
            read_store(other)
        comparison = side_by_side(page, collect(page.dataset, seed=seed), str(other or f"seed {seed}"))
        page = replace(page, comparison=comparison)
        print(f"beside {comparison.other}: {len(comparison.rows) - 1} rows in both")

    texts: dict[str, Callable[[], str]] = {
        "out": lambda: html(page),
        "markdown": lambda: markdown(page),
        "csv": lambda: results(store, page.dataset, tracking_uri=config.tracking_uri).to_csv(index=False),
    }
    for flag, file in files.items():
        with writing(file, f"--{flag}"), replacing(file) as new:
            new.write_text(texts[flag](), encoding="utf-8")
        print(f"{flag}: {file}")
    if pictures is not None:
        with writing(pictures, "--pictures"):
            for name, picture in page.pictures:
                (pictures / f"{name}.png").write_bytes(picture.png)
        print(f"pictures: {pictures}")


main = command(ReportConfig, "report", run)

if __name__ == "__main__":
    sys.exit(main())
