"""How many workers fit: bound processes, real control groups, and the files of a container that is not there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from study.engine.capacity import Capacity, capacity

GIB = 2**30
PLAN = [sys.executable, "-m", "study.run", "--dry-run", "--device", "cpu"]


def planned(*before: str, **environment: str) -> int:
    """The workers of a study that is planned in a process of its own."""
    others = {name: value for name, value in os.environ.items() if name not in ("STUDY_WORKERS", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [*before, *PLAN], cwd=ROOT, env=others | environment, capture_output=True, text=True, check=True
    )
    found = re.search(r"^workers: (\d+) ", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[1])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot bind a process to a core")
def test_a_process_that_is_bound_to_one_core_is_one_worker() -> None:
    core = min(os.sched_getaffinity(0))
    assert planned("taskset", "-c", str(core)) == 1
    assert planned() == capacity().workers({})


def test_the_environment_decides_before_the_machine(capfd: pytest.CaptureFixture[str]) -> None:
    assert planned(STUDY_WORKERS="7") == 7
    assert planned(OMP_NUM_THREADS="1000") == 1
    for wrong in ("none", "0", "-2", "²"):
        done = subprocess.run(
            PLAN, cwd=ROOT, env={**os.environ, "STUDY_WORKERS": wrong}, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: STUDY_WORKERS must be a number from 1, but got {wrong!r}\n"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of our own, of version 1, that may use one core and a half."""
    folder = Path(f"/sys/fs/cgroup/cpu/study-test-{os.getpid()}")
    try:
        folder.mkdir()
        (folder / "cpu.cfs_quota_us").write_text("150000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    folder.rmdir()


def test_a_real_control_group_limits_the_workers(group: Path) -> None:
    assert planned("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh") == 1


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """The files of a Linux machine with 64 GiB of free memory."""
    for name, text in {"proc/meminfo": "MemTotal: 1 kB\nMemAvailable: 67108864 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    return root


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(48)), raising=False)


CONTAINERS = {
    "none": ("0::/\n", {}, 48, 64 * GIB),
    "version 2, in the group itself": (
        "0::/\n",
        {"sys/fs/cgroup/cpu.max": "350000 100000\n", "sys/fs/cgroup/memory.max": f"{6 * GIB}\n"},
        3,
        6 * GIB,
    ),
    "version 2, no limit": (
        "0::/\n",
        {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"},
        48,
        64 * GIB,
    ),
    "version 2, in a group above": (
        "0::/user.slice/job 7/step\n",
        {
            "sys/fs/cgroup/user.slice/job 7/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/user.slice/job 7/step/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/job 7/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/user.slice/job 7/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/user.slice/job 7/memory.stat": f"anon {3 * GIB}\ninactive_file {2 * GIB}\n",
        },
        2,
        5 * GIB,
    ),
    "version 1, where the path is the host's": (
        "4:memory:/docker/0a\n3:cpu,cpuacct:/docker/0a\n",
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        },
        4,
        2 * GIB,
    ),
    "version 1, no limit": (
        "4:memory:/\n3:cpu,cpuacct:/\n",
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
        },
        48,
        64 * GIB,
    ),
    "half a core": ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, 64 * GIB),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.usefixtures("many_cores")
def test_a_containers_limits_are_the_machines(container: str, tmp_path: Path) -> None:
    groups, files, cores, memory = CONTAINERS[container]
    assert capacity(system(tmp_path, groups, files)) == Capacity(cores, memory)


@pytest.mark.parametrize(
    ("machine", "environment", "workers"),
    [
        (Capacity(2, 64 * GIB), {}, 2),
        (Capacity(8, 64 * GIB), {"OMP_NUM_THREADS": "4"}, 2),
        (Capacity(8, 64 * GIB), {"OMP_NUM_THREADS": "many"}, 8),
        (Capacity(8, 4 * GIB), {}, 2),
        (Capacity(8, 0.5 * GIB), {}, 1),
        (Capacity(128, 1024 * GIB), {}, 16),
        (Capacity(4, float("inf")), {}, 4),
    ],
)
def test_workers_fit_cores_and_memory(machine: Capacity, environment: dict[str, str], workers: int) -> None:
    assert machine.workers(environment) == workers
    assert "inf" not in str(machine)


@pytest.mark.parametrize(
    ("entry", "environment", "spins"),
    [
        *((entry, {}, "1000") for entry in ("study.run", "study.sample", "study.report.__main__", "conftest")),
        ("study", {"GOMP_SPINCOUNT": "77"}, "77"),
        ("study", {"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
)
def test_openmp_is_told_before_pytorch_is_loaded(entry: str, environment: dict[str, str], spins: str) -> None:
    """OpenMP itself says what it was told."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    told = {**kept, "OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT / "tests"), **environment}
    code = f"import {entry}, torch; print(torch.backends.openmp.is_available())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not found:
        pytest.skip("PyTorch has another OpenMP here than GNU's")
    assert set(found) == {spins}
