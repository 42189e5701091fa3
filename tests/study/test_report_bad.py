"""Artifacts that somebody has broken: the report leaves them out, with a note, and shows the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from study import plots
from study.report.collect import collect
from study.report.page import render
from tracking.runs import Run, study_run
from tracking.store import Store


def truncated(folder: Path, run: Run) -> None:
    file = folder / "figures" / "loss.png"
    file.write_bytes(file.read_bytes()[:200])


def no_picture(folder: Path, run: Run) -> None:
    (folder / "figures" / "loss.png").write_text("my diary")


def empty_table(folder: Path, run: Run) -> None:
    (folder / "tables" / "all.csv").write_text("")


def no_text(folder: Path, run: Run) -> None:
    (folder / "tables" / "all.csv").write_bytes(b"\xff\xfe\x00")


def odd_rows(folder: Path, run: Run) -> None:
    (folder / "outcome.json").write_text('{"champion": "x", "rows": [{"figure": 3}]}')


def no_rows(folder: Path, run: Run) -> None:
    (folder / "outcome.json").write_text("[1, 2]")


def no_settings(folder: Path, run: Run) -> None:
    run.set_tags({"settings": "{broken"})


def no_command(folder: Path, run: Run) -> None:
    run.set_tags({"command": "python -m 'unclosed"})


@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (truncated, "figures/loss.png is left out"),
        (no_picture, "figures/loss.png is left out"),
        (empty_table, "tables/all.csv is left out, since it cannot be read: it is empty"),
        (no_text, "tables/all.csv is left out"),
        (odd_rows, "the table is left out"),
        (no_rows, "the table is left out"),
        (no_settings, "the list of settings is left out"),
        (no_command, None),
    ],
)
def test_one_bad_artifact_is_left_out_with_a_note(
    store: Store, harm: Callable[[Path, Run], None], note: str | None
) -> None:
    about = {"title": "a study", "description": "", "tags": {"dataset": "mnist", "command": "x", "settings": "{}"}}
    with study_run(store, store.experiment("mnist/judge"), "mnist/judge/0", **about) as run:
        for name in ("loss", "other"):
            run.log_figure(name, plots.curves({"a": ([1, 2], [3.0, 4.0])}, "x", "y", f"Figure {name}"))
        run.log_table("all", {"kind": ["conv"]})
        row = {"figure": "test accuracy", "ours": "99%", "reference": None, "baseline": None}
        run.log_json("outcome", {"champion": "", "rows": [row]})
        place = Path(run.log_text("note.txt", ""))
    harm(place.parent, run)
    page = collect("mnist")
    (section,) = page.sections
    assert [each for each in section.notes if note is not None and note in each] == section.notes
    assert bool(section.notes) == (note is not None)
    shown = render(page)
    assert "Figure other" in shown
    assert note is None or note in shown
