"""The pages: files that they link to or show are there, in a fresh clone too, and lines are short."""

from __future__ import annotations

import re
import subprocess

import pytest
from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "mlruns" / "README.md"])
GENERATED = ROOT / "docs" / "results.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository_and_lines_are_short(page) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) + re.findall(r'src="([^":]+)"', text)
    targets = [(page.parent / link).resolve() for link in links]
    assert [str(target) for target in targets if not target.exists()] == []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # else this is a copy without its history
        tracked = {ROOT / name for name in listed.stdout.splitlines()}
        assert [str(target) for target in targets if target.is_file() and target not in tracked] == []
    lines = [] if page == GENERATED else text.splitlines()
    assert [line for line in lines if len(line) > 120 and not line.lstrip().startswith("|")] == []
