"""What the shell and the terminal do to a command: signals, encodings, lost outputs, threads, hidden packages."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest
from commands import MAINS, call
from conftest import ROOT

from study.checks import UsageError
from study.cli import INTERRUPTED, exit_code, set_log_level, words
from tracking.store import read_store

ENV = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
WAITING = "print('ready', flush=True); import time; time.sleep(float(sys.argv[1])); print('done')"
STOPPED = "\nstopped; the same command goes on from here\n"


def code_of(body: str) -> list[str]:
    """A process in which `exit_code` runs these statements."""
    return [sys.executable, "-c", f"import sys\nfrom study import cli\nsys.exit(cli.exit_code(lambda: exec({body!r})))"]


def finish(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    given = {"cwd": ROOT, "env": ENV, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.run(command, **given)


def start(command: list[str], handling: Any = signal.SIG_DFL) -> subprocess.Popen[str]:
    """A process in a group of its own, in which SIGHUP is handled so from the start."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handling),
    )


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_stops_a_command_with_one_sentence(name: str) -> None:
    process = start([*code_of(WAITING), "300"])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (INTERRUPTED, STOPPED)


def test_a_closed_terminal_does_not_stop_what_nohup_started() -> None:
    process = start([*code_of(WAITING), "0.5"], handling=signal.SIG_IGN)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "done\n", "")


def test_a_second_signal_does_not_cut_off_the_end_and_handlers_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    ended = []

    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.01)
            ended.append(True)

    assert exit_code(command) == INTERRUPTED
    assert ended
    assert capsys.readouterr().err == STOPPED
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_in_the_middle_of_an_import_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else packages swallow it, or end in an error of their own."""
    (tmp_path / "slow_package.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.3)\n"
        "except KeyboardInterrupt:\n    pass\ndone = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def command() -> None:
        import slow_package

        assert slow_package.done
        threading.Event().wait(60)

    assert exit_code(command) == INTERRUPTED


@pytest.mark.slow
def test_a_closed_terminal_ends_the_runs_of_all_workers(tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["smoke", "--data", "digits", "--stages", "judge", "--judge.epochs", "500", "--workers", "2"]
    process = start([sys.executable, "-m", "study.run", *arguments, "--store", str(store)])
    assert process.stdout is not None
    assert process.stderr is not None

    def runs(condition: str) -> list[mlflow.entities.Run]:
        read_store(store)
        client = mlflow.MlflowClient()
        return list(client.search_runs([each.experiment_id for each in client.search_experiments()], condition))

    for _ in range(1500):
        if (store / "optuna.db").exists() and len(runs("metrics.`train/loss` > 0")) == 2:
            break
        threading.Event().wait(0.2)
    for output in (process.stdout, process.stderr):  # The terminal is gone: whatever is written to it fails.
        output.close()
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(300) == INTERRUPTED
    assert [each.info.status for each in runs("")] == ["KILLED"] * 3


@pytest.mark.parametrize("module", MAINS)
def test_a_command_can_be_called_from_a_thread(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    flags = ("--dry-run",) if module == "run" else ("--help",)
    thread = threading.Thread(target=lambda: codes.append(call(module, capsys, "--store", tmp_path, *flags)[0]))
    thread.start()
    thread.join(60)
    assert codes == [0]


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_what_an_output_cannot_show_is_replaced(env: dict[str, str]) -> None:
    body = r"cli.set_log_level('info'); cli.logging.getLogger('study').info('\u00b1'); print('0.5 \u00b1 \udcff')"
    done = finish(code_of(f"from study import cli; {body}"), env=ENV | env | {"PYTHONCOERCECLOCALE": "0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.5 ? ?\n", "?\n")


def test_lost_outputs_are_no_error(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "study.run", "--help"]
    done = finish(command, stdout=theirs)
    assert (done.returncode, done.stderr) == (0, ""), "a reader that has left"
    log = "from study import cli; cli.set_log_level('info'); cli.logging.getLogger('study').info('x'); print('done')"
    done = finish(code_of(log), stderr=theirs)
    assert (done.returncode, done.stdout) == (0, "done\n"), "work goes on when nobody reads its messages"
    os.close(theirs)
    with open("/dev/full", "w") as full:
        done = finish(code_of("print('x')"), stdout=full)
    assert done.returncode == 0
    assert "the output could not be written: No space left on device" in done.stderr
    writing = "with open(sys.argv[1], 'w') as file: print('x', file=sys.stderr), print('x'), file.write('data')"
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        command = ["bash", "-c", f'"$@" {closed}', "bash", *code_of(writing), str(tmp_path / "file")]
        done = finish(command)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        assert (tmp_path / "file").read_text() == "data", "no database takes their place"


@pytest.mark.parametrize("module", MAINS)
def test_bytes_that_the_terminal_cannot_read(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = call(module, capsys, "--store", "st\udcf6re")
    assert code == 2
    assert errors.startswith(r"error: 'st\udcf6re' cannot be read as ")
    assert words(["störe", "漢"]) == ["störe", "漢"]


@pytest.mark.parametrize("columns", ["1", "4"])
def test_help_in_a_narrow_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took minutes and gigabytes."""
    monkeypatch.setenv("COLUMNS", columns)
    assert call("run", capsys, "--help")[0] == 0


