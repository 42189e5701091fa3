"""Workers on an engine: settings and mistakes, what a worker is given and refuses; no cluster is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import call
from conftest import Command, no_hang

from study.cli import command_of, parse_study
from study.engine import capacity, ray
from study.engine.launcher import Launcher
from study.engine.order import Order
from study.engine.workers import keep_alive

SERVERS = ["--tracking-uri", "http://h:1", "--storage", "postgresql://u:s3cret@h/d"]
SLURM = ["--launcher", "slurm", "--workers", "2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [*SLURM],
            "--tracking-uri must be the http(s) address of an MLflow server where workers run on other machines",
        ),
        (
            [*SLURM, "--tracking-uri", "http://h:1", "--storage", "sqlite:////tmp/optuna.db"],
            "--storage must be a postgresql:// URL where workers run on other machines, but got 'sqlite:////tmp/optuna.db'",
        ),
        ([*SLURM, "--launcher.address", "h:6379"], "--launcher.address is for --launcher ray, not for slurm"),
        (["--launcher", "ray", "--workers", "2", "--launcher.time", "60"], "--launcher.time is for --launcher slurm"),
        (["--detach"], "--launcher.detach is for --launcher slurm or ray, not for local"),
        ([*SLURM[:2], "--workers", "auto"], "--workers must be a number with --launcher slurm, but got auto"),
        (
            ["--launcher", "ray", "--launcher.gpus", "0.25", "--workers", "6"],
            "--workers must be a multiple of 4, which share a GPU, with --launcher ray, but got 6",
        ),
        ([*SLURM, *SERVERS], "--launcher slurm needs Slurm's commands on this machine, but there is no sbatch"),
        (
            ["--launcher", "ray", "--workers", "2", *SERVERS, "--launcher.address", "127.0.0.1:1"],
            "Ray's head 127.0.0.1:1 does not answer: start the cluster, or correct --launcher.address",
        ),
        (
            ["--launcher", "ray", "--workers", "2", *SERVERS, "--launcher.address", "ray://h:10001"],
            "--launcher.address must be host:port of Ray's head, but got 'ray://h:10001'",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_begins(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("STUDY_WORKERS")
    with no_hang():
        code, out, errors = call("run", capsys, "smoke", *flags, "--store", tmp_path / "store")
    (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message in error
    assert (code, out) == (2, "")
    assert "s3cret" not in errors
    assert not (tmp_path / "store").exists()


def test_ray_is_an_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    code, _, errors = call("run", capsys, "--launcher", "ray", "--workers", 2, *SERVERS)
    assert code == 2
    assert errors == "error: --launcher ray needs Ray, which is not installed: pip install -e '.[ray]'\n"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("cpus", "0"), ("gpus", "2"), ("gpus", "-1"), ("memory", "0"), ("extra", "a=1\nrm -r x"), ("engine", "lsf")],
)
def test_impossible_settings(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = call("run", capsys, f"--launcher.{flag}={value}")
    assert code == 2
    assert "Traceback" not in errors


def test_flags_and_files_of_settings(tmp_path: Path) -> None:
    flags = [
        "--launcher",
        "slurm",
        "--launcher.cpus",
        "4",
        "--launcher.gpus",
        "0.5",
        "--launcher.extra",
        "account=a",
        "qos=b",
        "--detach",
    ]
    _, config = parse_study(flags)
    wanted = Launcher(engine="slurm", cpus=4, gpus=0.5, extra=("account=a", "qos=b"), detach=True)
    assert config.launcher == wanted
    assert wanted.sharing == 2
    file = tmp_path / "mine.toml"
    file.write_text(
        '[launcher]\nengine = "slurm"\ncpus = 4\ngpus = 0.5\nextra = ["account=a", "qos=b"]\ndetach = true\n'
    )
    assert parse_study([str(file)])[1].launcher == wanted
    assert command_of("demo", config) == "python -m study.run demo", "where it runs is no part of what it computes"


def order(**changes: object) -> Order:
    made = Order.of_this_command(["smoke", "--data", "digits"], "0" * 16, cpus=1)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_order_holds_secrets_and_only_its_owner_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HARMLESS"):
        monkeypatch.setenv(name, "x")
    made, file = order(), tmp_path / "order.json"
    assert made.environment.keys() >= {"MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"}
    assert made.environment["OMP_NUM_THREADS"] == "1"
    assert "HARMLESS" not in made.environment
    before = os.umask(0)
    try:
        made.write(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Order.read(file) == made
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"code": "other", "commit": "commit abc"},
            "its code is commit .*, the command's is commit abc: install the same",
        ),
        ({"versions": "Python 2.7"}, "it has Python 3.*, the command Python 2.7: install the same on every node"),
        ({"versions": "Python 2.7", "allow_mixed": True}, "its data digits are others than the command's"),
        ({"arguments": ["smoke", "--data", "/nowhere.npz"]}, "/nowhere.npz"),
    ],
)
def test_a_worker_refuses_what_is_not_the_commands(
    changes: dict[str, object], message: str, tmp_path: Path, command: Command
) -> None:
    """The program that Slurm starts, with a store of its own in place of servers."""
    made = order(**changes)
    made = replace(made, arguments=[*made.arguments, "--store", str(tmp_path / "store")])
    made.write(tmp_path / "order.json")
    done = command("study.worker", tmp_path / "order.json", env={"SLURMD_NODENAME": "n7"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: the worker on n7 refuses: ")
    assert re.search(message, done.stderr), done.stderr


def test_no_order_is_told(tmp_path: Path, command: Command) -> None:
    (tmp_path / "order.json").write_text(json.dumps({"arguments": []}))
    done = command("study.worker", tmp_path / "order.json")
    assert done.returncode == 2
    assert "must be an order that a launcher has written" in done.stderr


def _die_twice(folder: Path) -> int:
    number = len(list(folder.iterdir()))
    (folder / str(number)).touch()
    if number < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with no_hang():
        assert keep_alive(1, _die_twice, tmp_path, threading.Event()) == 7
    assert len(list(tmp_path.iterdir())) == 3


def _wait(file: Path) -> int:
    file.write_text(str(os.getpid()))
    time.sleep(600)
    return 0


def test_workers_are_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    file = tmp_path / "worker"

    def stop_it() -> None:
        while not (file.exists() and file.read_text()):
            time.sleep(0.1)
        stop.set()

    threading.Thread(target=stop_it).start()
    with no_hang():
        keep_alive(1, _wait, file, stop)
    assert not Path(f"/proc/{file.read_text()}").exists()


@pytest.mark.parametrize(("device", "share", "expected"), [("cuda", 0.25, [0.25]), ("cuda", 1, []), ("cpu", 0.25, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    device: str, share: float, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: asked.append(share))
    capacity.share_gpu(torch.device(device), share)
    assert asked == expected
