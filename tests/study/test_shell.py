"""What the shell and the terminal do to a command: signals, encodings, closed outputs, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from commands import MAINS, call
from conftest import ROOT, Command
from pictures import letters as drawn
from studies import Studies

from study import run
from study.cli import exit_code, words
from study.terminal import Output
from tracking.store import read_store

WAITING = (
    "import sys, time\nfrom study.cli import exit_code\n"
    "def wait():\n    print('ready', flush=True)\n    time.sleep(float(sys.argv[1]))\n    print('done', flush=True)\n"
    "sys.exit(exit_code(wait))"
)


def start(*words: str, handling: Any = signal.SIG_DFL, **options: Any) -> subprocess.Popen[str]:
    """A process in a group of its own, in which SIGHUP is handled so from the start."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handling),
        **options,
    )


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT", "SIGXCPU", "SIGUSR1", "SIGUSR2"])
def test_every_signal_that_ends_a_process_stops_a_command(name: str) -> None:
    process = start("-c", WAITING, "300")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "\nstopped; the same command goes on from here\n"


def test_a_closed_terminal_does_not_stop_what_nohup_started() -> None:
    process = start("-c", WAITING, "1", handling=signal.SIG_IGN)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "done\n", "")


def test_handlers_of_the_calling_program_stay_and_come_back() -> None:
    def theirs(*_: object) -> None: ...

    before = signal.signal(signal.SIGUSR1, theirs)
    try:
        inside: list[Any] = []
        assert exit_code(lambda: inside.append(signal.getsignal(signal.SIGUSR1))) == 0
        assert inside == [theirs]
        assert signal.getsignal(signal.SIGUSR1) is theirs
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_closed_terminal_ends_the_runs_of_all_workers(tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["smoke", "--data", "digits", "--stages", "judge", "--judge.epochs", "500"]
    process = start("-m", "study.run", *arguments, "--workers", "2", "--store", str(store))
    assert process.stderr is not None
    began: set[str] = set()
    for _ in range(1500):
        if (store / "optuna.db").exists():
            read_store(store)
            client = mlflow.MlflowClient()
            experiments = [each.experiment_id for each in client.search_experiments()]
            found = client.search_runs(experiments, "metrics.`train/loss` > 0")
            began = {each.info.run_id for each in found}
        if len(began) == 2:
            break
        threading.Event().wait(0.2)
    assert len(began) == 2
    assert process.stdout is not None
    for output in (process.stdout, process.stderr):  # The terminal is gone: whatever is written to it fails.
        output.close()
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(300) == 130
    read_store(store)
    client = mlflow.MlflowClient()
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert [each.info.status for each in runs] == ["KILLED"] * 3


@pytest.mark.parametrize("module", MAINS)
def test_a_command_can_be_called_from_a_thread(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    flags = ("--dry-run",) if module == "run" else ("--out", tmp_path / "no" / "a.png")
    thread = threading.Thread(target=lambda: codes.append(call(module, capsys, "--store", tmp_path, *flags)[0]))
    thread.start()
    thread.join(60)
    assert codes == [0 if module == "run" else 2]


def test_a_whole_stage_runs_in_a_thread(studies: Studies, letters: Path) -> None:
    codes: list[int] = []
    arguments = ["smoke", "--data", str(letters), "--stages", "judge", "--judge.epochs", "1", "--quiet"]
    arguments += ["--store", str(studies.store)]
    thread = threading.Thread(target=lambda: codes.append(run.main(arguments)))
    thread.start()
    thread.join(300)
    assert codes == [0]
    assert [each.info.status for each in studies.parents("judge")] == ["FINISHED"] * 2


ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.mark.parametrize("env", ASCII)
def test_what_an_output_cannot_show_is_replaced(env: dict[str, str]) -> None:
    code = (
        "import sys\nfrom tqdm import tqdm\nfrom study.cli import exit_code, set_log_level\nimport logging\n"
        "def show():\n"
        "    set_log_level('info')\n"
        "    print('0.5 \\u00b1 0.1 \\u2026 Gr\\u00f6\\u00dfe \\udcff')\n"
        "    logging.getLogger('study').info('0.5 \\u00b1 0.1')\n"
        "    for _ in tqdm(range(3), desc='\\u00b1'): pass\n"
        "sys.exit(exit_code(show))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **env}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"0.5 +- 0.1 ... Gr??e ?\n"
    assert b"Traceback" not in done.stderr
    assert b"Logging error" not in done.stderr


def test_a_study_and_its_names_in_a_terminal_of_ascii(command: Command, tmp_path: Path) -> None:
    env = ASCII[1]
    (x_train, y_train), (x_test, y_test) = drawn(30, 0, "ABC"), drawn(10, 1, "ABC")
    arrays: dict[str, Any] = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(tmp_path / "letters.npz", class_names=np.array(["Größe L", "漢字", "±…"]), **arrays)
    store = tmp_path / "store"
    flags = ("--stages", "judge", "--judge.epochs", "2", "--judge.batch-size", "32")
    done = command("study.run", "smoke", "--data", tmp_path / "letters.npz", *flags, "--store", store, env=env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    done = command("study.report", "--store", store, "--out", tmp_path / "r.html", env=env)
    assert done.returncode == 0, done.stderr
    done = command("study.run", "--help", env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--dry-run"]])
def test_a_reader_that_has_left_is_no_error(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "study.run", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")


def test_work_goes_on_when_nobody_reads_its_messages() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    code = (
        "import sys\nfrom tqdm import tqdm\nfrom study.cli import exit_code, set_log_level\nimport logging\n"
        "def show():\n"
        "    set_log_level('info')\n"
        "    for _ in tqdm(range(3)): logging.getLogger('study').info('here'); tqdm.write('a line', file=sys.stderr)\n"
        "    print('all done')\n"
        "sys.exit(exit_code(show))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (0, "all done\n")


def test_a_full_disk_under_the_output_is_said(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "study.run", "--dry-run"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stderr == "warning: the output could not be written: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_are_no_error_and_no_database_takes_their_place(closed: str, tmp_path: Path) -> None:
    opens = "with open(sys.argv[1], 'w') as file: print('here', file=sys.stderr), print('here'), file.write('data')"
    code = f"import sys\nfrom study.cli import exit_code\ndef show():\n    {opens}\nsys.exit(exit_code(show))"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, code, str(tmp_path / "file")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "data"
    assert "Traceback" not in done.stderr


def test_the_callers_streams_come_back() -> None:
    before = sys.stdout, sys.stderr
    assert exit_code(lambda: None) == 0
    assert (sys.stdout, sys.stderr) == before
    assert Output(before[0]).encoding == before[0].encoding


@pytest.mark.parametrize("module", MAINS)
def test_bytes_that_the_terminal_cannot_read(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = call(module, capsys, "--store", "st\udcf6re")
    assert code == 2
    assert errors.startswith(r"error: 'st\udcf6re' cannot be read in this terminal's encoding, ")
    assert words(["störe"]) == ["störe"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_while_workers_start_says_one_sentence(tmp_path: Path) -> None:
    """A terminal sends it to all processes at once; those that are still importing say nothing."""
    arguments = ["smoke", "--data", "digits", "--stages", "judge", "--judge.epochs", "500", "--workers", "4"]
    process = start("-m", "study.run", *arguments, "--store", str(tmp_path / "store"))
    for _ in range(6000):
        if len(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()) > 1:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.3)  # Python has started, and is importing
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.count("stopped; the same command goes on from here") == 1