def test_logging_of_the_calling_program_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    theirs, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(theirs)
    before = root.handlers[:], root.level
    for _ in range(2):
        set_log_level("info")
    logging.getLogger("study").info("once")
    assert (root.handlers, root.level) == before
    root.removeHandler(theirs)
    assert capsys.readouterr().err == "once\n"


def test_a_users_mistake_a_bug_and_what_cannot_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for number, error in enumerate(
        ("OSError('cannot map')", "MemoryError()", "RuntimeError('no home')", "ImportError")
    ):
        (tmp_path / f"broken{number}.py").write_text(f"raise {error}\n")
        assert exit_code(lambda number=number: __import__(f"broken{number}")) == 2
        assert "error: a package cannot be loaded: " in capsys.readouterr().err

    def fail(error: Exception) -> None:
        raise error

    assert exit_code(lambda: fail(UsageError("a mistake"))) == 2
    assert capsys.readouterr().err == "error: a mistake\n"
    with pytest.raises(ValueError, match="a bug"):
        exit_code(lambda: fail(ValueError("a bug")))


def test_without_a_home_folder_and_an_entry_in_passwd() -> None:
    lines = "import os, pwd; os.environ.pop('HOME', None); pwd.getpwuid = {}.__getitem__; import tracking"
    done = finish([sys.executable, "-c", f"{lines}; from pathlib import Path; print(Path.home())"])
    assert (done.returncode, done.stdout) == (0, "/\n"), done.stderr


@pytest.mark.parametrize("name", ["models/__init__.py", "tracking.py", "models/weights.bin"])
def test_a_folder_that_hides_a_package_of_ours_is_named(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("raise SystemError('this is not ours')\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}" if place.suffix == ".py" else str(ROOT)
    done = finish([sys.executable, "-m", "study.run", "--dry-run"], cwd=tmp_path, env=ENV | {"PYTHONPATH": path})
    if place.suffix == ".bin":  # a folder of files hides no installed package
        assert done.returncode == 0, done.stderr
        return
    hides = f"{tmp_path / name.split('/')[0]} hides the package {name[:-3].split('/')[0]!r}"
    assert (done.returncode, done.stderr.startswith(f"error: {hides}")) == (2, True), done.stderr
    assert done.stderr.count("\n") == 1
    done = finish([sys.executable, "-c", "import study"], cwd=tmp_path)
    assert f"ImportError: {hides}" in done.stderr


def test_a_folder_that_was_deleted(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = finish(["bash", "-c", 'rmdir "$PWD"; exec "$0" -m study.run --dry-run', sys.executable], cwd=gone)
    assert (done.returncode, done.stderr) == (2, "error: the current folder was deleted: run from another one\n")
