"""`python -m study.report`: one self-contained HTML page about the studies in a store."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from study.checks import UsageError, check_file, check_folder, expanded, replacing, writing
from study.cli import exit_code, parse, words


@dataclass(frozen=True)
class ReportConfig:
    """Write one HTML page about the studies in a store: the table, figures, trials, and how each number was made."""

    data: str | None = None
    """Data set, by name or by the path that the study was given; None: the one that the store was last used for."""
    out: Path = Path("report.html")
    """The page to write."""
    markdown: Path | None = None
    """File to write the claims and tables to as well, as Markdown."""
    pictures: Path | None = None
    """Folder to write the page's figures to as well, a PNG file each."""
    compare: str | None = None
    """What to put beside these studies: a seed, whose studies are in the same store, or the folder of another store
    (./1, if its name is a number). Of each stage the newest study is taken."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(words(arguments)))


def _run(arguments: Sequence[str]) -> None:
    config = parse(ReportConfig, arguments, "report")
    files = {"--out": expanded(config.out, "--out")}
    check_file(files["--out"], "--out")
    if config.markdown is not None:
        files["--markdown"] = expanded(config.markdown, "--markdown")
        check_file(files["--markdown"], "--markdown", out=files["--out"])
    pictures = None if config.pictures is None else expanded(config.pictures, "--pictures")
    if pictures is not None:
        check_folder(pictures, "--pictures")
    seed = int(config.compare) if config.compare and re.fullmatch(r"\d{1,10}", config.compare, re.ASCII) else None
    other = None if config.compare is None or seed is not None else expanded(Path(config.compare), "--compare")
    if other is not None and not (other / "mlflow.db").is_file():
        raise UsageError(f"--compare must be a seed or the folder of a store, but got {other}: it has no mlflow.db")
    from tracking.store import read_store

    read_store(expanded(config.store, "--store"), config.tracking_uri)

    from study.data import data_name
    from study.report.collect import collect, compare
    from study.report.page import html, markdown

    page = collect(None if config.data is None else data_name(config.data))
    if config.compare is not None:
        if other is not None:
            read_store(other)
        there = collect(page.dataset, seed=seed)
        page = replace(page, comparison=compare(page, there, f"seed {seed}" if other is None else str(other)))
    print(f"{page.dataset}: {', '.join(section.stage for section in page.sections)}")
    if page.comparison is not None:
        print(f"beside {page.comparison.other}: {page.comparison.summary}")
    for (flag, file), text in zip(files.items(), (html, markdown), strict=False):
        with writing(file, flag), replacing(file) as new:
            new.write_text(text(page), encoding="utf-8")
        print(f"{flag.removeprefix('--')}: {file}")
    if pictures is not None:
        with writing(pictures, "--pictures"):
            for name, picture in page.pictures:
                (pictures / f"{name}.png").write_bytes(picture.png)
        print(f"pictures: {pictures}")


if __name__ == "__main__":
    sys.exit(main())
