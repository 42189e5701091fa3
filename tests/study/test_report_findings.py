"""The top of the report: each claim with its verdict and the figures that decide it, and up to four pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from study import plots
from study.report import collect as collecting
from study.report.collect import collect
from study.report.markdown import markdown
from study.report.page import render
from study.stages import all_stages
from tracking.runs import Run, study_run, trial_run
from tracking.store import Store

NAMES = [stage.name for stage in all_stages()]
PLAIN = {"figure": "size", "ours": "3", "reference": None, "baseline": None}
HELD = {"figure": "loss", "ours": "1.0 ± 0.1", "reference": "1.5", "baseline": "2.0"} | {
    "claim": "Ours is less",
    "verdict": "held",
}
DID_NOT_HOLD = {"figure": "error", "ours": "4%", "reference": "3%", "baseline": None} | {
    "claim": "It errs less than the reference",
    "verdict": "did not hold",
}
UNDECIDED = {"figure": "error", "ours": "4%", "reference": None, "baseline": None} | {
    "claim": "It never errs",
    "verdict": "undecided",
}


def picture(run: Run, name: str, title: str) -> None:
    run.log_figure(name, plots.curves({"a": ([1, 2], [3.0, 4.0])}, "x", "y", title))


def add_study(store: Store, stage: str, *rows: Mapping[str, str | None]) -> None:
    """A study with these rows, a figure `main` on its parent run and a figure `samples` of its best trial."""
    about = {"title": "a study", "description": "", "tags": {}}
    with study_run(store, store.experiment(f"tiny/{stage}"), f"tiny/{stage}/0", **about) as parent:
        picture(parent, "main", f"Main of {stage}")
        with trial_run(parent, "trial 0", {}, {}) as trial:
            picture(trial, "samples", f"Samples of {stage}")
        parent.set_tags({"best.run_id": trial.run_id})
        parent.log_json("outcome", {"champion": "", "rows": list(rows)})


def name_headlines(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, str]) -> None:
    stages = tuple(replace(stage, headline=names.get(stage.name, "")) for stage in all_stages())
    monkeypatch.setattr(collecting, "all_stages", lambda: stages)


def part(page: str, first: str, last: str) -> str:
    """The page's text between these two, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", "", page.partition(first)[2].partition(last)[0]).split())


def test_a_line_a_claim_with_its_verdict_and_the_figures_that_decide(store: Store) -> None:
    add_study(store, NAMES[1], DID_NOT_HOLD, PLAIN, UNDECIDED)
    add_study(store, NAMES[0], PLAIN, HELD)
    page = render(collect("tiny"))
    claims = re.findall(r'<li class="([a-z-]+)">(.*?)</li>', page, re.DOTALL)
    assert [kind for kind, _ in claims] == ["held", "did-not-hold", "undecided"], "in the order of stages and rows"
    assert [part(f"<li>{text}</li>", "<li>", "</li>") for _, text in claims] == [
        f"✓ held Ours is less {NAMES[0]}, loss: 1.0 ± 0.1 against 2.0",
        f"✗ did not hold It errs less than the reference {NAMES[1]}, error: 4% against 3% (reference)",
        f"? undecided It never errs {NAMES[1]}, error: 4%",
    ]
    assert [re.findall('href="(.*?)"', text) for _, text in claims] == [[f"#{NAMES[n]}"] for n in (0, 1, 1)]
    assert "Claims: 1 held, 1 did not hold, 1 undecided." in part(page, "<h2>What was found</h2>", "<ul")
    assert page.index("What was found") < page.index("All figures") < page.index(f'<section id="{NAMES[0]}">')


def test_without_claims_and_headlines_the_page_begins_with_the_table(store: Store) -> None:
    add_study(store, NAMES[0], PLAIN)
    page = render(collect("tiny"))
    assert "What was found" not in page
    assert part(page, "<main>", "<table>") == "All figures"


def test_a_stage_without_rows_takes_no_claim_from_the_others(store: Store) -> None:
    add_study(store, NAMES[0], HELD)
    about = {"title": "open", "description": "", "tags": {}}
    with study_run(store, store.experiment(f"tiny/{NAMES[1]}"), "tiny/open/0", **about):
        page = collect("tiny")
    assert [(section.stage, row.claim) for section, row in page.claims] == [(NAMES[0], "Ours is less")]
    assert page.sections[1].rows is None
    assert "No figures yet" in render(page)


def test_headlines_are_the_named_pictures_of_the_first_four_stages(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in reversed(NAMES):
        add_study(store, name, PLAIN)
    name_headlines(monkeypatch, dict.fromkeys(NAMES, "main") | {NAMES[2]: "best/samples"})
    page = collect("tiny")
    titles = [f"Main of {name}" for name in NAMES[:4]]
    titles[2] = f"Samples of {NAMES[2]}"
    assert [picture.title for _, picture in page.headlines] == titles
    shown = part(render(page), "<h2>What was found</h2>", "<h2>All figures</h2>")
    assert shown == " ".join(f"{name}: {title}" for name, title in zip(NAMES, titles, strict=False))


@pytest.mark.parametrize("headline", ["samples", "best/main", "none"])
def test_a_headline_that_is_not_there_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch, headline: str) -> None:
    """As the figure of a study that is not finished, or one by a name that is another run's."""
    add_study(store, NAMES[0], PLAIN)
    add_study(store, NAMES[1], PLAIN)
    name_headlines(monkeypatch, {NAMES[0]: headline, NAMES[1]: "main"})
    page = collect("tiny")
    assert [section.stage for section, _ in page.headlines] == [NAMES[1]]
    assert page.sections[0].notes == []
    assert "Main of" in render(page)


def test_the_tables_as_markdown_have_every_row_and_nothing_that_acts(store: Store) -> None:
    add_study(store, NAMES[0], HELD, {**PLAIN, "figure": "a|b <script>*x*\nnext"})
    text = markdown(collect("tiny"))
    lines = text.splitlines()
    assert "| held | Ours is less | 1.0 ± 0.1 | 2.0 | judge |" in lines
    assert "| loss | 1.0 ± 0.1 | 1.5 | 2.0 | held |" in lines
    assert r"| a\|b \<script\>\*x\* next | 3 |  |  |  |" in lines
    assert lines.index("## Claims") < lines.index(f"## {NAMES[0]}")
    cells = [len(re.split(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert set(cells) == {7}, "five columns in each line"
