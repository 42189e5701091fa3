"""Places and data that a user names: checked before the work, without a trace; one sentence if they cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import Call
from pictures import SHAPES, folder_of_shapes
from studies import Studies, copied

from study.checks import UsageError, check_file, check_folder, replacing


def test_the_checks_of_files_and_folders_leave_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "old.html"
    file.write_text("as it was")
    os.utime(file, (1, 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "new.html")
    (tmp_path / "astray").symlink_to("/nowhere/new.html")
    (tmp_path / "link").symlink_to(file)
    before = sorted(tmp_path.iterdir())
    for name in ("old.html", "pipe", "dangling", "new.html"):
        check_file(tmp_path / name, "--out")
    for name in ("old.html", "link"):
        with pytest.raises(UsageError, match="--out must be another file than --inputs"):
            check_file(tmp_path / name, "--out", inputs=file)
    with pytest.raises(UsageError, match="astray cannot be written"):
        check_file(tmp_path / "astray", "--out")
    assert sorted(tmp_path.iterdir()) == before
    assert (file.read_text(), file.stat().st_mtime) == ("as it was", 1)
    check_folder(tmp_path / "a" / "b", "--pictures")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with replacing(tmp_path / "whole.csv") as new:
        new.write_text("first")
        assert not (tmp_path / "whole.csv").exists()
    (tmp_path / "plain.csv").touch()
    assert (tmp_path / "whole.csv").stat().st_mode == (tmp_path / "plain.csv").stat().st_mode


def test_a_home_folder_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Call) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "mine.toml"
    file.write_text('store = "~/new"\ndata = "~/none.npz"\n')
    assert "none.npz" in called("run", "~/mine.toml").error
    assert (tmp_path / "new" / "mlflow.db").is_file()
    nobody = "~nobody-of-this-name"
    file.write_text(f'store = "{nobody}/new"\n')
    for module, *flags in (
        ("run", "~/mine.toml"),
        ("run", f"{nobody}/mine.toml"),
        ("report", "--store", f"{nobody}/x", "--out", "~/r.html"),
        ("sample", "--store", f"{nobody}/x", "--out", "~/r.png"),
    ):
        assert f"must be a path, but got {nobody}" in called(module, *flags).error


def test_data_that_cannot_be_read_get_one_sentence(fresh: Studies, empty_store: Path, tmp_path: Path) -> None:
    """The other rules: tests/study/data."""
    copied(empty_store, fresh.store)
    data = folder_of_shapes(tmp_path / "a", {"": 5})
    (data / SHAPES[0] / "note.png").write_text("no image")
    refused = fresh.call("smoke", "--data", data)
    assert "note.png cannot be read as an image: it is a text that begins with 'no image'" in refused.error
    assert (refused.errors.count("\n"), refused.out, fresh.runs()) == (1, "", [])
