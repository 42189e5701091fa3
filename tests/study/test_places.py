"""Places that a user names: where nothing can be written, and `~`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from commands import call
from conftest import Command

from study.checks import UsageError, check_file, check_folder, replacing


def places(folder: Path) -> dict[str, tuple[str, ...]]:
    """What `--out` and `--pictures` cannot be, and what a command says to it."""
    (folder / "file.html").write_text("as it was")
    (folder / "file.png").write_text("as it was")
    (folder / "full").mkdir()
    (folder / "full" / "a.png").mkdir()
    (folder / "mlflow.db").touch()
    return {
        f"report --out {folder}": ("--out must be a file, but", "is a folder"),
        f"report --out {folder}/mlflow.db": ("--out must not be a store's database",),
        f"sample --out {folder}/full/a.png": ("--out must be a file, but", "is a folder"),
        f"sample --out {folder}/file.html": ("must end in .png or .npz",),
        f"sample --out {folder}/full": ("the folder --out must be new or empty",),
        "sample --out /proc/new": ("--out /proc/new cannot be written: ",),
        f"report --pictures {folder}/file.html": ("--pictures must be a folder, but", "file.html is a file"),
        f"report --pictures {folder}/file.html/x/y": ("--pictures must be a folder, but", "file.html is a file"),
        "report --pictures /proc/x/y": ("--pictures /proc/x/y cannot be written: ",),
        **{
            f"{module} --out {out}{ending}": message
            for module, ending in (("report", ".html"), ("sample", ".png"))
            for out, message in {
                "/proc/x": ("--out /proc/x", "cannot be written: "),
                f"{folder}/missing/x": ("the folder of --out must exist, but got ",),
                f"{folder}/file.html/x": ("the folder of --out must exist, but got ",),
                "x" * 300: ("cannot be written: File name too long",),
                "~nobody-of-this-name/x": ("--out must be a path, but got ~nobody-of-this-name/x",),
            }.items()
        },
    }


def test_where_nothing_can_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked, message in places(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        module, *flags = asked.split(" ")
        code, out, errors = call(module, capsys, *flags, "--store", "/no/store")
        shown = " ".join(errors.replace("│", " ").split())
        assert code == 2, asked
        assert out == ""
        for part in message:
            assert part in shown, asked
        assert not {"Traceback", "the store was lost", "holds no store"} & set(shown.split(": "))
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file.html").read_text() == (tmp_path / "file.png").read_text() == "as it was"


def test_the_checks_of_places_leave_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "old.html"
    file.write_text("as it was")
    os.utime(file, (1, 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "new.html")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.iterdir())
    for name in ("old.html", "pipe", "dangling", "new.html"):
        check_file(tmp_path / name, "--out")
    check_folder(tmp_path / "a" / "b", "--pictures")
    assert sorted(tmp_path.iterdir()) == before
    assert (file.read_text(), file.stat().st_mtime) == ("as it was", 1)
    (tmp_path / "astray").symlink_to("/nowhere/new.html")
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        check_file(tmp_path / "astray", "--out")


def test_a_disk_that_is_full_at_the_end_is_not_the_store(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = call("report", capsys, "--store", finished[0], "--out", "/dev/full")
    assert (code, errors) == (2, "error: --out /dev/full cannot be written: No space left on device\n")


def test_what_is_written_to_must_be_no_other_file_of_the_command(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, link, page = tmp_path / "a.npz", tmp_path / "link.npz", tmp_path / "r.html"
    np.savez(images, images=np.zeros((2, 28, 28), np.uint8))
    before = images.read_bytes()
    link.symlink_to(images)
    for asked, message in {
        ("predict", "judge", "--inputs", images, "--out", images): "--out must be another file than --inputs",
        ("predict", "judge", "--inputs", images, "--out", link): "--out must be another file than --inputs",
        ("report", "--out", page, "--markdown", page): "--markdown must be another file than --out",
    }.items():
        module, *flags = asked
        code, _, errors = call(module, capsys, *flags, "--store", finished[0])
        assert (code, message in errors) == (2, True), errors
    assert images.read_bytes() == before
    assert not page.exists()


def test_an_error_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "old.npz"
    file.write_text("as it was")
    file.chmod(0o640)

    def fill_the_disk() -> None:
        with replacing(file) as new:
            new.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert file.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [file]
    (tmp_path / "link.npz").symlink_to(file)
    with replacing(tmp_path / "link.npz") as new:
        assert new.suffix == ".npz"
        new.write_text("whole")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("whole", 0o640)
    assert (tmp_path / "link.npz").is_symlink()
    with replacing(tmp_path / "new.csv") as new:
        new.write_text("first")
    plain = tmp_path / "plain.csv"
    plain.touch()
    assert (tmp_path / "new.csv").stat().st_mode == plain.stat().st_mode
    with replacing(Path("/dev/null")) as new:
        assert new == Path("/dev/null")


@pytest.mark.parametrize("module", ["sample", "report"])
def test_no_name_is_no_data_set(module: str, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = call(module, capsys, "--data", "", "--store", finished[0])
    assert (code, errors.startswith("error: a path must not be empty")) == (2, True)


def test_a_pipe_is_an_output(finished: tuple[Path, str], command: Command) -> None:
    done = command("study.report", "--store", finished[0], "--out", "/dev/stdout")
    assert done.returncode == 0, done.stderr
    assert "</html>" in done.stdout


def test_a_home_folder_everywhere(
    finished: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "results").symlink_to(finished[0])
    asked = ("--store", "~/results", "--out", "~/r.html", "--pictures", "~/a/b")
    assert call("report", capsys, *asked)[0] == 0
    assert (tmp_path / "r.html").is_file()
    assert list((tmp_path / "a" / "b").glob("*.png"))
    file = tmp_path / "mine.toml"
    file.write_text('store = "~/new"\ndata = "~/none.npz"\n')
    code, _, errors = call("run", capsys, "~/mine.toml")
    assert (code, "'~/none.npz' cannot be read" in errors) == (2, True)
    assert (tmp_path / "new" / "mlflow.db").is_file()
    (tmp_path / "images").touch()
    for line, variable in (('data_dir = "~/images"\n', "/elsewhere"), ("", "~/images")):
        file.write_text(f'store = "~/new"\ndata = "kmnist"\n{line}')
        monkeypatch.setenv("STUDY_DATA_DIR", variable)
        code, _, errors = call("run", capsys, "~/mine.toml")
        assert code == 2
        assert f"{tmp_path}/images" in errors
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
        assert code == 2
        assert f"must be a path, but got {nobody}" in errors
