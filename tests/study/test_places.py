"""Places that a user names: checked before the work, without a trace; `~` is the home folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import call

from study.checks import UsageError, check_file, check_folder, replacing


def test_the_checks_of_files_and_folders_leave_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "old.html"
    file.write_text("as it was")
    os.utime(file, (1, 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "new.html")
    before = sorted(tmp_path.iterdir())
    for name in ("old.html", "pipe", "dangling", "new.html"):
        check_file(tmp_path / name, "--out")
    assert sorted(tmp_path.iterdir()) == before
    assert (file.read_text(), file.stat().st_mtime) == ("as it was", 1)
    check_folder(tmp_path / "a" / "b", "--pictures")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "astray").symlink_to("/nowhere/new.html")
    with pytest.raises(UsageError, match="astray cannot be written"):
        check_file(tmp_path / "astray", "--out")


@pytest.mark.parametrize("name", ["old.npz", "link.npz"])
def test_an_input_is_no_output_under_another_name_either(name: str, tmp_path: Path) -> None:
    (tmp_path / "old.npz").touch()
    (tmp_path / "link.npz").symlink_to(tmp_path / "old.npz")
    with pytest.raises(UsageError, match="--out must be another file than --inputs"):
        check_file(tmp_path / name, "--out", inputs=tmp_path / "old.npz")


def test_a_file_is_replaced_whole_and_gets_the_mode_of_any_new_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "new.csv") as new:
        new.write_text("first")
        assert not (tmp_path / "new.csv").exists()
    (tmp_path / "plain.csv").touch()
    assert (tmp_path / "new.csv").stat().st_mode == (tmp_path / "plain.csv").stat().st_mode
    with replacing(Path("/dev/null")) as new:
        assert new == Path("/dev/null")


def test_a_home_folder_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "mine.toml"
    file.write_text('store = "~/new"\ndata = "~/none.npz"\n')
    code, _, errors = call("run", capsys, "~/mine.toml")
    assert (code, "none.npz" in errors) == (2, True)
    assert (tmp_path / "new" / "mlflow.db").is_file()
    nobody = "~nobody-of-this-name"
    file.write_text(f'store = "{nobody}/new"\n')
    for module, *flags in (
        ("run", "~/mine.toml"),
        ("run", f"{nobody}/mine.toml"),
        ("run", "--store", f"{nobody}/x"),
        ("report", "--store", f"{nobody}/x", "--out", "~/r.html"),
        ("sample", "--store", f"{nobody}/x", "--out", "~/r.png"),
    ):
        code, _, errors = call(module, capsys, *flags)
        assert (code, f"must be a path, but got {nobody}" in errors) == (2, True), errors
