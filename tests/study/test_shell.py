"""What the shell and the terminal do to a command: signals, encodings, lost outputs, threads, hidden packages."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from commands import MAINS, Call, Done
from conftest import ROOT

from study.cli import INTERRUPTED, exit_code, set_log_level

ENV = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
PIPES = {"cwd": ROOT, "env": ENV, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
STOPPED = "\nstopped; the same command goes on from here\n"
SIGNALS = [
    ("SIGHUP", signal.SIG_DFL, (INTERRUPTED, "", STOPPED)),
    ("SIGTERM", signal.SIG_DFL, (INTERRUPTED, "", STOPPED)),
    ("SIGINT", signal.SIG_DFL, (INTERRUPTED, "", STOPPED)),
    ("SIGHUP", signal.SIG_IGN, (0, "done\n", "")),  # a closed terminal does not stop what nohup started
]


def code_of(body: str) -> list[str]:
    """A process in which `exit_code` runs these statements."""
    return [sys.executable, "-c", f"import sys\nfrom study import cli\nsys.exit(cli.exit_code(lambda: exec({body!r})))"]


def finish(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, **{**PIPES, **options})


@pytest.mark.parametrize(("name", "handling", "expected"), SIGNALS)
def test_a_signal_stops_a_command_with_one_sentence(name: str, handling: Any, expected: tuple[int, str, str]) -> None:
    seconds = 0.5 if handling == signal.SIG_IGN else 300
    waiting = code_of(f"print('ready', flush=True); import time; time.sleep({seconds}); print('done')")
    number = getattr(signal, name)
    before = {"start_new_session": True, "preexec_fn": lambda: signal.signal(number, handling) and None}
    with subprocess.Popen(waiting, **{**PIPES, **before}) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert (process.wait(60), *process.communicate()) == (expected[0], *expected[1:])


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

    assert (exit_code(command), ended, capsys.readouterr().err) == (INTERRUPTED, [True], STOPPED)
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


@pytest.mark.parametrize("module", MAINS)
def test_every_command_from_a_thread_and_misused(module: str, called: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1")  # of a narrow terminal: the help took minutes and gigabytes
    done: list[Done] = []
    thread = threading.Thread(target=lambda: done.append(called(module, "--help")))
    thread.start()
    thread.join(60)
    assert (done[0].code, "--help" in done[0].out) == (0, True)
    assert called(module, "--nonsense", "1").error
    assert r"'st\udcf6re' cannot be read as " in called(module, "--store", "st\udcf6re").error


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_what_an_output_cannot_show_is_replaced(env: dict[str, str]) -> None:
    body = r"cli.set_log_level('info'); cli.logging.getLogger('study').info('\u00b1'); print('0.5 \u00b1 \udcff')"
    done = finish(code_of(f"from study import cli; {body}"), env=ENV | env | {"PYTHONCOERCECLOCALE": "0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.5 ? ?\n", "?\n")


def test_lost_outputs_are_no_error(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = finish([sys.executable, "-m", "study.run", "--help"], stdout=theirs)
    assert (done.returncode, done.stderr) == (0, ""), "a reader that has left"
    log = "from study import cli; cli.set_log_level('info'); cli.logging.getLogger('study').info('x'); print('done')"
    done = finish(code_of(log), stderr=theirs)
    assert (done.returncode, done.stdout) == (0, "done\n"), "work goes on when nobody reads its messages"
    os.close(theirs)
    with open("/dev/full", "w") as full:
        done = finish(code_of("print('x')"), stdout=full)
    assert (done.returncode, "could not be written: No space left on device" in done.stderr) == (0, True)
    writing = "with open(sys.argv[1], 'w') as file: print('x', file=sys.stderr), print('x'), file.write('data')"
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = finish(["bash", "-c", f'"$@" {closed}', "bash", *code_of(writing), str(tmp_path / "file")])
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        assert (tmp_path / "file").read_text() == "data", "no database takes their place"


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


def test_a_bug_and_what_cannot_be_imported(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for number, error in enumerate(("OSError('cannot map')", "MemoryError()", "ImportError")):
        (tmp_path / f"broken{number}.py").write_text(f"raise {error}\n")
        assert exit_code(lambda number=number: __import__(f"broken{number}")) == 2
        assert "error: a package cannot be loaded: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="a bug"):
        exit_code(lambda: int("a bug"))


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
