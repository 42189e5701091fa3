"""Worker processes: how many fit, what they are given and refuse, and what keeps them alive."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import no_hang
from servers import until

from study import run
from study.checks import UsageError
from study.engine import workers
from study.engine.workers import JobSpec, WorkerPool, free_memory, job_spec, local_workers, wanted

GIB = 2**30
MACHINES = [(2, 64, "", 2), (8, 64, "4", 2), (8, 64, "many", 8), (8, 5.5, "", 2), (8, 0.5, "", 1), (128, 1024, "", 16)]
V1, V2 = "memory/memory.limit_in_bytes", "memory.max"  # a container's file, by the version of cgroups
LIMITS = [("none", "", 64), (V2, 6 * GIB, 6), (V2, "max", 64), (V1, 2 * GIB, 2), (V1, 2**63 - 4096, 64)]
SPEC = JobSpec("smoke", ["smoke", "--data", "digits"], "0" * 16, workers.code())
OTHER_SPECS = [
    ({"code": "0123, Python 2.7"}, "its code is .*, Python 3.*, the command's is 0123, Python 2.7"),
    ({}, "its data is .*, the command's is 0000000000000000"),
    ({"arguments": ["smoke", "--data", "/nowhere.npz"]}, "/nowhere.npz"),
]


@pytest.mark.parametrize(("cores", "gib", "threads", "expected"), [*MACHINES, (4, float("inf"), "", 4)])
def test_workers_fit_cores_and_memory(cores: int, gib: float, threads: str, expected: int, monkeypatch) -> None:
    monkeypatch.delenv("STUDY_WORKERS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr(workers, "free_memory", lambda: gib * GIB)
    found = [wanted(*given, "local") for given in (("auto", "cpu"), ("auto", "cuda"), (3, "cpu"))]
    assert found == [expected, 1, 3]
    monkeypatch.setenv("STUDY_WORKERS", "7")
    assert wanted("auto", "cuda", "slurm") == 7
    for given in ("none", "0", "-2", "²"):
        monkeypatch.setenv("STUDY_WORKERS", given)
        with pytest.raises(UsageError, match=f"STUDY_WORKERS .*'{given}'"):
            wanted("auto", "cpu", "local")


@pytest.mark.parametrize(("file", "limit", "expected"), LIMITS)
def test_a_containers_memory_is_the_machines(file: str, limit: object, expected: int, tmp_path: Path) -> None:
    meminfo = f"MemTotal: 1 kB\nMemAvailable: {64 * 2**20} kB\n"
    files = {"proc/meminfo": meminfo, f"sys/fs/cgroup/{file}": f"{limit}\n"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert free_memory(tmp_path) == expected * GIB
    assert 0 < free_memory() < float("inf"), "this machine's"


@pytest.mark.parametrize(("changes", "message"), OTHER_SPECS)
def test_a_worker_refuses_what_is_not_the_commands(changes: dict, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    spec = replace(SPEC, **changes)  # type: ignore[arg-type]
    spec = replace(spec, arguments=[*spec.arguments, "--stages", "judge", "--store", str(tmp_path / "store")])
    monkeypatch.setenv("STUDY_WORKER", spec.environment["STUDY_WORKER"])
    assert job_spec() == spec
    assert "STUDY_WORKER" not in os.environ, "not for processes that it starts"
    with pytest.raises(UsageError, match=f"the worker on n7 refuses: .*{message}"):
        run.work(spec)


def test_a_worker_that_starts_while_the_database_is_away_is_to_be_started_again(tmp_path: Path, capsys) -> None:
    places = ["--store", str(tmp_path / "store"), "--storage", "postgresql://127.0.0.1:1/study"]
    with no_hang(), pytest.raises(SystemExit) as ended:
        run.work(replace(SPEC, arguments=[*SPEC.arguments, *places]))
    assert ended.value.code == workers.TRY_AGAIN
    assert "refused" in capsys.readouterr().err


def pool(monkeypatch: pytest.MonkeyPatch, code: str, count: int = 1) -> WorkerPool:
    """Workers that run this code in place of a study."""
    monkeypatch.setattr(workers, "COMMAND", ["-c", code])
    monkeypatch.setattr(workers, "PAUSE", 0.1)
    made = WorkerPool(count, {"ANSWER": "42"})
    made.start()
    return made


def test_a_worker_that_is_killed_or_loses_its_servers_is_started_again(tmp_path: Path, monkeypatch) -> None:
    code = f"""
import os, signal, sys, tempfile
tempfile.mkstemp(dir={str(tmp_path)!r})
before = len(os.listdir({str(tmp_path)!r}))
if before == 1: os.kill(os.getpid(), signal.SIGKILL)
sys.exit({workers.TRY_AGAIN} if before == 2 else int(os.environ["ANSWER"]))
"""
    with no_hang():
        (started := pool(monkeypatch, code)).join()
    assert (started.codes, len(list(tmp_path.iterdir()))) == ([42], 3)


def test_workers_are_stopped_once_and_those_that_do_not_listen_are_killed(tmp_path: Path, monkeypatch) -> None:
    code = f"""
import os, signal, sys, time
file = os.path.join({str(tmp_path)!r}, str(os.getpid()))
signal.signal(signal.SIGTERM, lambda *_: open(file, "a").write("x"))
open(file, "w").close()
while True: time.sleep(0.1)
"""
    monkeypatch.setattr(workers, "STOPPING", 1.0)
    with no_hang():
        started = pool(monkeypatch, code, 2)
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        started.stop()
    found = {(file.read_text(), Path(f"/proc/{file.name}").exists()) for file in tmp_path.iterdir()}
    assert found == {("x", False)}


def test_ctrl_c_while_workers_start_is_not_lost(monkeypatch) -> None:
    start, pools = WorkerPool._start, list[WorkerPool]()

    def interrupted(started: WorkerPool) -> subprocess.Popen[bytes]:
        if not pools:
            os.kill(os.getpid(), signal.SIGINT)
        pools.append(started)
        return start(started)

    monkeypatch.setattr(WorkerPool, "_start", interrupted)
    monkeypatch.setattr(workers, "COMMAND", ["-c", "import time; time.sleep(600)"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where `&` has started the tests
    try:
        with no_hang(), pytest.raises(KeyboardInterrupt), local_workers(2, {}):
            time.sleep(600)
    finally:
        signal.signal(signal.SIGINT, before)
    assert all(process.poll() is not None for process in pools[0]._processes)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_worker_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    worker = """
import os, sys, time
from study.engine.workers import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(600)
"""
    command = f"""
import time
from study.engine import workers
workers.COMMAND = ["-c", {worker!r}]
workers.WorkerPool(2, {{}}).start()
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as process, no_hang():
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
